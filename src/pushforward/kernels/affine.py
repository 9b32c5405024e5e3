"""The affine map of couplings and autoregressive layers in one pass; the reference is ``transforms.monotone.Affine``.

z = x eˢ + t, s = a / (1 + |a|/c): a tensor operation for each sign would read and write the numbers nine times. Blocks of
lanes as in ``kernels.spline``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops
from pushforward.kernels.threads import TASK, constant, cube, edge, matrix, opened, run_rows, take, vector

U = np.uint64
L = U(512)
X, T, A, G, V = U(0), U(1), U(2), U(3), U(4)


@njit(**lane_loops)
def _load(s: Any, x: Any, params: Any, r0: Any, r1: Any, c0: Any, width: Any) -> None:
    for r in range(r0, r1):
        at = (r - r0) * width
        for d in range(width):
            s[X * L + at + d] = x[r, c0 + d]
        for d in range(width):
            s[T * L + at + d] = params[r, U(0), c0 + d]
        for d in range(width):
            s[A * L + at + d] = params[r, U(1), c0 + d]


@njit(**lane_loops)
def _pull(x: Any, params: Any, z: Any, score: Any, start: Any, stop: Any, bound: Any) -> None:
    size = U(x.shape[1])
    each, s = max(U(1), L // size), np.empty(U(3) * L, np.float32)
    for r0 in range(start, stop, each):
        r1 = min(r0 + each, stop)
        for c0 in range(U(0), size, L):
            width = min(L, size - c0)
            _load(s, x, params, r0, r1, c0, width)
            for i in range((r1 - r0) * width):
                a = s[A * L + i]
                scale = a / (F(1.0) + abs(a) / bound)
                s[A * L + i] = scale
                s[X * L + i] = s[X * L + i] * exp(scale) + s[T * L + i]
            for r in range(r0, r1):
                at = (r - r0) * width
                total = score[r] if c0 > U(0) else F(0.0)
                for d in range(width):
                    z[r, c0 + d] = s[X * L + at + d]
                for d in range(width):
                    total += s[A * L + at + d]
                score[r] = total


@njit(**lane_loops)
def _gradient(x: Any, params: Any, gz: Any, gv: Any, gx: Any, gparams: Any, start: Any, stop: Any, bound: Any) -> None:
    size = U(x.shape[1])
    each, s = max(U(1), L // size), np.empty(U(5) * L, np.float32)
    for r0 in range(start, stop, each):
        r1 = min(r0 + each, stop)
        for c0 in range(U(0), size, L):
            width = min(L, size - c0)
            _load(s, x, params, r0, r1, c0, width)
            for r in range(r0, r1):
                at, v = (r - r0) * width, gv[r]
                for d in range(width):
                    s[G * L + at + d] = gz[r, c0 + d]
                for d in range(width):
                    s[V * L + at + d] = v
            for i in range((r1 - r0) * width):
                a = s[A * L + i]
                share = F(1.0) / (F(1.0) + abs(a) / bound)
                scaled = s[G * L + i] * exp(a * share)
                s[A * L + i] = (scaled * s[X * L + i] + s[V * L + i]) * share * share
                s[X * L + i] = scaled
            for r in range(r0, r1):
                at = (r - r0) * width
                for d in range(width):
                    gx[r, c0 + d] = s[X * L + at + d]
                for d in range(width):
                    gparams[r, U(0), c0 + d] = s[G * L + at + d]
                for d in range(width):
                    gparams[r, U(1), c0 + d] = s[A * L + at + d]


@cfunc(TASK, cache=True)
def _pulling(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        _pull(matrix(t, 0), cube(t, 1), matrix(t, 2), vector(t, 3), edge(t, part), edge(t, part + 1), constant(t, 0))
        part = take(table)


@cfunc(TASK, cache=True)
def _differentiating(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given, found = (matrix(t, 0), cube(t, 1), matrix(t, 2), vector(t, 3)), (matrix(t, 4), cube(t, 5))
        _gradient(*given, *found, edge(t, part), edge(t, part + 1), constant(t, 0))
        part = take(table)


def pull(x: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """z (B, D) and V (B,) of float32 x (B, D) on the CPU under params (B, 2, D); no gradient is recorded."""
    z, score = x.new_empty(x.shape), x.new_empty(x.shape[0])
    run_rows(_pulling, (x, params, z, score), (bound,), cost=8_000)
    return z, score


def gradient(x: Tensor, params: Tensor, gz: Tensor, gv: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Gradients by x and params, given those by z (B, D) and V (B,)."""
    gx, gparams = x.new_empty(x.shape), x.new_empty(params.shape)
    run_rows(_differentiating, (x, params, gz, gv, gx, gparams), (bound,), cost=4_000)
    return gx, gparams
