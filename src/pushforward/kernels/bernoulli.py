"""log p of rows of Bernoullis, summed over elements, and its gradient; the reference is ``models.blocks.Binary.log_prob``.

    log p(e) = −Σ_j softplus(s_j),   s_j = (1 − 2 e_j)(l_j + d_j),   ∂ log p/∂l_j = e_j − σ(l_j + d_j)

with logits l, and d what they start from. Several rows of logits may belong to one row of elements (the draws of a bound).
Logits go once through memory on the way there and once on the way back, in float32 or in bfloat16 given as uint16. Of

    softplus(s) = max(s, 0) + log(1 + e^−|s|)

the logarithm is taken of the product over elements: each factor is at most 2, and ``_SPAN`` of them fit into a float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, lane_loops, log
from pushforward.kernels.norm import HALF, exp, like, number_map, sigmoid, wide
from pushforward.kernels.threads import TASK, edge, matrix, opened, run_rows, take, vector

U = np.uint64
_LANES = 256  # products side by side
_SPAN = 100  # factors of a product


@njit(**lane_loops)
def _factors(l: Any, d: Any, e: Any, start: Any, count: Any, product: Any, total: Any) -> None:
    for i in range(U(count)):
        s = (F(1.0) - F(2.0) * e[start + i]) * (wide(l[start + i]) + d[start + i])
        product[i] *= F(1.0) + exp(-abs(s))
        total[i] += max(s, F(0.0))


@njit(**{**lane_loops, "fastmath": {"contract", "nsz", "arcp", "reassoc"}})
def _logs(product: Any, total: Any) -> Any:
    """Σ log(product) + total, both begun anew."""
    found = F(0.0)
    for i in range(U(_LANES)):
        found += log(product[i]) + total[i]
        product[i] = F(1.0)
        total[i] = F(0.0)
    return found


@njit(**lane_loops)
def _forward(l: Any, d: Any, e: Any, out: Any, start: Any, stop: Any) -> None:
    size, repeats = U(l.shape[1]), U(l.shape[0]) // U(e.shape[0])
    product, total = np.ones(_LANES, np.float32), np.zeros(_LANES, np.float32)
    for r in range(start, stop):
        found = np.float64(0.0)
        for first in range(U(0), size, U(_LANES * _SPAN)):
            for at in range(first, min(size, first + U(_LANES * _SPAN)), U(_LANES)):
                _factors(l[r], d, e[r // repeats], at, min(U(_LANES), size - at), product, total)
            found += _logs(product, total)
        out[r] = F(-found)


@njit(**lane_loops)
def _backward(l: Any, d: Any, e: Any, g: Any, out: Any, start: Any, stop: Any) -> None:
    size, repeats = U(l.shape[1]), U(l.shape[0]) // U(e.shape[0])
    for r in range(start, stop):
        row, known, scale, found = l[r], e[r // repeats], g[r], out[r]
        for j in range(size):
            found[j] = like(scale * (known[j] - sigmoid(wide(row[j]) + d[j])), row[j])


@njit(inline="always")
def _every_forward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        _forward(number_map(t, 0, kind), vector(t, 1), matrix(t, 2), vector(t, 3), edge(t, part), edge(t, part + 1))
        part = take(table)


@njit(inline="always")
def _every_backward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given = number_map(t, 0, kind), vector(t, 1), matrix(t, 2), vector(t, 3), number_map(t, 4, kind)
        _backward(*given, edge(t, part), edge(t, part + 1))
        part = take(table)


@cfunc(TASK, cache=True)
def _forwards(table: Any) -> None:
    _every_forward(table, F(0))


@cfunc(TASK, cache=True)
def _forwards_half(table: Any) -> None:
    _every_forward(table, HALF(0))


@cfunc(TASK, cache=True)
def _backwards(table: Any) -> None:
    _every_backward(table, F(0))


@cfunc(TASK, cache=True)
def _backwards_half(table: Any) -> None:
    _every_backward(table, HALF(0))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, default: Tensor, e: Tensor) -> Tensor:
        l, d, e = logits.contiguous(), default.contiguous(), e.contiguous()
        ctx.save_for_backward(l, d, e)
        out = d.new_empty(len(l))
        run_rows(_forwards if l.dtype == torch.float32 else _forwards_half, (l, d, e, out), (), block=_rows(l))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        l, d, e = ctx.saved_tensors
        (g,) = gradients
        # a gradient that will be differentiated again, or many at once, is made of operations that can be
        if torch.is_grad_enabled() or not torch._C._has_storage(g):
            return g[..., None] * (e.repeat_interleave(len(l) // len(e), 0) - (l.float() + d).sigmoid()), None, None
        out = torch.empty_like(l)
        task = _backwards if l.dtype == torch.float32 else _backwards_half
        run_rows(task, (l, d, e, g, out), (), block=_rows(l))
        return out, None, None


def _rows(l: Tensor) -> int:
    """Rows of a part of the work: a part for each thread would wait for the slowest."""
    return max(1, 16_384 // max(1, l.shape[1]))


def log_prob(logits: Tensor, default: Tensor, e: Tensor) -> Tensor:
    """log p (B·K,) of float32 e (B, E) given logits (B·K, E) of float32 or bfloat16, K ≥ 1 rows for each of e one after the
    other, and float32 ``default`` (E,), all on the CPU; with its gradient by the logits alone."""
    return _Sum.apply(logits, default, e)  # type: ignore[no-untyped-call]
