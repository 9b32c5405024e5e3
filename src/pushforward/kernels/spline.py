"""Rational-quadratic splines in one pass; the reference is ``transforms.spline.Spline`` written with tensor operations.

Parameters (rows, 3K − 1, D) are read once: softmax, the search for the bin, the curve in that bin alone and its slope.
Numbers are worked on in blocks of ``L`` side by side, and all that is known of a block lies in one scratch array, quantity
q of lane i at q · L + i. With q, L and i unsigned and L constant the compiler sees that no step overwrites what another
reads, and makes vector code of every loop. The gradient recomputes what it needs instead of having it stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops, log, sigmoid, softplus
from pushforward.kernels.threads import TASK, constant, cube, edge, matrix, opened, run_rows, take, vector

U = np.uint64
_0, _1, _2 = U(0), U(1), U(2)
L = U(256)  # a block's scratch stays in the caches of a core
# quantities of a lane: the value and the value within bounds, left knot and width of its bin on both axes, both slopes'
# parameters
VALUE, HELD, AT, WIDE, AT2, WIDE2, RAW0, RAW1 = U(0), U(1), U(2), U(3), U(4), U(5), U(6), U(7)
# running left knots, the result's slope; gradients by all of these; shares of the softmaxes left of the bin and of the bin
# itself
LEFT, LEFT2, SLOPE, GZ, GV = U(8), U(9), U(10), U(11), U(12)
G_AT, G_WIDE, G_AT2, G_WIDE2, G_D0, G_D1 = U(13), U(14), U(15), U(16), U(17), U(18)
SHARE, OWN, SHARE2, OWN2 = U(19), U(20), U(21), U(22)
Q = U(23)  # parameters come after: widths Q …, heights Q + K …, slopes Q + 2K …


@njit(**lane_loops)
def _softmax(s: Any, first: Any, last: Any, n: Any) -> None:
    """Quantities ``first`` … ``last`` − 1 become their softmax."""
    for i in range(n):
        s[LEFT * L + i] = s[first * L + i]
    for k in range(first + _1, last):
        for i in range(n):
            s[LEFT * L + i] = max(s[LEFT * L + i], s[k * L + i])
    for k in range(first, last):
        for i in range(n):
            s[k * L + i] = exp(s[k * L + i] - s[LEFT * L + i])
    for i in range(n):
        s[LEFT * L + i] = s[first * L + i]
    for k in range(first + _1, last):
        for i in range(n):
            s[LEFT * L + i] += s[k * L + i]
    for i in range(n):
        s[LEFT * L + i] = F(1.0) / s[LEFT * L + i]
    for k in range(first, last):
        for i in range(n):
            s[k * L + i] *= s[LEFT * L + i]


@njit(**lane_loops)
def _prepare(s: Any, bins: Any, n: Any, bound: Any) -> None:
    """The value within bounds, and both softmaxes."""
    for i in range(n):
        s[HELD * L + i] = min(max(s[VALUE * L + i], -bound), bound)
    _softmax(s, Q, Q + bins, n)
    _softmax(s, Q + bins, Q + _2 * bins, n)


@njit(**lane_loops)
def _load(s: Any, x: Any, params: Any, r0: Any, r1: Any, c0: Any, c1: Any) -> Any:
    """Rows r0 … r1 − 1, columns c0 … c1 − 1 into the scratch: the number of lanes."""
    width, count = c1 - c0, U(params.shape[1])
    for r in range(r0, r1):
        at = (r - r0) * width
        for p in range(count):
            for d in range(width):
                s[(Q + p) * L + at + d] = params[r, p, c0 + d]
        for d in range(width):
            s[VALUE * L + at + d] = x[r, c0 + d]
    return (r1 - r0) * width


@njit(**lane_loops)
def _find(s: Any, bins: Any, by: Any, to: Any, n: Any, bound: Any, floor: Any) -> None:
    """The bin of each value among the knots made of quantities ``by`` …; those of the other axis are ``to`` …"""
    scale, least = F(2.0) * bound * (F(1.0) - floor * F(bins)), F(2.0) * bound * floor
    raw = Q + _2 * bins
    for i in range(n):
        s[LEFT * L + i] = -bound
        s[LEFT2 * L + i] = -bound
    for k in range(bins):
        before = raw + k - _1 if k > _0 else raw
        after = raw + k if k < bins - _1 else raw
        # the outermost slopes are one, a parameter of zero
        inner0, inner1 = F(k > _0), F(k < bins - _1)
        for i in range(n):
            left, left2 = s[LEFT * L + i], s[LEFT2 * L + i]
            w, h = scale * s[(by + k) * L + i] + least, scale * s[(to + k) * L + i] + least
            raw0, raw1 = inner0 * s[before * L + i], inner1 * s[after * L + i]
            # all is read before anything is chosen, so that choosing needs no branch
            at, wide, at2, wide2 = s[AT * L + i], s[WIDE * L + i], s[AT2 * L + i], s[WIDE2 * L + i]
            old0, old1 = s[RAW0 * L + i], s[RAW1 * L + i]
            here = s[HELD * L + i] >= left
            s[AT * L + i] = left if here else at
            s[WIDE * L + i] = w if here else wide
            s[AT2 * L + i] = left2 if here else at2
            s[WIDE2 * L + i] = h if here else wide2
            s[RAW0 * L + i] = raw0 if here else old0
            s[RAW1 * L + i] = raw1 if here else old1
            s[LEFT * L + i] = left + w
            s[LEFT2 * L + i] = left2 + h


@njit(**lane_loops)
def _pull(x: Any, params: Any, z: Any, score: Any, start: Any, stop: Any, bound: Any, floor: Any, offset: Any) -> None:
    size, count = U(x.shape[1]), U(params.shape[1])
    bins, each = (count + _1) // U(3), max(_1, L // size)
    s = np.empty((Q + count) * L, np.float32)
    for r0 in range(start, stop, each):
        r1 = min(r0 + each, stop)
        for r in range(r0, r1):
            score[r] = F(0.0)
        for c0 in range(_0, size, L):
            c1 = min(c0 + L, size)
            n = _load(s, x, params, r0, r1, c0, c1)
            _prepare(s, bins, n, bound)
            _find(s, bins, Q, Q + bins, n, bound, floor)
            for i in range(n):
                v, w, h = s[VALUE * L + i], s[WIDE * L + i], s[WIDE2 * L + i]
                d0, d1 = floor + softplus(s[RAW0 * L + i] + offset), floor + softplus(s[RAW1 * L + i] + offset)
                xi = min((s[HELD * L + i] - s[AT * L + i]) / w, F(1.0))
                delta, t = h / w, xi * (F(1.0) - xi)
                down = delta + (d0 + d1 - F(2.0) * delta) * t
                up = d1 * xi * xi + F(2.0) * delta * t + d0 * (F(1.0) - xi) * (F(1.0) - xi)
                ratio = delta / down
                slope = log(ratio * ratio * up)
                curve = s[AT2 * L + i] + h * (delta * xi * xi + d0 * t) / down
                inside = abs(v) <= bound
                s[SLOPE * L + i] = slope if inside else F(0.0)
                s[VALUE * L + i] = curve if inside else v
            width = c1 - c0
            for r in range(r0, r1):
                at = (r - r0) * width
                for d in range(width):
                    z[r, c0 + d] = s[VALUE * L + at + d]
                    score[r] += s[SLOPE * L + at + d]


@njit(**lane_loops)
def invert(s: Any, bins: Any, n: Any, bound: Any, floor: Any, offset: Any) -> None:
    """The values z of n lanes become x, under the parameters Q …"""
    _prepare(s, bins, n, bound)
    _find(s, bins, Q + bins, Q, n, bound, floor)
    for i in range(n):
        v, h, w = s[VALUE * L + i], s[WIDE * L + i], s[WIDE2 * L + i]
        d0, d1 = floor + softplus(s[RAW0 * L + i] + offset), floor + softplus(s[RAW1 * L + i] + offset)
        rise = min(s[HELD * L + i] - s[AT * L + i], h)
        delta = h / w
        bend = rise * (d0 + d1 - F(2.0) * delta)
        a, b, c = h * (delta - d0) + bend, h * d0 - bend, -delta * rise
        root = np.sqrt(max(b * b - F(4.0) * a * c, F(0.0)))
        rising, falling = F(-2.0) * c / (b + root), (root - b) / (F(2.0) * a)
        xi = min(max(falling if b < F(0.0) else rising, F(0.0)), F(1.0))
        curve = s[AT2 * L + i] + xi * w
        s[VALUE * L + i] = curve if abs(v) <= bound else v


@njit(**lane_loops)
def _push(z: Any, params: Any, x: Any, start: Any, stop: Any, bound: Any, floor: Any, offset: Any) -> None:
    size, count = U(z.shape[1]), U(params.shape[1])
    bins, each = (count + _1) // U(3), max(_1, L // size)
    s = np.empty((Q + count) * L, np.float32)
    for r0 in range(start, stop, each):
        r1 = min(r0 + each, stop)
        for c0 in range(_0, size, L):
            c1 = min(c0 + L, size)
            invert(s, bins, _load(s, z, params, r0, r1, c0, c1), bound, floor, offset)
            width = c1 - c0
            for r in range(r0, r1):
                at = (r - r0) * width
                for d in range(width):
                    x[r, c0 + d] = s[VALUE * L + at + d]


@njit(**lane_loops)
def _through_the_curve(s: Any, n: Any, bound: Any, floor: Any, offset: Any, scale: Any) -> None:
    """From the gradients by z and V those by the value, the bin's corners and sizes, and both slopes' parameters."""
    for i in range(n):
        v, g, g_v = s[VALUE * L + i], s[GZ * L + i], s[GV * L + i]
        w, h = s[WIDE * L + i], s[WIDE2 * L + i]
        raw0, raw1 = s[RAW0 * L + i] + offset, s[RAW1 * L + i] + offset
        d0, d1 = floor + softplus(raw0), floor + softplus(raw1)
        xi = min((s[HELD * L + i] - s[AT * L + i]) / w, F(1.0))
        rest = F(1.0) - xi
        delta, t, turn = h / w, xi * rest, rest - xi
        bend = d0 + d1 - F(2.0) * delta
        down = F(1.0) / (delta + bend * t)
        up = F(1.0) / (d1 * xi * xi + F(2.0) * delta * t + d0 * rest * rest)
        q = (delta * xi * xi + d0 * t) * down
        steep, by_w = g * h * down, F(1.0) / w
        g_xi = steep * (F(2.0) * delta * xi + d0 * turn - q * bend * turn) + g_v * (
            F(2.0) * (d1 * xi + delta * turn - d0 * rest) * up - F(2.0) * bend * turn * down
        )
        g_delta = steep * (xi * xi - q * (F(1.0) - F(2.0) * t)) + g_v * (
            F(2.0) / delta + F(2.0) * t * up - F(2.0) * (F(1.0) - F(2.0) * t) * down
        )
        g_d0 = steep * t * (F(1.0) - q) + g_v * (rest * rest * up - F(2.0) * t * down)
        g_d1 = -steep * q * t + g_v * (xi * xi * up - F(2.0) * t * down)
        inside = abs(v) <= bound
        s[G_AT * L + i] = -g_xi * by_w * scale if inside else F(0.0)
        s[G_WIDE * L + i] = -(g_xi * xi + g_delta * delta) * by_w * scale if inside else F(0.0)
        s[G_AT2 * L + i] = g * scale if inside else F(0.0)
        s[G_WIDE2 * L + i] = (g * q + g_delta * by_w) * scale if inside else F(0.0)
        s[G_D0 * L + i] = g_d0 * sigmoid(raw0) if inside else F(0.0)
        s[G_D1 * L + i] = g_d1 * sigmoid(raw1) if inside else F(0.0)
        s[GZ * L + i] = g_xi * by_w if inside else g


@njit(**lane_loops)
def _through_the_knots(s: Any, bins: Any, n: Any, bound: Any, floor: Any, scale: Any) -> None:
    """From the gradients by corners and sizes those by the logits of both softmaxes; the parameters give way to them."""
    least, raw = F(2.0) * bound * floor, Q + _2 * bins
    for i in range(n):
        s[SHARE * L + i] = F(0.0)
        s[SHARE2 * L + i] = F(0.0)
        s[OWN * L + i] = F(0.0)
        s[OWN2 * L + i] = F(0.0)
        s[LEFT * L + i] = -bound
    for k in range(bins):
        for i in range(n):
            p, p2, left = s[(Q + k) * L + i], s[(Q + bins + k) * L + i], s[LEFT * L + i]
            share, share2, own, own2 = s[SHARE * L + i], s[SHARE2 * L + i], s[OWN * L + i], s[OWN2 * L + i]
            here = s[HELD * L + i] >= left
            s[SHARE * L + i] = share + own if here else share
            s[SHARE2 * L + i] = share2 + own2 if here else share2
            s[OWN * L + i] = p if here else own
            s[OWN2 * L + i] = p2 if here else own2
            s[LEFT * L + i] = left + (scale * p + least)
    for i in range(n):
        s[LEFT * L + i] = -bound
        s[LEFT2 * L + i] = F(0.0)  # what knot k gets as the right one of the bin before
    for k in range(bins):
        last = bound if k == bins - _1 else -bound
        for i in range(n):
            p, p2, left = s[(Q + k) * L + i], s[(Q + bins + k) * L + i], s[LEFT * L + i]
            right = left + (scale * p + least)
            value = s[HELD * L + i]
            edge = max(right, last + last) if last > F(0.0) else right  # the last bin has no right neighbour
            reached, passed = F(value >= left), F(value >= edge)
            here = reached - passed
            s[(Q + k) * L + i] = p * (
                s[G_AT * L + i] * (passed - s[SHARE * L + i]) + s[G_WIDE * L + i] * (here - s[OWN * L + i])
            )
            s[(Q + bins + k) * L + i] = p2 * (
                s[G_AT2 * L + i] * (passed - s[SHARE2 * L + i]) + s[G_WIDE2 * L + i] * (here - s[OWN2 * L + i])
            )
            s[LEFT * L + i] = right
            s[WIDE * L + i] = here
        if k > _0:
            for i in range(n):
                s[(raw + k - _1) * L + i] = s[LEFT2 * L + i] + s[WIDE * L + i] * s[G_D0 * L + i]
        for i in range(n):
            s[LEFT2 * L + i] = s[WIDE * L + i] * s[G_D1 * L + i]


@njit(**lane_loops)
def _pull_gradient(
    x: Any, params: Any, gz: Any, gv: Any, gx: Any, gparams: Any, start: Any, stop: Any, bound: Any, floor: Any, offset: Any
) -> None:
    size, count = U(x.shape[1]), U(params.shape[1])
    bins, each = (count + _1) // U(3), max(_1, L // size)
    scale = F(2.0) * bound * (F(1.0) - floor * F(bins))
    s = np.empty((Q + count) * L, np.float32)
    for r0 in range(start, stop, each):
        r1 = min(r0 + each, stop)
        for c0 in range(_0, size, L):
            c1 = min(c0 + L, size)
            width = c1 - c0
            n = _load(s, x, params, r0, r1, c0, c1)
            _prepare(s, bins, n, bound)
            _find(s, bins, Q, Q + bins, n, bound, floor)
            for r in range(r0, r1):
                at = (r - r0) * width
                for d in range(width):
                    s[GZ * L + at + d] = gz[r, c0 + d]
                    s[GV * L + at + d] = gv[r]
            _through_the_curve(s, n, bound, floor, offset, scale)
            _through_the_knots(s, bins, n, bound, floor, scale)
            for r in range(r0, r1):
                at = (r - r0) * width
                for d in range(width):
                    gx[r, c0 + d] = s[GZ * L + at + d]
                for p in range(count):
                    for d in range(width):
                        gparams[r, p, c0 + d] = s[(Q + p) * L + at + d]


@cfunc(TASK, cache=True)
def _pulling(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        arrays = matrix(t, 0), cube(t, 1), matrix(t, 2), vector(t, 3)
        _pull(*arrays, edge(t, part), edge(t, part + 1), constant(t, 0), constant(t, 1), constant(t, 2))
        part = take(table)


@cfunc(TASK, cache=True)
def _pushing(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        arrays = matrix(t, 0), cube(t, 1), matrix(t, 2)
        _push(*arrays, edge(t, part), edge(t, part + 1), constant(t, 0), constant(t, 1), constant(t, 2))
        part = take(table)


@cfunc(TASK, cache=True)
def _differentiating(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        arrays = matrix(t, 0), cube(t, 1), matrix(t, 2), vector(t, 3), matrix(t, 4), cube(t, 5)
        _pull_gradient(*arrays, edge(t, part), edge(t, part + 1), constant(t, 0), constant(t, 1), constant(t, 2))
        part = take(table)


def pull(x: Tensor, params: Tensor, bound: float, floor: float, offset: float) -> tuple[Tensor, Tensor]:
    """z (B, D) and V (B,) of float32 x (B, D) on the CPU under params (B, 3K − 1, D); no gradient is recorded."""
    z, score = x.new_empty(x.shape), x.new_empty(x.shape[0])
    run_rows(_pulling, (x, params, z, score), (bound, floor, offset), cost=12_000)
    return z, score


def push(z: Tensor, params: Tensor, bound: float, floor: float, offset: float) -> Tensor:
    """The x (B, D) with pull(x) = z; no gradient is recorded."""
    x = z.new_empty(z.shape)
    run_rows(_pushing, (z, params, x), (bound, floor, offset), cost=12_000)
    return x


def pull_gradient(
    x: Tensor, params: Tensor, gz: Tensor, gv: Tensor, bound: float, floor: float, offset: float
) -> tuple[Tensor, Tensor]:
    """Gradients by x and params, given those by z (B, D) and V (B,)."""
    gx, gparams = x.new_empty(x.shape), x.new_empty(params.shape)
    arrays = (x, params, gz, gv, gx, gparams)
    run_rows(_differentiating, arrays, (bound, floor, offset), cost=6_000)
    return gx, gparams
