"""Attention over few places with narrow heads, as of images at the lowest level of a net; the reference is ``nets.attention``.

    o_n = Σ_t p_nt v_t,    p_n = softmax_t(q_n · k_t / √d)

There the products are so small that calls and copies around them take most of the time. Here a loop runs over ``_W`` queries
side by side, for one key and one number of a head after the other, so that sums and exponentials need no exchange between
lanes. Heads are in float32 or in bfloat16 given as uint16; everything is computed in float32. Keys that a mask hides are left
out when keys are read; a query to whom all are hidden gets zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from torch import Tensor

from pushforward.kernels.lanes import F, lane_loops
from pushforward.kernels.norm import HALF, exp, like, numbers_like, wide
from pushforward.kernels.product import GROUP, product, transpose
from pushforward.kernels.threads import FIRST, TASK, floats, numbers_at, opened, run, take, threads

U = np.uint64
_W, _GROUP = U(64), U(GROUP)
_flags = numbers_at(types.uint8, ir.IntType(8))

# the table: examples, heads, queries, keys, numbers of a head; addresses of the mask (0 for none) and of what is known of each
# query; then of each array its address, the bytes from one example and head to the next, and the numbers to the next place
_SIZES, _MASK, _KNOWN, _ARRAYS = FIRST, FIRST + 5, FIRST + 6, FIRST + 7


@njit(**lane_loops)
def _row(source: Any, at: Any, size: Any, target: Any, to: Any, scale: Any) -> None:
    """One head of a place as float32; loops of a fixed length are quicker than short ones of any."""
    whole = size - size % U(8)
    for start in range(U(0), whole, U(8)):
        for j in range(U(8)):
            target[to + start + j] = wide(source[at + start + j]) * scale
    for j in range(whole, size):
        target[to + j] = wide(source[at + j]) * scale


@njit(**lane_loops)
def _read(source: Any, step: Any, start: Any, count: Any, size: Any, target: Any, width: Any, scale: Any) -> None:
    """``count`` places from ``start`` on, one after the other, times ``scale``."""
    for i in range(count):
        _row(source, (start + i) * step, size, target, i * width, scale)


@njit(**lane_loops)
def _write(source: Any, width: Any, count: Any, size: Any, target: Any, start: Any, step: Any) -> None:
    whole = size - size % U(8)
    for i in range(count):
        to = (start + i) * step
        for first in range(U(0), whole, U(8)):
            for j in range(U(8)):
                target[to + first + j] = like(source[i * width + first + j], target[to + first + j])
        for j in range(whole, size):
            target[to + j] = like(source[i * width + j], target[to + j])


@njit(**lane_loops)
def _seen(source: Any, step: Any, mask: Any, hidden: Any, keys: Any, size: Any, target: Any, width: Any, scale: Any) -> Any:
    """The keys that may be seen, one after the other: how many."""
    count = U(0)
    for t in range(keys):
        if not hidden or mask[t]:
            _row(source, t * step, size, target, count * width, scale)
            count += U(1)
    return count


@njit(**lane_loops)
def _at(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@njit(**lane_loops)
def _forward(
    q: Any, k: Any, v: Any, o: Any, steps: Any, mask: Any, hidden: Any, known: Any, sizes: Any, scale: Any, room: Any
) -> None:
    """One head of one example."""
    queries, keys, size = sizes
    width = (size + _GROUP - U(1)) // _GROUP * _GROUP
    a, b = keys * width, width * _W
    at_k, at_v, rest = room[:a], room[a : U(2) * a], room[U(2) * a :]
    side, turned, rest = rest[:b], rest[b : U(2) * b], rest[U(2) * b :]
    zero, most, total, p = rest[:_W], rest[_W : U(2) * _W], rest[U(2) * _W : U(3) * _W], rest[U(3) * _W :]
    count = _seen(k, steps[1], mask, hidden, keys, size, at_k, width, scale)
    _seen(v, steps[2], mask, hidden, keys, size, at_v, width, F(1.0))
    n, w, w_ = np.int64(count), np.int64(width), np.int64(_W)
    for start in range(U(0), queries, _W):
        held = min(_W, queries - start)
        _read(q, steps[0], start, held, size, side, width, F(1.0))
        transpose(_at(side), w_, w, _at(turned))
        if count > U(0):
            product(_at(at_k), w, 1, _at(turned), w_, _at(p), w_, _at(zero), 0, n, w_, np.int64(size), 0, False)
        for i in range(_W):
            most[i] = F(-3e38)
            total[i] = F(0.0)
        for t in range(count):
            for i in range(_W):
                most[i] = p[t * _W + i] if p[t * _W + i] > most[i] else most[i]
        for t in range(count):
            for i in range(_W):
                e = exp(p[t * _W + i] - most[i])
                p[t * _W + i] = e
                total[i] += e
        if count > U(0):
            product(_at(p), 1, w_, _at(at_v), w, _at(side), w, _at(zero), 0, w_, w, n, 0, False)
        for i in range(_W):
            total[i] = F(1.0) / total[i] if count > U(0) else F(0.0)
        for i in range(held):
            known[start + i], known[queries + start + i] = most[i], total[i]
            for j in range(width):
                side[i * width + j] = side[i * width + j] * total[i] if count > U(0) else F(0.0)
        _write(side, width, held, size, o, start, steps[3])


@njit(**lane_loops)
def _backward(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    gq: Any,
    gk: Any,
    gv: Any,
    steps: Any,
    mask: Any,
    hidden: Any,
    known: Any,
    sizes: Any,
    scale: Any,
    room: Any,
) -> None:
    queries, keys, size = sizes
    width = (size + _GROUP - U(1)) // _GROUP * _GROUP
    a, b, c = keys * width, width * _W, keys * _W
    at_k, at_v, rest = room[:a], room[a : U(2) * a], room[U(2) * a :]
    to_k, to_v, rest = rest[:a], rest[a : U(2) * a], rest[U(2) * a :]
    side, given, turned, rest = rest[:b], rest[b : U(2) * b], rest[U(2) * b : U(3) * b], rest[U(3) * b :]
    zero, most, rate, rest = rest[:_W], rest[_W : U(2) * _W], rest[U(2) * _W : U(3) * _W], rest[U(3) * _W :]
    mean, p, s = rest[:_W], rest[_W : _W + c], rest[_W + c :]
    count = _seen(k, steps[1], mask, hidden, keys, size, at_k, width, scale)
    _seen(v, steps[2], mask, hidden, keys, size, at_v, width, F(1.0))
    for i in range(a):
        to_k[i] = F(0.0)
        to_v[i] = F(0.0)
    n, w, w_, d = np.int64(count), np.int64(width), np.int64(_W), np.int64(size)
    for start in range(U(0), queries, _W):
        held = min(_W, queries - start)
        _read(q, steps[0], start, held, size, side, width, F(1.0))
        _read(g, steps[3], start, held, size, given, width, F(1.0))
        for i in range(held * width, _W * width):  # no one asks there
            side[i] = F(0.0)
            given[i] = F(0.0)
        for i in range(_W):
            most[i] = known[start + i] if i < held else F(0.0)
            rate[i] = known[queries + start + i] if i < held else F(0.0)
            mean[i] = F(0.0)
        if count > U(0):
            transpose(_at(side), w_, w, _at(turned))
            product(_at(at_k), w, 1, _at(turned), w_, _at(p), w_, _at(zero), 0, n, w_, d, 0, False)
            transpose(_at(given), w_, w, _at(turned))
            product(_at(at_v), w, 1, _at(turned), w_, _at(s), w_, _at(zero), 0, n, w_, d, 0, False)
        for t in range(count):
            for i in range(_W):
                weight = exp(p[t * _W + i] - most[i]) * rate[i]
                p[t * _W + i] = weight
                mean[i] += weight * s[t * _W + i]
        for t in range(count):
            for i in range(_W):
                s[t * _W + i] = p[t * _W + i] * (s[t * _W + i] - mean[i])
        if count > U(0):
            product(_at(p), w_, 1, _at(given), w, _at(to_v), w, _at(to_v), w, n, w, w_, 0, False)
            product(_at(s), w_, 1, _at(side), w, _at(to_k), w, _at(to_k), w, n, w, w_, 0, False)
            product(_at(s), 1, w_, _at(at_k), w, _at(given), w, _at(zero), 0, w_, w, n, 0, False)
        else:
            for i in range(_W * width):
                given[i] = F(0.0)
        _write(given, width, held, size, gq, start, steps[4])
    n_ = U(0)
    for t in range(keys):
        seen = not hidden or mask[t]
        for j in range(size):
            to, tv = t * steps[5] + j, t * steps[6] + j
            gk[to] = like(to_k[n_ * width + j] * scale if seen else F(0.0), gk[to])
            gv[tv] = like(to_v[n_ * width + j] if seen else F(0.0), gv[tv])
        n_ += U(1) if seen else U(0)


@njit(**lane_loops)
def _room(t: Any) -> Any:
    """What a head needs to work with; what lies beyond the numbers of a head, up to ``width``, stays zero."""
    keys, width = t[_SIZES + 3], (t[_SIZES + 4] + GROUP - 1) // GROUP * GROUP
    return np.zeros(4 * keys * width + 3 * width * 64 + 4 * 64 + 2 * keys * 64, np.float32)


@njit(inline="always")
def _head(t: Any, array: Any, example: Any, head: Any, kind: Any) -> Any:
    """A head of an array, its end not looked at."""
    at = _ARRAYS + 4 * array
    return carray(numbers_like(t[at] + example * t[at + 1] + head * t[at + 2], kind), 1)


@njit(inline="always")
def _step(t: Any, array: Any) -> Any:
    return U(t[_ARRAYS + 4 * array + 3])


@njit(inline="always")
def _common(t: Any, item: Any) -> Any:
    """Example and head of an item; mask and what is known of it, sizes and scale."""
    heads, queries, keys, size = t[_SIZES + 1], t[_SIZES + 2], t[_SIZES + 3], t[_SIZES + 4]
    example, head = item // heads, item % heads
    mask = carray(_flags(t[_MASK] + example * keys), keys)
    known = carray(floats(t[_KNOWN] + 8 * item * queries), 2 * queries)
    return example, head, (mask, t[_MASK] != 0, known, (U(queries), U(keys), U(size)), F(1.0) / np.sqrt(F(size)))


@njit(inline="always")
def _every_forward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    items, room = t[_SIZES] * t[_SIZES + 1], _room(t)
    steps = (_step(t, 0), _step(t, 1), _step(t, 2), _step(t, 3))
    while part < t[1]:
        for item in range(items * part // t[1], items * (part + 1) // t[1]):
            b, h, rest = _common(t, item)
            q, k, v, o = _head(t, 0, b, h, kind), _head(t, 1, b, h, kind), _head(t, 2, b, h, kind), _head(t, 3, b, h, kind)
            _forward(q, k, v, o, steps, *rest, room)
        part = take(table)


@njit(inline="always")
def _every_backward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    items, room = t[_SIZES] * t[_SIZES + 1], _room(t)
    steps = (_step(t, 0), _step(t, 1), _step(t, 2), _step(t, 3), _step(t, 4), _step(t, 5), _step(t, 6))
    while part < t[1]:
        for item in range(items * part // t[1], items * (part + 1) // t[1]):
            b, h, rest = _common(t, item)
            q, k, v, g = _head(t, 0, b, h, kind), _head(t, 1, b, h, kind), _head(t, 2, b, h, kind), _head(t, 3, b, h, kind)
            gq, gk, gv = _head(t, 4, b, h, kind), _head(t, 5, b, h, kind), _head(t, 6, b, h, kind)
            _backward(q, k, v, g, gq, gk, gv, steps, *rest, room)
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


def _run(whole: Any, half: Any, arrays: tuple[Tensor, ...], mask: Tensor | None, known: Tensor) -> None:
    q, k = arrays[:2]
    examples, heads, queries, size = q.shape
    mask = None if mask is None else mask.contiguous()
    entries = [0, 0, examples, heads, queries, k.shape[2], size, 0 if mask is None else mask.data_ptr(), known.data_ptr()]
    for array in arrays:
        by_example, by_head, by_place = array.stride()[:3]
        entries += [array.data_ptr(), by_example * array.element_size(), by_head * array.element_size(), by_place]
    items = examples * heads
    parts = threads(items * queries * k.shape[2] // 20_000)
    # more parts than threads, since one of them may start late
    run(
        whole if q.dtype == torch.float32 else half,
        min(items, 4 * parts) if parts > 1 else 1,
        np.array(entries, dtype=np.int64),
    )


def _heads(examples: int, heads: int, places: int, size: int, *, dtype: torch.dtype) -> Tensor:
    """(B, H, N, d), laid out so that the heads of a place lie side by side."""
    return torch.empty(examples, places, heads, size, dtype=dtype).transpose(1, 2)


def _close(*arrays: Tensor) -> tuple[Tensor, ...]:
    return tuple(t if t.stride(-1) == 1 else t.contiguous() for t in arrays)


def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """o (B, H, N, d) and what ``backward`` needs, for q (B, H, N, d), k, v (B, H, T, d) and mask (B, T), all of one type."""
    q, k, v = _close(q, k, v)
    o, known = _heads(*q.shape, dtype=q.dtype), torch.empty(*q.shape[:2], 2, q.shape[2])
    _run(_forwards, _forwards_half, (q, k, v, o), mask, known)
    return o, known


def backward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, known: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v, given that by o."""
    q, k, v, g = _close(q, k, v, g)
    gq, gk, gv = (_heads(*t.shape, dtype=t.dtype) for t in (q, k, v))
    _run(_backwards, _backwards_half, (q, k, v, g, gq, gk, gv), mask, known)
    return gq, gk, gv
