"""Group normalisation, a scale and a shift, and SiLU in one pass over a map; the reference is ``nets.norm.normalised``.

    y = f(s n + t),   n = (x + b − μ) / √(v + ε),   f(u) = u σ(u) or u

μ and v are those of an example's group of channels, s, t and b a number for each channel of an example. Maps are
channels-last, (B, places, channels), in float32 or in bfloat16 given as uint16; everything is computed in float32. An example
stays in the cache while it is read twice, so each number goes once through memory. Loops run over several places at once, so
that they are long whatever the number of channels is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from torch import Tensor

from pushforward.kernels.lanes import F, lane_loops
from pushforward.kernels.threads import TASK, constant, cube, edge, matrix, opened, run_rows, take

U = np.uint64
HALF = np.uint16  # the bits of a bfloat16
_LONG = U(512)  # numbers of a loop


def _numbers_like(typing: Any, address: Any, kind: Any) -> Any:
    """A pointer to the numbers at an address, of the type of ``kind``: float32, or bfloat16 as uint16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_data_type(signature.return_type))

    return types.CPointer(kind)(types.int64, kind), generate


numbers_like: Any = intrinsic(_numbers_like)


def _wide(typing: Any, x: Any) -> Any:
    """A number of a map as float32: bfloat16 is its upper half."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if x == types.float32:
            return args[0]
        bits = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(x), generate


wide: Any = intrinsic(_wide)


def _like(typing: Any, value: Any, x: Any) -> Any:
    """The float32 ``value`` as a number of a map of the type of ``x``, rounded to nearest, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if x == types.float32:
            return args[0]
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return x(types.float32, x), generate


like: Any = intrinsic(_like)


def _scale(typing: Any, x: Any, power: Any) -> Any:
    """x 2ⁿ, where ``power`` is 1.5 · 2²³ + n."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        x, power = (builder.bitcast(a, word) for a in args)
        return builder.bitcast(builder.add(x, builder.shl(power, ir.Constant(word, 23))), ir.FloatType())

    return types.float32(types.float32, types.float32), generate


_scaled: Any = intrinsic(_scale)


@njit(**lane_loops)
def exp(x: Any) -> Any:
    """eˣ, between e⁻⁸⁷ and e⁸⁷, at half the cost of ``lanes.exp``; its relative error, 1e-7, grows with |x| like that of x."""
    t = min(max(x * F(1.44269504), F(-125.5)), F(125.5))
    power = t + F(12582912.0)  # in its last digits the nearest whole number
    r = t - (power - F(12582912.0))
    p = F(1.3266975146e-3)
    p = p * r + F(9.6754645764e-3)
    p = p * r + F(5.5507426458e-2)
    p = p * r + F(2.4022121665e-1)
    p = p * r + F(6.9314694912e-1)
    p = p * r + F(1.0000000710)
    return _scaled(p, power)


@njit(**lane_loops)
def sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ)."""
    return F(1.0) / (F(1.0) + exp(-x))


@njit(**lane_loops)
def _repeated(values: Any, channels: Any, length: Any) -> None:
    """The first ``channels`` numbers once more for every further place."""
    for i in range(channels, length):
        values[i] = values[i - channels]


@njit(**lane_loops)
def _folded(values: Any, channels: Any, length: Any) -> None:
    """Sums over places in the first ``channels`` numbers."""
    for start in range(channels, length, channels):
        for c in range(channels):
            values[c] += values[start + c]


@njit(**lane_loops)
def _measure(x: Any, before: Any, known: Any, first: Any, s1: Any, s2: Any, groups: Any, eps: Any, length: Any) -> None:
    """For each channel of one example x (places · channels,): n = (x − known[0]) known[1], and in known[2] its mean."""
    mean, rate = known[0], known[1]
    size, channels = U(x.shape[0]), U(mean.shape[0])
    places, each = F(size // channels), channels // U(groups)
    # sums of the distance from the first place, so that a mean far from zero costs no digits
    for c in range(channels):
        first[c] = wide(x[c])
    _repeated(first, channels, length)
    for i in range(length):
        s1[i] = F(0.0)
        s2[i] = F(0.0)
    for start in range(U(0), size, length):
        for i in range(min(length, size - start)):
            d = wide(x[start + i]) - first[i]
            s1[i] += d
            s2[i] += d * d
    _folded(s1, channels, length)
    _folded(s2, channels, length)
    for g in range(U(groups)):
        total = F(0.0)
        for c in range(g * each, (g + U(1)) * each):
            mean[c] = first[c] + s1[c] / places + before[c]
            total += mean[c]
        middle, spread = total / F(each), F(0.0)
        for c in range(g * each, (g + U(1)) * each):
            apart = mean[c] - middle
            spread += s2[c] - s1[c] * s1[c] / places + places * apart * apart
        inverse = F(1.0) / np.sqrt(max(spread, F(0.0)) / (places * F(each)) + eps)
        for c in range(g * each, (g + U(1)) * each):
            known[2, c] = mean[c] - before[c]
            mean[c], rate[c] = middle - before[c], inverse


@njit(**lane_loops)
def _forward(
    x: Any, y: Any, scale: Any, shift: Any, before: Any, known: Any, start: Any, stop: Any, groups: Any, eps: Any, silu: Any
) -> None:
    size, channels = U(x.shape[1]), U(scale.shape[1])
    length = channels * max(U(1), _LONG // channels)
    first, s1, s2 = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    for b in range(start, stop):
        mean, rate = known[b, 0], known[b, 1]
        _measure(x[b], before[min(b, U(before.shape[0] - 1))], known[b], first, s1, s2, groups, eps, length)
        of = min(b, U(scale.shape[0] - 1))
        for c in range(channels):
            s1[c] = rate[c] * scale[of, c]
            s2[c] = shift[of, c] - mean[c] * s1[c]
        _repeated(s1, channels, length)
        _repeated(s2, channels, length)
        for at in range(U(0), size, length):
            for i in range(min(length, size - at)):
                u = wide(x[b, at + i]) * s1[i] + s2[i]
                y[b, at + i] = like(u * sigmoid(u) if silu else u, x[b, at + i])


@njit(**lane_loops)
def _backward(
    x: Any,
    g: Any,
    gx: Any,
    scale: Any,
    shift: Any,
    known: Any,
    sums: Any,
    start: Any,
    stop: Any,
    groups: Any,
    silu: Any,
) -> None:
    """``sums`` gets for each channel Σ h, Σ h n and Σ gx, with h = g f'(u): gradients by shift, scale and what came before."""
    size, channels = U(x.shape[1]), U(scale.shape[1])
    places, each = F(size // channels), channels // U(groups)
    length = channels * max(U(1), _LONG // channels)
    a, d = np.empty(length, np.float32), np.empty(length, np.float32)
    e, r = np.empty(length, np.float32), np.empty(length, np.float32)
    p, q = np.empty(length, np.float32), np.empty(length, np.float32)
    kept = np.empty(size, np.float32)
    for b in range(start, stop):
        of = min(b, U(scale.shape[0] - 1))
        for c in range(channels):
            e[c], r[c] = -known[b, 0, c] * known[b, 1, c], known[b, 1, c]
            a[c], d[c] = scale[of, c], shift[of, c]
        for values in (a, d, e, r):
            _repeated(values, channels, length)
        for i in range(length):
            p[i] = F(0.0)
            q[i] = F(0.0)
        for at in range(U(0), size, length):
            count = min(length, size - at)
            for i in range(count):
                n = wide(x[b, at + i]) * r[i] + e[i]
                h = wide(g[b, at + i])
                if silu:  # the compiler makes two loops of this one
                    u = a[i] * n + d[i]
                    share = sigmoid(u)
                    h *= share * (F(1.0) + u * (F(1.0) - share))
                kept[at + i] = h
                p[i] += h
                q[i] += h * n
        for values in (p, q):
            _folded(values, channels, length)
        for group in range(U(groups)):
            one, two = F(0.0), F(0.0)
            for c in range(group * each, (group + U(1)) * each):
                sums[b, 0, c], sums[b, 1, c] = p[c], q[c]
                one += a[c] * p[c]
                two += a[c] * q[c]
            one, two = one / (places * F(each)), two / (places * F(each))
            for c in range(group * each, (group + U(1)) * each):
                # Σ n of a channel, from how far its mean is from that of the group
                apart = places * (known[b, 2, c] * r[c] + e[c])
                sums[b, 2, c] = r[c] * (a[c] * p[c] - places * one - two * apart)
                # gx = r (a h − one − n two), n = r x + e
                a[c], p[c], q[c] = r[c] * a[c], r[c] * (one + two * e[c]), r[c] * r[c] * two
        for values in (a, p, q):
            _repeated(values, channels, length)
        for at in range(U(0), size, length):
            for i in range(min(length, size - at)):
                gx[b, at + i] = like(a[i] * kept[at + i] - p[i] - q[i] * wide(x[b, at + i]), x[b, at + i])


@njit(inline="always")
def number_map(t: Any, i: Any, kind: Any) -> Any:
    """Array number i, of two dimensions, of numbers like ``kind``."""
    at = 4 + 4 * i
    return carray(numbers_like(t[at], kind), (t[at + 1], t[at + 2]))


@njit(inline="always")
def _every_forward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        where = (edge(t, part), edge(t, part + 1), int(constant(t, 0)), constant(t, 1), constant(t, 2) > 0)
        _forward(number_map(t, 0, kind), number_map(t, 1, kind), matrix(t, 2), matrix(t, 3), matrix(t, 4), cube(t, 5), *where)
        part = take(table)


@njit(inline="always")
def _every_backward(table: Any, kind: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        where = (edge(t, part), edge(t, part + 1), int(constant(t, 0)), constant(t, 2) > 0)
        maps = (number_map(t, 0, kind), number_map(t, 1, kind), number_map(t, 2, kind))
        _backward(*maps, matrix(t, 3), matrix(t, 4), cube(t, 5), cube(t, 6), *where)
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


def _rows(x: Tensor) -> Tensor:
    """A channels-last map (B, C, H, W) as (B, H · W · C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def forward(
    x: Tensor, scale: Tensor, shift: Tensor, before: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor]:
    """y and what ``backward`` needs of x (B, C, H, W), channels-last, and float32 scale, shift, before (B or 1, C)."""
    y = torch.empty_like(x)
    known = torch.empty(len(x), 3, x.shape[1])
    task = _forwards if x.dtype == torch.float32 else _forwards_half
    run_rows(task, (_rows(x), _rows(y), scale, shift, before, known), (groups, eps, silu), cost=8_000)
    return y, known


def backward(x: Tensor, g: Tensor, scale: Tensor, shift: Tensor, known: Tensor, groups: int, silu: bool) -> tuple[Tensor, ...]:
    """Gradients by x, scale, shift and before, the last three for each example (B, C), given that by y."""
    gx = torch.empty_like(x)
    sums = torch.empty(len(x), 3, x.shape[1])
    task = _backwards if x.dtype == torch.float32 else _backwards_half
    run_rows(task, (_rows(x), _rows(g), _rows(gx), scale, shift, known, sums), (groups, 0.0, silu), cost=8_000)
    return gx, sums[:, 1], sums[:, 0], sums[:, 2]
