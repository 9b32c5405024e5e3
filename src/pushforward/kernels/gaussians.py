"""The E step of a mixture of Gaussians in one pass over the rows, in float64; the reference is ``models.mixture``.

    log p_k(y) = h_k − ½ ‖W_k y − c_k‖²,   W_k = L_k⁻¹ lower triangular, c_k = W_k μ_k
    ℓ = log Σ_k p_k(y),   r_k = w p_k(y)/e^ℓ;      N_k = Σ r_k,   F_k = Σ r_k y,   S_k = Σ r_k y yᵀ

A block of rows is turned so that numbers of one coordinate are neighbours, and stays in the caches until all sums have it. Two
rows of W_k go over four vectors of rows of y at once; sums of products are tiles of S_k's lower half. A component takes only
the rows whose r_k is above 1e-25: others would change none of its digits, as long as it has any.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from pushforward.kernels.lanes import _inlined, lane_loops
from pushforward.kernels.product import LANES as SINGLES
from pushforward.kernels.threads import FIRST, TASK, numbers_at, run, take, threads

LANES = SINGLES // 2  # numbers of a vector
STRIP = 4 * LANES  # rows of y that go through W_k together
BLOCK = 512  # rows that are turned together
SIDE = 4  # a tile of S_k is so many rows by ``ACROSS`` columns
ACROSS = 4 if SINGLES == 16 else 2
LEAST = 1e-25
_NEGLIGIBLE = -700.0

_number, _index = ir.DoubleType(), ir.IntType(64)
_vector = ir.VectorType(_number, LANES)
doubles = numbers_at(types.float64, _number)

# entries of the task's table; PART is how many numbers the sums of one part have
ROWS, SIZE, COUNT, Y, WHITEN, CENTRES, HEIGHT, WEIGHT, LIKELIHOOD, SUMS, PART = (FIRST + i for i in range(11))
ENTRIES = FIRST + 11


def _constant(i: int) -> Any:
    return ir.Constant(_index, i)


def _load(builder: Any, start: Any, offset: Any) -> Any:
    value = builder.load(builder.bitcast(builder.gep(start, [offset]), _vector.as_pointer()))
    value.align = 8
    return value


def _spread(builder: Any, number: Any) -> Any:
    blank, at = ir.Constant(_vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    one = builder.insert_element(blank, number, at)
    return builder.shuffle_vector(one, blank, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _fused(builder: Any) -> Any:
    kind = ir.FunctionType(_vector, [_vector] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f64")


def _looped(builder: Any, count: Any, first: dict[Any, Any], step: Any) -> dict[Any, Any]:
    """``step(i, values) -> values`` for i = 0 … count − 1, once at least."""
    before = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i, values = builder.phi(_index), {name: builder.phi(value.type) for name, value in first.items()}
    after = step(i, values)
    later = builder.add(i, _constant(1))
    for phi, start, then in [(i, _constant(0), later), *((values[n], first[n], after[n]) for n in first)]:
        phi.add_incoming(start, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", later, count), loop, done)
    builder.position_at_end(done)
    return after


@intrinsic
def _whitened(typing: Any, y: Any, step: Any, w: Any, c: Any, count: Any, squares: Any) -> Any:
    """Adds (w₀·y − c₀)² + (w₁·y − c₁)² of ``STRIP`` rows to ``squares``; y has ``count`` coordinates ``step`` numbers apart, w
    pairs of weights."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, step, w, c, count, squares = args
        y, w, c, squares = (builder.inttoptr(p, _number.as_pointer()) for p in (y, w, c, squares))
        fma = _fused(builder)
        starts = [builder.fneg(_spread(builder, builder.load(builder.gep(c, [_constant(r)])))) for r in range(2)]

        def forward(j: Any, sums: dict[Any, Any]) -> dict[Any, Any]:
            column, pair = builder.mul(j, step), builder.mul(j, _constant(2))
            by = [_spread(builder, builder.load(builder.gep(w, [builder.add(pair, _constant(r))]))) for r in range(2)]
            rows = [_load(builder, y, builder.add(column, _constant(v * LANES))) for v in range(4)]
            return {(r, v): builder.call(fma, [by[r], rows[v], sums[r, v]]) for r, v in sums}

        white = _looped(builder, count, {(r, v): starts[r] for r in range(2) for v in range(4)}, forward)
        for v in range(4):
            total = _load(builder, squares, _constant(v * LANES))
            for r in range(2):
                total = builder.call(fma, [white[r, v], white[r, v], total])
            at = builder.bitcast(builder.gep(squares, [_constant(v * LANES)]), _vector.as_pointer())
            builder.store(total, at).align = 8
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@intrinsic
def _tile(typing: Any, a: Any, b: Any, step: Any, vectors: Any, c: Any) -> Any:
    """Adds Σ a_i b_j over ``vectors`` vectors to ``SIDE`` × ``ACROSS`` numbers; rows of a and b are ``step`` numbers apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, step, vectors, c = args
        a, b, c = (builder.inttoptr(p, _number.as_pointer()) for p in (a, b, c))
        fma = _fused(builder)
        lines = [builder.mul(step, _constant(i)) for i in range(max(SIDE, ACROSS))]

        def forward(v: Any, sums: dict[Any, Any]) -> dict[Any, Any]:
            at = builder.mul(v, _constant(LANES))
            left = [_load(builder, a, builder.add(lines[i], at)) for i in range(SIDE)]
            right = [_load(builder, b, builder.add(lines[j], at)) for j in range(ACROSS)]
            return {(i, j): builder.call(fma, [left[i], right[j], sums[i, j]]) for i, j in sums}

        zero = ir.Constant(_vector, [0.0] * LANES)
        sums = _looped(builder, vectors, {(i, j): zero for i in range(SIDE) for j in range(ACROSS)}, forward)
        # neighbours are added in pairs until every number of a vector is one sum, in order
        found, half = [sums[i, j] for i in range(SIDE) for j in range(ACROSS)], LANES
        mask = ir.VectorType(ir.IntType(32), LANES)
        even, odd = ([2 * i + s for i in range(LANES)] for s in (0, 1))
        while half > 1:
            pairs = [(found[i], found[i + 1]) for i in range(0, len(found), 2)]
            found = [
                builder.fadd(*(builder.shuffle_vector(p, q, ir.Constant(mask, of)) for of in (even, odd))) for p, q in pairs
            ]
            half //= 2
        for i, value in enumerate(found):
            at = _constant(i * LANES)
            place = builder.bitcast(builder.gep(c, [at]), _vector.as_pointer())
            builder.store(builder.fadd(_load(builder, c, at), value), place).align = 8
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def _power(typing: Any, n: Any) -> Any:
    """2ⁿ for a whole number n + 1.5 · 2⁵², whose lowest bits are n."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _index)
        return builder.bitcast(builder.shl(builder.add(bits, _constant(1023)), _constant(52)), _number)

    return types.float64(types.float64), generate


_TAYLOR = tuple(1 / math.factorial(i) for i in range(13, -1, -1))


@njit(**_inlined)
def exp(x: Any) -> Any:
    """eˣ for −708 ≤ x ≤ 0, by 2ⁿ · eʳ with |r| ≤ ½ log 2."""
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10
    p = _TAYLOR[0]
    for i in range(1, 14):
        p = p * r + _TAYLOR[i]
    return p * _power(shifted)  # type: ignore[call-arg]


@njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True, cache=True)
def _total(x: Any, n: Any) -> Any:
    total = 0.0
    for i in range(n):
        total += x[i]
    return total


@njit(**lane_loops)
def _turned(y: Any, n: Any, size: Any, wide: Any, turned: Any) -> None:
    """n rows of y (…, size) to (wide, BLOCK), zeros in what is left."""
    for d in range(wide):
        for b in range(n if d < size else 0, BLOCK):
            turned[d, b] = 0.0
    for b in range(n):
        for d in range(size):
            turned[d, b] = y[b, d]


@njit(**lane_loops)
def _share(joint: Any, count: Any, n: Any, likelihood: Any, top: Any, sums: Any) -> None:
    """log p_k (K, BLOCK) to r_k, and ℓ of the first n rows."""
    for b in range(BLOCK):
        top[b] = joint[0, b]
    for k in range(1, count):
        for b in range(BLOCK):
            top[b] = max(top[b], joint[k, b])
    for b in range(BLOCK):
        sums[b] = 0.0
    for k in range(count):
        for b in range(BLOCK):
            value = exp(max(joint[k, b] - top[b], _NEGLIGIBLE))
            joint[k, b] = value
            sums[b] += value
    for b in range(n):
        likelihood[b] = top[b] + math.log(sums[b])
    for b in range(BLOCK):
        sums[b] = 1.0 / sums[b]
    for k in range(count):
        for b in range(BLOCK):
            joint[k, b] *= sums[b]


@njit(**lane_loops)
def _collect(turned: Any, share: Any, n: Any, size: Any, wide: Any, chosen: Any, rows: Any, weighed: Any) -> Any:
    """Rows whose share counts, and the same times their share; how many, or −1 where these are all rows of the block in
    place."""
    held = 0
    for b in range(n):
        chosen[held] = b
        held += 1 if share[b] > LEAST else 0
    if 2 * held > n:
        for d in range(size):
            for b in range(BLOCK):
                weighed[d, b] = turned[d, b] * share[b]
        for b in range(BLOCK):
            weighed[wide, b] = share[b]
        return -1
    whole = (held + LANES - 1) // LANES * LANES
    for d in range(size):
        for i in range(held):
            rows[d, i] = turned[d, chosen[i]]
        for i in range(held, whole):
            rows[d, i] = 0.0
    for i in range(held):
        weighed[wide, i] = share[chosen[i]]
    for i in range(held, whole):
        weighed[wide, i] = 0.0
    for d in range(size):
        for i in range(whole):
            weighed[d, i] = rows[d, i] * weighed[wide, i]
    return held


@njit(**lane_loops)
def _block(
    t: Any, part: Any, r0: Any, n: Any, turned: Any, joint: Any, rows: Any, weighed: Any, line: Any, chosen: Any
) -> None:
    size, count = t[SIZE], t[COUNT]
    wide = (size + SIDE - 1) // SIDE * SIDE
    pairs = (size + 1) // 2
    _turned(carray(doubles(t[Y] + 8 * r0 * size), (n, size)), n, size, wide, turned)
    height = carray(doubles(t[HEIGHT]), count)
    each = pairs * (pairs + 1) * 2
    for s in range(0, n, STRIP):
        for k in range(count):
            at = joint.ctypes.data + 8 * (k * BLOCK + s)
            for b in range(s, s + STRIP):
                joint[k, b] = 0.0
            w = t[WHITEN] + 8 * k * each
            for p in range(pairs):
                c = t[CENTRES] + 16 * (k * pairs + p)
                _whitened(turned.ctypes.data + 8 * s, BLOCK, w, c, 2 * p + 2, at)  # type: ignore[call-arg]
                w += 32 * (p + 1)
    for k in range(count):
        for b in range(BLOCK):
            joint[k, b] = height[k] - 0.5 * joint[k, b]
    _share(joint, count, n, carray(doubles(t[LIKELIHOOD] + 8 * r0), n), line[0], line[1])
    if t[SUMS] == 0:
        return
    if t[WEIGHT] != 0:
        weight = carray(doubles(t[WEIGHT] + 8 * r0), n)
        for k in range(count):
            for b in range(n):
                joint[k, b] *= weight[b]
    tiles = (wide // SIDE) * (wide // SIDE + 1) // 2 * (SIDE // ACROSS)
    sums = t[SUMS] + 8 * part * t[PART]
    for k in range(count):
        for b in range(n, BLOCK):
            joint[k, b] = 0.0
        held = _collect(turned, joint[k], n, size, wide, chosen, rows, weighed)
        if held == 0:
            continue
        right = turned.ctypes.data if held < 0 else rows.ctypes.data
        held = n if held < 0 else held
        vectors = (held + LANES - 1) // LANES
        into = carray(doubles(sums + 8 * k * (1 + size + tiles * SIDE * ACROSS)), 1 + size)
        into[0] += _total(weighed[wide], held)
        for d in range(size):
            into[1 + d] += _total(weighed[d], held)
        c = into.ctypes.data + 8 * (1 + size)
        for i in range(0, wide, SIDE):
            for j in range(0, i + SIDE, ACROSS):
                left = weighed.ctypes.data + 8 * i * BLOCK
                _tile(left, right + 8 * j * BLOCK, BLOCK, vectors, c)  # type: ignore[call-arg]
                c += 8 * SIDE * ACROSS


@cfunc(TASK, cache=True)
def _expecting(table: Any) -> None:
    t = carray(table, ENTRIES)
    wide = (t[SIZE] + SIDE - 1) // SIDE * SIDE
    turned, rows, weighed = np.zeros((wide, BLOCK)), np.zeros((wide, BLOCK)), np.zeros((wide + 1, BLOCK))
    joint, line, chosen = np.zeros((t[COUNT], BLOCK)), np.empty((2, BLOCK)), np.empty(BLOCK + 1, np.int64)
    blocks = (t[ROWS] + BLOCK - 1) // BLOCK
    part = take(table)
    while part < t[1]:
        for block in range(blocks * part // t[1], blocks * (part + 1) // t[1]):
            r0 = block * BLOCK
            _block(t, part, r0, min(BLOCK, t[ROWS] - r0), turned, joint, rows, weighed, line, chosen)
        part = take(table)


def _paired(whiten: Tensor) -> Tensor:
    """W_k (K, D, D) as pairs of rows, each as far as it has numbers: (K, P (P + 1) 2) for P pairs."""
    k, size = whiten.shape[:2]
    pairs = (size + 1) // 2
    wide = torch.nn.functional.pad(whiten, (0, 2 * pairs - size, 0, 2 * pairs - size)).view(k, pairs, 2, 2 * pairs)
    return torch.cat([wide[:, p, :, : 2 * p + 2].mT.reshape(k, -1) for p in range(pairs)], 1).contiguous()


def e_step(
    y: Tensor, whiten: Tensor, centres: Tensor, height: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ℓ (B,), N (K,), F (K, D) and S (K, D, D) of float64 rows y (B, D) on the CPU, given W (K, D, D), c (K, D) and h (K,)."""
    size, count = y.shape[1], len(height)
    groups = -(-size // SIDE)
    tiles = groups * (groups + 1) // 2 * (SIDE // ACROSS)
    each = 1 + size + tiles * SIDE * ACROSS
    sums = y.new_zeros(threads(max(1, len(y) // BLOCK)), count, each)
    likelihood = _run(y, whiten, centres, height, weight, sums)
    total = sums[0] if len(sums) == 1 else sums.sum(0)
    found = y.new_zeros(count, groups * SIDE, groups * SIDE)
    at = 1 + size
    for i in range(0, groups * SIDE, SIDE):
        span = (i + SIDE) * SIDE
        line = total[:, at : at + span].view(count, -1, SIDE, ACROSS).transpose(1, 2).reshape(count, SIDE, i + SIDE)
        found[:, i : i + SIDE, : i + SIDE] = line
        found[:, : i + SIDE, i : i + SIDE] = line.mT
        at += span
    return likelihood, total[:, 0], total[:, 1 : 1 + size], found[:, :size, :size].contiguous()


def log_likelihood(y: Tensor, whiten: Tensor, centres: Tensor, height: Tensor) -> Tensor:
    """ℓ (B,) alone, of what ``e_step`` takes."""
    return _run(y, whiten, centres, height, None, None)


def _run(y: Tensor, whiten: Tensor, centres: Tensor, height: Tensor, weight: Tensor | None, sums: Tensor | None) -> Tensor:
    rows, size = y.shape
    y, height, weight = y.contiguous(), height.contiguous(), None if weight is None else weight.contiguous()
    packed, shifts = _paired(whiten), torch.nn.functional.pad(centres, (0, size % 2)).contiguous()
    likelihood = y.new_empty(rows)
    held = (y, packed, shifts, height, weight, likelihood, sums)
    parts = threads(max(1, rows // BLOCK)) if sums is None else len(sums)
    addresses = [0 if t is None else t.data_ptr() for t in held]
    entries = [0, 0, rows, size, len(height), *addresses, 0 if sums is None else sums[0].numel()]
    run(_expecting, parts, np.array(entries, dtype=np.int64))
    return likelihood
