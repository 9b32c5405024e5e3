"""Texts drawn from a causal transformer, symbol by symbol; the reference is ``SequenceNet.draw`` with ``CausalTransformer``.

    x ← x + out(Σ_{j ≤ i} softmax_j(q_i · k_j / √d) v_j),    x ← x + down(act(up(norm(x))))

Between two symbols every operation is so small that torch's calls take most of the time, and what comes out of one goes through
memory into the next. Here a block of rows stays in the caches of one core from the first symbol to the last, and cores share
nothing. Keys are kept with places side by side, so that products with one query run over places; values with the numbers of a
head side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops, sigmoid
from pushforward.kernels.product import GROUP, ROWS, flat_product, product
from pushforward.kernels.threads import TASK, constant, cube, edge, matrix, opened, run_rows, take, threads

R = 16  # rows of a block, at most
_CACHE = 14 * 2**20  # bytes of keys and values of a block: more would come from memory at every symbol
U = np.uint64
_0 = F(0.0)
_none, _one = U(0), U(1)
_sums: dict[str, Any] = {**lane_loops, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}  # a sum in any order is one of lanes


@njit(**lane_loops)
def _at(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@njit(**lane_loops)
def _times(a: Any, w: Any, c: Any, d: Any, d_step: Any, rows: Any) -> None:
    """c = d + a w for the first ``rows`` rows."""
    k, n = np.int64(w.shape[0]), np.int64(w.shape[1])
    a_step, c_step = np.int64(a.shape[1]), np.int64(c.shape[1])
    m, one = np.int64(rows), np.int64(1)
    if m < ROWS:
        flat_product(_at(a), a_step, one, _at(w), n, _at(c), c_step, _at(d), d_step, m, n, k, False)
    else:
        product(_at(a), a_step, one, _at(w), n, _at(c), c_step, _at(d), d_step, m, n, k, 0, False)


@njit(**_sums)
def _norm(x: Any, scale: Any, y: Any, rows: Any, centred: Any, eps: Any) -> None:
    """LayerNorm where ``centred``, else RMSNorm; ``scale`` holds weights and biases."""
    width = U(x.shape[1])
    for r in range(rows):
        mean, square = _0, _0
        for j in range(width):
            mean += x[r, j]
        mean = mean / F(width) if centred else _0
        for j in range(width):
            square += (x[r, j] - mean) * (x[r, j] - mean)
        rate = F(1.0) / np.sqrt(square / F(width) + eps)
        for j in range(width):
            y[r, j] = (x[r, j] - mean) * rate * scale[0, j] + scale[1, j]


@njit(**lane_loops)
def _turn(a: Any, r: Any, start: Any, turns: Any, place: Any, scale: Any) -> None:
    half = U(turns.shape[2])
    for m in range(half):
        c, s = turns[0, place, m] * scale, turns[1, place, m] * scale
        one, other = a[r, start + m], a[r, start + half + m]
        a[r, start + m] = one * c - other * s
        a[r, start + half + m] = other * c + one * s


@njit(**_sums)
def _look(qkv: Any, r: Any, keys: Any, values: Any, turns: Any, place: Any, score: Any, mixed: Any) -> None:
    """What row r takes from the places up to this one; its keys and values are kept."""
    width, size, seen = U(mixed.shape[1]), U(2 * turns.shape[2]), place + U(1)
    for start in range(U(0), width, size):
        _turn(qkv, r, start, turns, place, F(1.0) / np.sqrt(F(size)))
        _turn(qkv, r, width + start, turns, place, F(1.0))
    for j in range(width):
        keys[j, place] = qkv[r, width + j]
        values[place, j] = qkv[r, U(2) * width + j]
        mixed[r, j] = _0
    for start in range(U(0), width, size):
        for t in range(seen):
            score[t] = _0
        for j in range(start, start + size):
            q = qkv[r, j]
            for t in range(seen):
                score[t] += q * keys[j, t]
        most, total = score[0], _0
        for t in range(seen):
            most = score[t] if score[t] > most else most
        for t in range(seen):
            score[t] = exp(score[t] - most)
        for t in range(seen):
            total += score[t]
        for t in range(seen):
            p = score[t] / total
            for j in range(start, start + size):
                mixed[r, j] += p * values[t, j]


@njit(**lane_loops)
def _act(up: Any, inside: Any, rows: Any, gated: Any) -> None:
    """silu(first half) · second half where ``gated``, else GPT-2's gelu, in place."""
    size = U(inside.shape[1])
    for r in range(rows):
        if gated:
            for j in range(size):
                inside[r, j] = up[r, j] * sigmoid(up[r, j]) * up[r, size + j]
        else:
            for j in range(size):
                x = up[r, j]
                inside[r, j] = x * sigmoid(F(1.5957691216057308) * (x + F(0.044715) * x * x * x))


@njit(**lane_loops)
def _add(x: Any, y: Any, rows: Any) -> None:
    for r in range(rows):
        for j in range(U(x.shape[1])):
            x[r, j] += y[j]


@njit(**lane_loops)
def _sharpen(logit: Any, r: Any, symbols: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    """Logits as ``models.blocks.Sharpening`` has them; of those that are equal where it cuts, all are kept."""
    for k in range(symbols):
        logit[r, k] /= temperature
    least = symbols - top_k if _none < top_k < symbols else _none
    if least > _none or top_p < F(1.0):
        ordered = np.sort(logit[r, :symbols])
        cut, total, mass = ordered[least], 0.0, 0.0
        if top_p < F(1.0):
            for k in range(least, symbols):
                total += np.float64(exp(ordered[k] - ordered[symbols - _one]))
            k = symbols
            while k > least and mass < np.float64(top_p) * total:
                k -= _one
                mass += np.float64(exp(ordered[k] - ordered[symbols - _one]))
            cut = ordered[k]
        for k in range(symbols):
            logit[r, k] = logit[r, k] if logit[r, k] >= cut else F(-np.inf)


@njit(**lane_loops)
def _symbol(logit: Any, r: Any, symbols: Any, u: Any) -> Any:
    """The symbol at the uniform number u."""
    most, total, running = logit[r, 0], 0.0, 0.0
    for k in range(symbols):
        most = logit[r, k] if logit[r, k] > most else most
    for k in range(symbols):
        logit[r, k] = exp(logit[r, k] - most)
    for k in range(symbols):
        total += np.float64(logit[r, k])
    for k in range(symbols):
        running += np.float64(logit[r, k])
        if running > np.float64(u) * total:
            return k
    return symbols - U(1)


@njit(**lane_loops)
def _draw(
    u: Any,
    held: Any,
    condition: Any,
    table: Any,
    places: Any,
    turns: Any,
    norms: Any,
    qkv_w: Any,
    out_w: Any,
    up_w: Any,
    down_w: Any,
    biases: Any,
    head_w: Any,
    head_b: Any,
    drawn: Any,
    constants: Any,
    r0: Any,
    rows: Any,
) -> None:
    """``biases`` holds those of qkv, out, up and down of each layer, as wide as the widest; ``table`` ends with the start."""
    gated, centred, eps, temperature, top_k, top_p = constants
    sharp = temperature != F(1.0) or top_k > _none or top_p < F(1.0)
    layers, length, symbols = U(qkv_w.shape[0]), U(u.shape[1]), U(table.shape[0] - 1)
    width, wide, inner = qkv_w.shape[1], up_w.shape[2], down_w.shape[1]
    holds, told = held.shape[0] == u.shape[0], condition.shape[0] == u.shape[0]
    x, y, mixed = np.empty((R, width), F), np.empty((R, width), F), np.empty((R, width), F)
    qkv, up, inside = np.empty((R, 3 * width), F), np.empty((R, wide), F), np.empty((R, inner), F)
    logit, score = np.empty((R, head_w.shape[1]), F), np.empty(length, F)
    keys, values = np.empty((layers, rows, width, length), F), np.empty((layers, rows, length, width), F)
    step, none = np.int64(width), np.int64(0)
    for place in range(length):
        for r in range(rows):
            code = U(drawn[r0 + r, place - U(1)]) if place > U(0) else symbols
            for j in range(U(width)):
                x[r, j] = table[code, j] + places[place, j] + (condition[r0 + r, j] if told else _0)
        for l in range(layers):
            _norm(x, norms[U(2) * l], y, rows, centred, eps)
            _times(y, qkv_w[l], qkv, biases[l, 0], none, rows)
            for r in range(rows):
                _look(qkv, r, keys[l, r], values[l, r], turns, place, score, mixed)
            _add(x, biases[l, 1], rows)
            _times(mixed, out_w[l], x, x, step, rows)
            _norm(x, norms[U(2) * l + U(1)], y, rows, centred, eps)
            _times(y, up_w[l], up, biases[l, 2], none, rows)
            _act(up, inside, rows, gated)
            _add(x, biases[l, 3], rows)
            _times(inside, down_w[l], x, x, step, rows)
        _norm(x, norms[U(2) * layers], y, rows, centred, eps)
        _times(y, head_w, logit, head_b[0], none, rows)
        for r in range(rows):
            if sharp:
                _sharpen(logit, r, symbols, temperature, top_k, top_p)
            symbol = F(_symbol(logit, r, symbols, u[r0 + r, place]))
            if holds and held[r0 + r, place] == held[r0 + r, place]:
                symbol = held[r0 + r, place]
            drawn[r0 + r, place] = symbol


@cfunc(TASK, cache=True)
def _draws(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        given = matrix(t, 0), matrix(t, 1), matrix(t, 2), matrix(t, 3), matrix(t, 4), cube(t, 5), cube(t, 6), cube(t, 7)
        rest = cube(t, 8), cube(t, 9), cube(t, 10), cube(t, 11), matrix(t, 12), matrix(t, 13), matrix(t, 14)
        constants = constant(t, 0) > _0, constant(t, 1) > _0, constant(t, 2), constant(t, 3), U(constant(t, 4)), constant(t, 5)
        first, last = edge(t, part), edge(t, part + 1)
        _draw(*given, *rest, constants, first, last - first)
        part = take(table)


def fits(width: int, heads: int, wide: int) -> bool:
    """Whether the rows of all weights have whole groups of numbers, and heads pairs of them."""
    return width % GROUP == 0 and wide % GROUP == 0 and width // heads % 2 == 0


def draw(
    u: Tensor,
    held: Tensor,
    *arrays: Tensor,
    gated: bool,
    centred: bool,
    eps: float,
    how: tuple[float, int, float] = (1.0, 0, 1.0),
) -> Tensor:
    """Codes (B, T) as float32 at the uniform numbers u (B, T); codes in ``held``, (B, T) or (0, T), are taken as they are, but
    for those that are not a number. ``arrays`` are those of ``_draw`` up to the head's weights and biases, contiguous, weights
    (inputs, outputs); all are float32. ``how``: temperature, top_k (0: all) and top_p."""
    drawn = u.new_empty(u.shape)
    (layers, width, _), (_, length) = arrays[5].shape, u.shape  # of qkv's weights
    rows, at_once = max(1, min(R, _CACHE // (8 * layers * width * length))), threads(len(u))
    parts = at_once * -(-len(u) // (at_once * rows))
    run_rows(
        _draws, (u, held, *arrays, drawn), (float(gated), float(centred), eps, *map(float, how)), block=-(-len(u) // parts)
    )
    return drawn


def padded(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A linear layer's weight (outputs, inputs) and bias as (inputs, wide) and (1, wide), filled up to whole groups."""
    more = -len(weight) % GROUP
    return torch.nn.functional.pad(weight.t(), (0, more)), torch.nn.functional.pad(bias[None], (0, more))
