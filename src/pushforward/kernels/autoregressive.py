"""The inverse of an autoregressive layer, every unit of its network computed once; the reference is ``MaskedMLP.unroll``.

    for k = 0 … D:  the hidden units of degree k, from those of degree ≤ k one layer below
                    (k < D)  the parameters of element k from the units of degree ≤ k;  x_k from z_k and them

What makes x_k of z_k is the inverse of a map, or the quantile function of a Bernoulli or a mixture of logistics at z_k = u_k
(the reference is then ``models.autoregressive.ancestral``); values that are held are taken instead.

A network's units are sorted by degree, so every sum runs over the front of a layer. ``R`` rows are worked on side by side;
sums are made by ``kernels.product``, whose columns they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops, log, sigmoid
from pushforward.kernels.product import LANES, flat_product
from pushforward.kernels.spline import VALUE, L, Q, U, invert
from pushforward.kernels.threads import (
    TASK,
    constant,
    cube,
    matrix,
    opened,
    run_rows,
    take,
    threads,
    vector,
    whole_matrix,
    whole_vector,
)

R = U(64)
_0, _1, _2 = U(0), U(1), U(2)
SIDE = U(LANES)
LINE, ROW = int(R), int(L)  # the same as signed numbers, from one unit to the next and from one quantity to the next
KINDS = {"additive": 0, "affine": 1, "spline": 2, "bernoulli": 3, "logistics": 4}
STEP, ORIGIN, LOW, HIGH = U(0), U(1), U(2), U(3)  # of the grid that a number lies on


@njit(**lane_loops)
def _layer(w: Any, bias: Any, old: Any, new: Any, count: Any, s: Any, base: Any, start: Any, into: Any, n: Any) -> None:
    """Units ``old`` … ``new`` − 1 of a layer: s[into + u] = max(0, s[start + u] or bias[u] + Σ_j w[u, j] s[base + j])."""
    if start >= into:  # nothing was there before: the sums start at the bias
        for u in range(old, new):
            for i in range(n):
                s[(into + u) * R + i] = bias[u]
    if count > _0:
        at, c = s.ctypes.data, np.int64(4 * (into + old) * R)
        d, step = np.int64(4 * (start + old) * R), np.int64(w.shape[1])
        a, b = w.ctypes.data + np.int64(4) * np.int64(old) * step, at + np.int64(4 * base * R)
        flat_product(a, step, 1, b, LINE, at + c, LINE, at + d, LINE, np.int64(new - old), np.int64(n), np.int64(count), True)
    else:
        for u in range(old, new):
            for i in range(n):
                s[(into + u) * R + i] = max(s[(start + u) * R + i], F(0.0))


@njit(**lane_loops)
def _add(out: Any, w: Any, row: Any, count: Any, s: Any, base: Any, known: Any, n: Any) -> None:
    """To ``count`` parameters, what ``known`` units from s[base] on add to them: rows ``row`` … of the weights ``w``."""
    if known > _0:
        step, params = np.int64(w.shape[1]), out.ctypes.data + np.int64(4 * Q * L)
        weights, units = w.ctypes.data + np.int64(4) * np.int64(row) * step, s.ctypes.data + np.int64(4 * base * R)
        sizes = np.int64(count), np.int64(n), np.int64(known)
        flat_product(weights, step, 1, units, LINE, params, ROW, params, ROW, *sizes, False)


@njit(**lane_loops)
def _logistics(out: Any, count: Any, n: Any, grid: Any, k: Any) -> None:
    """Quantiles of mixtures of ``count`` logistics at the numbers in ``VALUE``: they choose the component, then its value."""
    total, top, below, share, mean, rate = U(0), U(1), U(2), U(3), U(4), U(5)  # scratch, as ``VALUE`` is
    free = VALUE + _1
    for i in range(n):
        out[(free + top) * L + i] = out[Q * L + i]
        out[(free + total) * L + i] = F(0.0)
        out[(free + below) * L + i] = F(0.0)
    for j in range(_1, count):
        for i in range(n):
            out[(free + top) * L + i] = max(out[(free + top) * L + i], out[(Q + j) * L + i])
    for j in range(count):
        for i in range(n):
            out[(Q + j) * L + i] = exp(out[(Q + j) * L + i] - out[(free + top) * L + i])
            out[(free + total) * L + i] += out[(Q + j) * L + i]
    for j in range(count):
        for i in range(n):
            mass = out[(Q + j) * L + i] / out[(free + total) * L + i]
            before = out[(free + below) * L + i]
            u = out[VALUE * L + i]
            reached = u >= before
            out[(free + share) * L + i] = (u - before) / mass if reached else out[(free + share) * L + i]
            out[(free + mean) * L + i] = out[(Q + count + j) * L + i] if reached else out[(free + mean) * L + i]
            out[(free + rate) * L + i] = out[(Q + _2 * count + j) * L + i] if reached else out[(free + rate) * L + i]
            out[(free + below) * L + i] = before + mass
    step, origin, low, high = grid[k, STEP], grid[k, ORIGIN], grid[k, LOW], grid[k, HIGH]
    for i in range(n):
        v = min(max(out[(free + share) * L + i], F(1e-7)), F(1.0) - F(1e-7))
        scale = exp(min(max(out[(free + rate) * L + i], F(-9.0)), F(5.0)))
        x = out[(free + mean) * L + i] + scale * (log(v) - log(F(1.0) - v))
        if step > F(0.0):
            x = origin + step * np.floor((x - origin) / step + F(0.5))
        out[VALUE * L + i] = min(max(x, low), high)


@njit(**lane_loops)
def _unroll(
    z: Any, first: Any, w_in: Any, middle: Any, bias: Any, w_out: Any, direct: Any, skips: Any, b_out: Any, upto: Any,
    order: Any, x: Any, held: Any, grid: Any, kind: Any, a: Any, b: Any, c: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    size, layers, width = U(z.shape[1]), U(upto.shape[0]), U(bias.shape[1])
    count = U(w_out.shape[0]) // size
    # elements, then the first layer before its activation, then the layers
    raw, hidden = size, size + U(first.shape[1])
    s = np.zeros((hidden + layers * width) * R, np.float32)
    out = np.zeros((Q + max(count, _2)) * L, np.float32)
    shared = first.shape[0] == 1
    for r0 in range(start, stop, R):
        here = min(R, stop - r0)
        n = (here + SIDE - _1) // SIDE * SIDE  # lanes that no row fills are computed and not looked at
        for i in range(here):
            row = _0 if shared else r0 + i
            for u in range(U(first.shape[1])):
                s[(raw + u) * R + i] = first[row, u]
        for k in range(size + _1):
            for l in range(layers):
                old = upto[l, k - _1] if k > _0 else _0
                into = hidden + l * width
                if upto[l, k] == old:
                    continue
                if l == _0:
                    _layer(w_in, bias[l], old, upto[l, k], k, s, _0, raw, into, n)
                else:
                    below = hidden + (l - _1) * width
                    _layer(middle[l - _1], bias[l], old, upto[l, k], upto[l - _1, k], s, below, into, into, n)
            if k == size:
                break
            last, known = hidden + (layers - _1) * width, upto[layers - _1, k]
            for p in range(count):
                for i in range(n):
                    out[(Q + p) * L + i] = b_out[k * count + p]
            _add(out, w_out, k * count, count, s, last, known, n)
            if direct.shape[0] > 0:
                _add(out, direct, k * count, count, s, _0, k, n)
            for l in range(U(skips.shape[0])):
                _add(out, skips[l], k * count, count, s, hidden + l * width, upto[l, k], n)
            element = order[k]
            for i in range(here):
                out[VALUE * L + i] = z[r0 + i, element]
            if kind == 0:
                for i in range(n):
                    out[VALUE * L + i] -= out[Q * L + i]
            elif kind == 1:
                for i in range(n):
                    scale = out[(Q + _1) * L + i]
                    scale = scale / (F(1.0) + abs(scale) / a)
                    out[VALUE * L + i] = (out[VALUE * L + i] - out[Q * L + i]) * exp(-scale)
            elif kind == 2:
                invert(out, (count + _1) // U(3), n, a, b, c)
            elif kind == 3:
                for i in range(n):
                    out[VALUE * L + i] = F(1.0) if out[VALUE * L + i] < sigmoid(out[Q * L + i]) else F(0.0)
            else:
                _logistics(out, count // U(3), n, grid, element)
            if held.shape[0] == z.shape[0]:
                for i in range(here):
                    kept = held[r0 + i, element]
                    out[VALUE * L + i] = kept if kept == kept else out[VALUE * L + i]
            for i in range(n):
                s[k * R + i] = out[VALUE * L + i]
            for i in range(here):
                x[r0 + i, element] = out[VALUE * L + i]


@dataclass(frozen=True)
class Packed:
    """A masked network as arrays: units sorted by degree, elements in their order.

    ``w_in`` (H₁, D), ``middle`` (layers − 1, H, H), ``bias`` (layers, H), ``w_out`` (D · P, H) and ``b_out`` (D · P)
    element by element, ``upto`` (layers, D + 1): how many units see nothing later than element k; ``order`` (D,). Where
    outputs are linked to the elements and to the layers before the last: ``direct`` (D · P, D) and ``skips`` (layers − 1,
    D · P, H), else none.
    """

    w_in: Any
    middle: Any
    bias: Any
    w_out: Any
    direct: Any
    skips: Any
    b_out: Any
    upto: Any
    order: Any


@cfunc(TASK, cache=True)
def _unrolling(table: Any) -> None:
    t, part = opened(table), take(table)
    rows, block = U(matrix(t, 0).shape[0]), U(constant(t, 4))
    while part < t[1]:
        given = matrix(t, 0), matrix(t, 1), matrix(t, 2), cube(t, 3), matrix(t, 4), matrix(t, 5), matrix(t, 6), cube(t, 7)
        start = U(part) * block
        _unroll(
            *given, vector(t, 8), whole_matrix(t, 9), whole_vector(t, 10), matrix(t, 11), matrix(t, 12), matrix(t, 13),
            np.int64(constant(t, 0)), constant(t, 1), constant(t, 2), constant(t, 3), start, min(start + block, rows),
        )  # fmt: skip
        part = take(table)


def unroll(
    z: Tensor,
    first: Tensor,
    net: Packed,
    kind: str,
    settings: tuple[float, ...],
    held: Tensor | None = None,
    grid: Tensor | None = None,
) -> Tensor:
    """x (B, D) for float32 z (B, D) on the CPU; ``first`` (B or 1, H₁) is the first layer before any element; no gradient.

    Numbers in ``held`` (B, D) are taken as they are. ``grid`` (D, 4): step (0 for none), origin, least and greatest value.
    """
    x, none = z.new_empty(z.shape), z.new_empty(0, 4)
    arrays = z, first, net.w_in, net.middle, net.bias, net.w_out, net.direct, net.skips, net.b_out, net.upto, net.order, x
    given = none if held is None else held, none if grid is None else grid
    # rows side by side cost hardly more than one: a thread takes whole blocks, smaller ones where some would have none
    block = min(int(R), LANES * -(-len(z) // (threads(len(z)) * LANES)))
    run_rows(_unrolling, (*arrays, *given), (KINDS[kind], *settings, *(0.0,) * (3 - len(settings)), float(block)), block=block)
    return x
