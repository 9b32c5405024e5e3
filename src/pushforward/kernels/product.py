"""Products of float32 matrices at the width of the processor; the reference is ``@``.

    C[m, :] = D[m, :] + Σ_k A[m, k] B[k, :],   then max(0, ·) if wanted

A tile of C, a few rows by a few vectors, stays in registers while k runs; each step loads one vector of B for all rows and one
number of A for all columns. A may have any strides, rows of B, C and D are contiguous: so the three products of a linear layer
(x Wᵀ, g W and gᵀ x) need no transposed copies beyond that of W. Where a mask makes part of B zero, k runs over the rest only.

Matrices are given by address (int64) and strides, counted in numbers.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from pushforward.kernels.lanes import lane_loops
from pushforward.kernels.threads import integers

try:
    _host = dict(binding.get_host_cpu_features())
except RuntimeError:  # LLVM does not know this processor
    _host = {}
AVAILABLE = bool(_host.get("fma") or _host.get("avx512f") or platform.machine() in ("arm64", "aarch64"))
"""Whether the processor multiplies and adds in one instruction; without, the products of torch are quicker."""
LANES = 16 if _host.get("avx512f") else 8 if _host.get("fma") else 4
ROWS = 8 if LANES != 8 else 4  # the registers of a processor hold a tile of two vectors by so many rows
GROUP = 16  # columns of B for which one range of k is given; rows of B, C and D have so many numbers, or a multiple

_number, _index = ir.FloatType(), ir.IntType(64)
_vector = ir.VectorType(_number, LANES)


def _tile(rows: int, vectors: int) -> Any:
    """The product for a tile of ``rows`` rows by ``vectors`` vectors of C, at least one step of k."""

    @intrinsic
    def tile(
        typing: Any, a: Any, a_m: Any, a_k: Any, b: Any, b_k: Any, c: Any, c_m: Any, d: Any, d_m: Any, count: Any, relu: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, a_m, a_k, b, b_k, c, c_m, d, d_m, count, relu = args
            a, b, c, d = (builder.inttoptr(p, _number.as_pointer()) for p in (a, b, c, d))
            kind = ir.FunctionType(_vector, [_vector] * 3)
            multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
            places = [(m, v) for m in range(rows) for v in range(vectors)]
            step = [ir.Constant(_index, m) for m in range(rows)]

            def at(start: Any, stride: Any, m: int, v: int) -> Any:
                place = builder.gep(start, [builder.add(builder.mul(step[m], stride), ir.Constant(_index, v * LANES))])
                return builder.bitcast(place, _vector.as_pointer())

            def load(place: Any) -> Any:
                value = builder.load(place)
                value.align = 4
                return value

            sums = {(m, v): load(at(d, d_m, m, v)) for m, v in places}
            row = [builder.mul(step[m], a_m) for m in range(rows)]
            before = builder.block
            loop, done = builder.append_basic_block("k"), builder.append_basic_block("sums")
            builder.branch(loop)
            builder.position_at_end(loop)
            k, left, right = builder.phi(_index), builder.phi(a.type), builder.phi(b.type)
            running = {place: builder.phi(_vector) for place in places}
            vector = [load(at(right, b_k, 0, v)) for v in range(vectors)]
            blank, spread = ir.Constant(_vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            after = {}
            for m in range(rows):
                one = builder.insert_element(blank, builder.load(builder.gep(left, [row[m]])), ir.Constant(ir.IntType(32), 0))
                one = builder.shuffle_vector(one, blank, spread)
                for v in range(vectors):
                    after[m, v] = builder.call(multiply_add, [one, vector[v], running[m, v]])
            later = builder.add(k, ir.Constant(_index, 1))
            ends = [(k, step[0], later), (left, a, builder.gep(left, [a_k])), (right, b, builder.gep(right, [b_k]))]
            for phi, first, then in ends + [(running[p], sums[p], after[p]) for p in places]:
                phi.add_incoming(first, before)
                phi.add_incoming(then, loop)
            builder.cbranch(builder.icmp_signed("<", later, count), loop, done)
            builder.position_at_end(done)
            least = builder.select(relu, ir.Constant(_number, 0.0), ir.Constant(_number, float("-inf")))
            least = builder.shuffle_vector(builder.insert_element(blank, least, ir.Constant(ir.IntType(32), 0)), blank, spread)
            for m, v in places:  # compared this way round, what is not a number stays so
                value = builder.select(builder.fcmp_ordered("<", after[m, v], least), least, after[m, v])
                builder.store(value, at(c, c_m, m, v)).align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10, types.boolean), generate

    return tile


_full, _narrow, _row, _short = _tile(ROWS, 2), _tile(ROWS, 1), _tile(1, 2), _tile(1, 1)


def _turn(typing: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """A square of as many rows as a vector has numbers, transposed: rounds of exchanges between pairs of vectors."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_step, target, target_step = args
        source, target = (builder.inttoptr(p, _number.as_pointer()) for p in (source, target))

        def place(start: Any, step: Any, m: int) -> Any:
            at = builder.gep(start, [builder.mul(ir.Constant(_index, m), step)])
            return builder.bitcast(at, _vector.as_pointer())

        rows = []
        for m in range(LANES):
            value = builder.load(place(source, source_step, m))
            value.align = 4
            rows.append(value)
        half = LANES // 2
        while half:
            # rows m and m + half swap the off-diagonal halves of their blocks of 2 · half numbers
            upper = [i if i % (2 * half) < half else LANES + i - half for i in range(LANES)]
            lower = [i + half if i % (2 * half) < half else LANES + i for i in range(LANES)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), order) for order in (upper, lower)]
            for m in (m for m in range(LANES) if m % (2 * half) < half):
                a, b = rows[m], rows[m + half]
                rows[m], rows[m + half] = (builder.shuffle_vector(a, b, order) for order in masks)
            half //= 2
        for m, value in enumerate(rows):
            builder.store(value, place(target, target_step, m)).align = 4
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


_turned: Any = intrinsic(_turn)


@njit(**lane_loops)
def transpose(source: Any, rows: Any, columns: Any, target: Any) -> None:
    """The matrix (rows, columns) at ``source`` to (columns, rows) at ``target``; both sizes are multiples of ``GROUP``."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            _turned(source + 4 * (i * columns + j), columns, target + 4 * (j * rows + i), rows)


@njit(**lane_loops)
def _panel(
    a: Any, a_m: Any, a_k: Any, b: Any, b_k: Any, c: Any, c_m: Any, d: Any, d_m: Any, m: Any, k: Any, both: Any, relu: Any
) -> None:
    """All rows of one or ``both`` vectors of columns."""
    whole = m - m % ROWS
    if both:
        for i in range(0, whole, ROWS):
            _full(a + 4 * i * a_m, a_m, a_k, b, b_k, c + 4 * i * c_m, c_m, d + 4 * i * d_m, d_m, k, relu)
        for i in range(whole, m):
            _row(a + 4 * i * a_m, a_m, a_k, b, b_k, c + 4 * i * c_m, c_m, d + 4 * i * d_m, d_m, k, relu)
    else:
        for i in range(0, whole, ROWS):
            _narrow(a + 4 * i * a_m, a_m, a_k, b, b_k, c + 4 * i * c_m, c_m, d + 4 * i * d_m, d_m, k, relu)
        for i in range(whole, m):
            _short(a + 4 * i * a_m, a_m, a_k, b, b_k, c + 4 * i * c_m, c_m, d + 4 * i * d_m, d_m, k, relu)


@njit(**lane_loops)
def reach(ranges: Any, n: Any, width: Any, k: Any) -> Any:
    """The k that columns n … n + width − 1 need, of 0 … k − 1: first and last + 1. ``ranges`` is an address, 0 for all k."""
    first, last = 0, k
    if ranges != 0:
        of = integers(ranges)
        first, last = k, 0
        for group in range(n // GROUP, (n + width - 1) // GROUP + 1):
            first, last = min(first, of[2 * group]), max(last, of[2 * group + 1])
        if last <= first:  # a tile takes one step at least, and what is masked is zero
            first, last = 0, 1
    return first, last


@njit(**lane_loops)
def product(
    a: Any,
    a_m: Any,
    a_k: Any,
    b: Any,
    b_k: Any,
    c: Any,
    c_m: Any,
    d: Any,
    d_m: Any,
    m: Any,
    n: Any,
    k: Any,
    ranges: Any,
    relu: Any,
) -> None:
    """C (m, n) = D + A B, with ``n`` a multiple of ``GROUP``; ``ranges`` as in ``reach``."""
    for j in range(0, n, 2 * LANES):
        both = j + LANES < n
        first, last = reach(ranges, j, 2 * LANES if both else LANES, k)
        _panel(
            a + 4 * first * a_k,
            a_m,
            a_k,
            b + 4 * (first * b_k + j),
            b_k,
            c + 4 * j,
            c_m,
            d + 4 * j,
            d_m,
            m,
            last - first,
            both,
            relu,
        )


# few rows by many columns: a tile of two rows by four vectors has as many sums under way
_pair, _single, _thin, _thinnest = _tile(2, 4), _tile(1, 4), _tile(2, 1), _tile(1, 1)


@njit(**lane_loops)
def flat_product(
    a: Any, a_m: Any, a_k: Any, b: Any, b_k: Any, c: Any, c_m: Any, d: Any, d_m: Any, m: Any, n: Any, k: Any, relu: Any
) -> None:
    """``product`` where m is small; ``n`` is a multiple of ``LANES``, k ≥ 1."""
    j = 0
    while n - j >= 4 * LANES:
        for i in range(0, m - m % 2, 2):
            _pair(a + 4 * i * a_m, a_m, a_k, b + 4 * j, b_k, c + 4 * (i * c_m + j), c_m, d + 4 * (i * d_m + j), d_m, k, relu)
        if m % 2 == 1:
            i = m - 1
            _single(a + 4 * i * a_m, a_m, a_k, b + 4 * j, b_k, c + 4 * (i * c_m + j), c_m, d + 4 * (i * d_m + j), d_m, k, relu)
        j += 4 * LANES
    while j < n:
        for i in range(0, m - m % 2, 2):
            _thin(a + 4 * i * a_m, a_m, a_k, b + 4 * j, b_k, c + 4 * (i * c_m + j), c_m, d + 4 * (i * d_m + j), d_m, k, relu)
        if m % 2 == 1:
            i = m - 1
            _thinnest(
                a + 4 * i * a_m, a_m, a_k, b + 4 * j, b_k, c + 4 * (i * c_m + j), c_m, d + 4 * (i * d_m + j), d_m, k, relu
            )
        j += LANES
