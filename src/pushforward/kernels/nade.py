"""NADE over single numbers, its gradient, and samples of its binary form; the reference is ``nets.belief.NADE``.

    a_1 = c,   a_{i+1} = a_i + W_i x_i,   h_i = σ(a_i),   out_i = b_i + V_i · h_i

A zero adds nothing, so the hidden units, whose σ costs most, are computed anew only after other numbers: for pictures of pen
strokes an eighth of the times. Going back, what reaches h over a stretch without change is summed before it passes through σ′.
Units lie side by side in memory; a few rows take turns at each element, so that its weights stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, lane_loops, sigmoid
from pushforward.kernels.threads import TASK, cube, edge, matrix, opened, run_rows, take, threads, vector

R = 16  # rows that take turns
U = np.uint64
_0 = F(0.0)
_sums: dict[str, Any] = {**lane_loops, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}  # a sum in any order is one of lanes


@njit(**_sums)
def _dot(v: Any, i: Any, h: Any, r: Any) -> Any:
    total = _0
    for j in range(U(v.shape[1])):
        total += v[i, j] * h[r, j]
    return total


@njit(**lane_loops)
def _units(a: Any, h: Any, r: Any) -> None:
    for j in range(U(a.shape[1])):
        h[r, j] = sigmoid(a[r, j])


@njit(**lane_loops)
def _add(a: Any, r: Any, w: Any, i: Any, x: Any) -> None:
    for j in range(U(a.shape[1])):
        a[r, j] += w[i, j] * x


@njit(**lane_loops)
def _begin(c: Any, at: Any, a: Any, h: Any, r: Any) -> None:
    row = at if c.shape[0] > 1 else U(0)
    for j in range(U(c.shape[1])):
        a[r, j] = c[row, j]
    _units(a, h, r)


@njit(**lane_loops)
def _forward(x: Any, c: Any, w: Any, v: Any, b: Any, out: Any, start: Any, stop: Any) -> None:
    size, hidden = U(x.shape[1]), c.shape[1]
    a, h = np.empty((R, hidden), np.float32), np.empty((R, hidden), np.float32)
    for r0 in range(start, stop, U(R)):
        here = min(U(R), stop - r0)
        for r in range(here):
            _begin(c, r0 + r, a, h, r)
        for i in range(size):
            for r in range(here):
                out[r0 + r, i] = b[i] + _dot(v, i, h, r)
                if x[r0 + r, i] != _0:
                    _add(a, r, w, i, x[r0 + r, i])
                    _units(a, h, r)


@njit(**lane_loops)
def _draw(u: Any, held: Any, c: Any, w: Any, v: Any, b: Any, x: Any, start: Any, stop: Any) -> None:
    """x_i = 1 where u_i < σ(out_i), or what is held (not a number where nothing is)."""
    size, hidden = U(u.shape[1]), c.shape[1]
    a, h = np.empty((R, hidden), np.float32), np.empty((R, hidden), np.float32)
    holds = held.shape[0] == u.shape[0]
    for r0 in range(start, stop, U(R)):
        here = min(U(R), stop - r0)
        for r in range(here):
            _begin(c, r0 + r, a, h, r)
        for i in range(size):
            for r in range(here):
                value = F(1.0) if u[r0 + r, i] < sigmoid(b[i] + _dot(v, i, h, r)) else _0
                if holds and held[r0 + r, i] == held[r0 + r, i]:
                    value = held[r0 + r, i]
                x[r0 + r, i] = value
                if value != _0:
                    _add(a, r, w, i, value)
                    _units(a, h, r)


@njit(**lane_loops)
def _through(h: Any, reached: Any, total: Any, r: Any) -> None:
    """What reached h passes to a."""
    for j in range(U(h.shape[1])):
        total[r, j] += reached[r, j] * h[r, j] * (F(1.0) - h[r, j])
        reached[r, j] = _0


@njit(**lane_loops)
def _reach(g: Any, v: Any, gv: Any, i: Any, h: Any, reached: Any, r: Any) -> None:
    for j in range(U(h.shape[1])):
        gv[i, j] += g * h[r, j]
        reached[r, j] += g * v[i, j]


@njit(**lane_loops)
def _backward(
    x: Any, g: Any, c: Any, w: Any, v: Any, gc: Any, gw: Any, gv: Any, start: Any, stop: Any
) -> None:  # fmt: skip
    """Gradients by the first sums, row by row, and by the weights, summed over rows, of Σ g · out."""
    size, hidden = U(x.shape[1]), c.shape[1]
    a, h = np.empty((R, hidden), np.float32), np.empty((R, hidden), np.float32)
    reached, total = np.empty((R, hidden), np.float32), np.empty((R, hidden), np.float32)
    for r0 in range(start, stop, U(R)):
        here = min(U(R), stop - r0)
        for r in range(here):
            _begin(c, r0 + r, a, h, r)
            for i in range(size):
                if x[r0 + r, i] != _0:
                    _add(a, r, w, i, x[r0 + r, i])
            _units(a, h, r)
            for j in range(U(hidden)):
                reached[r, j] = _0
                total[r, j] = _0
        for back in range(size):
            at = size - U(1) - back
            for r in range(here):
                value = x[r0 + r, at]
                if value != _0:
                    _through(h, reached, total, r)
                    _add(gw, at, total, r, value)
                    _add(a, r, w, at, -value)
                    _units(a, h, r)
                _reach(g[r0 + r, at], v, gv, at, h, reached, r)
        for r in range(here):
            _through(h, reached, total, r)
            for j in range(U(hidden)):
                gc[r0 + r, j] = total[r, j]


@cfunc(TASK, cache=True)
def _forwards(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given = matrix(t, 0), matrix(t, 1), matrix(t, 2), matrix(t, 3), vector(t, 4)
        _forward(*given, matrix(t, 5), edge(t, part), edge(t, part + 1))
        part = take(table)


@cfunc(TASK, cache=True)
def _draws(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given = matrix(t, 0), matrix(t, 1), matrix(t, 2), matrix(t, 3), matrix(t, 4), vector(t, 5)
        _draw(*given, matrix(t, 6), edge(t, part), edge(t, part + 1))
        part = take(table)


@cfunc(TASK, cache=True)
def _backwards(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given = matrix(t, 0), matrix(t, 1), matrix(t, 2), matrix(t, 3), matrix(t, 4), matrix(t, 5)
        _backward(*given, cube(t, 6)[part], cube(t, 7)[part], edge(t, part), edge(t, part + 1))
        part = take(table)


def forward(x: Tensor, c: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """out (B, D) of float32 x (B, D) on the CPU; c (B or 1, H), w and v (D, H), b (D,). No gradient is recorded."""
    out = x.new_empty(x.shape)
    run_rows(_forwards, (x, c, w, v, b, out), (), cost=500)
    return out


def draw(u: Tensor, held: Tensor, c: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """x (B, D) in {0, 1} drawn at the uniform numbers u (B, D); numbers in ``held``, (B, D) or (0, D), are kept."""
    x = u.new_empty(u.shape)
    run_rows(_draws, (u, held, c, w, v, b, x), (), block=1 if len(u) < R * threads(len(u)) else R)
    return x


def backward(x: Tensor, g: Tensor, c: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by c (B, H), w and v (D, H), given g (B, D) that by out."""
    parts = threads(min(len(x), x.numel() // 500))
    gc = c.new_empty(len(x), c.shape[1])
    gw, gv = w.new_zeros(parts, *w.shape), v.new_zeros(parts, *v.shape)
    run_rows(_backwards, (x, g, c, w, v, gc, gw, gv), (), cost=500)
    return gc, gw.sum(0), gv.sum(0)


class _Params(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
        x, c, w, v = (t.contiguous() for t in (x, c, w.t(), v))
        ctx.save_for_backward(x, c, w, v)
        return forward(x, c, w, v, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, c, w, v = ctx.saved_tensors
        g = gradients[0].contiguous()
        gc, gw, gv = backward(x, g, c, w, v)
        return None, gc, gw.t(), gv, g.sum(0)


def params_of(x: Tensor, c: Tensor, weight: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """out (B, D) with gradients by c (B, H), ``weight`` (H, D), v (D, H) and b (D,), not by x."""
    return _Params.apply(x, c, weight, v, b)  # type: ignore[no-untyped-call]
