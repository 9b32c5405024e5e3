"""The inverse of an autoregressive layer, every unit of its network computed once; the reference is ``MaskedMLP.unroll``.

    for k = 0 … D:  the hidden units of degree k, from those of degree ≤ k one layer below
                    (k < D)  the parameters of element k from the units of degree ≤ k;  x_k from z_k and them

A network's units are sorted by degree, so every sum runs over the front of a layer. ``R`` rows are worked on side by side;
sums are made for two units and four summands at a time, so that what is loaded once is used eight times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops, over_rows
from pushforward.kernels.spline import VALUE, L, Q, U, invert

R = U(64)
_0, _1, _2, _3, _4 = U(0), U(1), U(2), U(3), U(4)
KINDS = {"additive": 0, "affine": 1, "spline": 2}


@njit(**lane_loops)
def _sum(w: Any, row: Any, count: Any, s: Any, base: Any, out: Any, target: Any, n: Any) -> None:
    """out[target] += Σ_j w[row, j] · s[base + j] over j < ``count``."""
    whole = count - count % _4
    for j in range(_0, whole, _4):
        w0, w1, w2, w3 = w[row, j], w[row, j + _1], w[row, j + _2], w[row, j + _3]
        at = (base + j) * R
        for i in range(n):
            out[target * L + i] += (w0 * s[at + i] + w1 * s[at + R + i]) + (w2 * s[at + _2 * R + i] + w3 * s[at + _3 * R + i])
    for j in range(whole, count):
        w0 = w[row, j]
        for i in range(n):
            out[target * L + i] += w0 * s[(base + j) * R + i]


@njit(**lane_loops)
def _sums(w: Any, row: Any, count: Any, s: Any, base: Any, out: Any, target: Any, n: Any) -> None:
    """``_sum`` for ``row`` into ``target`` and for the next row into the next target."""
    whole = count - count % _4
    for j in range(_0, whole, _4):
        w0, w1, w2, w3 = w[row, j], w[row, j + _1], w[row, j + _2], w[row, j + _3]
        v0, v1, v2, v3 = w[row + _1, j], w[row + _1, j + _1], w[row + _1, j + _2], w[row + _1, j + _3]
        at = (base + j) * R
        for i in range(n):
            a, b, c, d = s[at + i], s[at + R + i], s[at + _2 * R + i], s[at + _3 * R + i]
            out[target * L + i] += (w0 * a + w1 * b) + (w2 * c + w3 * d)
            out[(target + _1) * L + i] += (v0 * a + v1 * b) + (v2 * c + v3 * d)
    for j in range(whole, count):
        w0, v0 = w[row, j], w[row + _1, j]
        for i in range(n):
            a = s[(base + j) * R + i]
            out[target * L + i] += w0 * a
            out[(target + _1) * L + i] += v0 * a


@njit(**lane_loops)
def _layer(
    w: Any, bias: Any, old: Any, new: Any, count: Any, s: Any, base: Any, start: Any, into: Any, out: Any, n: Any
) -> None:
    """Units ``old`` … ``new`` − 1 of a layer: s[into + u] = max(0, s[start + u] or bias[u] + Σ_j w[u, j] s[base + j])."""
    seeded = start < into
    for u in range(old, new, _2):
        pair = u + _1 < new
        for i in range(n):
            out[Q * L + i] = bias[u]
        if pair:
            for i in range(n):
                out[(Q + _1) * L + i] = bias[u + _1]
        if seeded:
            for i in range(n):
                out[Q * L + i] = s[(start + u) * R + i]
            if pair:
                for i in range(n):
                    out[(Q + _1) * L + i] = s[(start + u + _1) * R + i]
        if pair:
            _sums(w, u, count, s, base, out, Q, n)
            for i in range(n):
                s[(into + u + _1) * R + i] = max(out[(Q + _1) * L + i], F(0.0))
        else:
            _sum(w, u, count, s, base, out, Q, n)
        for i in range(n):
            s[(into + u) * R + i] = max(out[Q * L + i], F(0.0))


@njit(**lane_loops)
def _unroll(
    z: Any, first: Any, w_in: Any, middle: Any, bias: Any, w_out: Any, b_out: Any, upto: Any, order: Any, x: Any,
    kind: Any, a: Any, b: Any, c: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    size, layers, width = U(z.shape[1]), U(upto.shape[0]), U(bias.shape[1])
    count = U(w_out.shape[0]) // size
    # elements, then the first layer before its activation, then the layers
    raw, hidden = size, size + U(first.shape[1])
    s = np.empty((hidden + layers * width) * R, np.float32)
    out = np.empty((Q + max(count, _2)) * L, np.float32)
    shared = first.shape[0] == 1
    for r0 in range(start, stop, R):
        n = min(R, stop - r0)
        for i in range(n):
            row = _0 if shared else r0 + i
            for u in range(U(first.shape[1])):
                s[(raw + u) * R + i] = first[row, u]
        for k in range(size + _1):
            for l in range(layers):
                old = upto[l, k - _1] if k > _0 else _0
                into = hidden + l * width
                if l == _0:
                    _layer(w_in, bias[l], old, upto[l, k], k, s, _0, raw, into, out, n)
                else:
                    below = hidden + (l - _1) * width
                    _layer(middle[l - _1], bias[l], old, upto[l, k], upto[l - _1, k], s, below, into, into, out, n)
            if k == size:
                break
            last, known = hidden + (layers - _1) * width, upto[layers - _1, k]
            for p in range(count):
                for i in range(n):
                    out[(Q + p) * L + i] = b_out[k * count + p]
            for p in range(_0, count - count % _2, _2):
                _sums(w_out, k * count + p, known, s, last, out, Q + p, n)
            if count % _2 == _1:
                _sum(w_out, k * count + count - _1, known, s, last, out, Q + count - _1, n)
            element = order[k]
            for i in range(n):
                out[VALUE * L + i] = z[r0 + i, element]
            if kind == 0:
                for i in range(n):
                    out[VALUE * L + i] -= out[Q * L + i]
            elif kind == 1:
                for i in range(n):
                    scale = out[(Q + _1) * L + i]
                    scale = scale / (F(1.0) + abs(scale) / a)
                    out[VALUE * L + i] = (out[VALUE * L + i] - out[Q * L + i]) * exp(-scale)
            else:
                invert(out, (count + _1) // U(3), n, a, b, c)
            for i in range(n):
                value = out[VALUE * L + i]
                s[k * R + i] = value
                x[r0 + i, element] = value


@dataclass(frozen=True)
class Packed:
    """A masked network as arrays: units sorted by degree, elements in their order.

    ``w_in`` (H₁, D), ``middle`` (layers − 1, H, H), ``bias`` (layers, H), ``w_out`` (D · P, H) and ``b_out`` (D · P)
    element by element, ``upto`` (layers, D + 1): how many units see nothing later than element k; ``order`` (D,).
    """

    w_in: Any
    middle: Any
    bias: Any
    w_out: Any
    b_out: Any
    upto: Any
    order: Any


def unroll(z: Tensor, first: Tensor, net: Packed, kind: str, settings: tuple[float, ...]) -> Tensor:
    """x (B, D) for float32 z (B, D) on the CPU; ``first`` (B or 1, H₁) is the first layer before any element; no gradient."""
    x = torch.empty(z.shape)
    arrays = z.detach().contiguous().numpy(), first.detach().contiguous().numpy(), net.w_in, net.middle, net.bias
    constants = (*settings, 0.0, 0.0, 0.0)[:3]
    rest = net.w_out, net.b_out, net.upto, net.order, x.numpy(), KINDS[kind], *(np.float32(v) for v in constants)
    # a thread takes whole blocks: rows side by side cost hardly more than one
    blocks = -(-len(z) // int(R))
    over_rows(lambda lo, hi: _unroll(*arrays, *rest, U(lo * int(R)), U(min(hi * int(R), len(z)))), blocks, 1)
    return x
