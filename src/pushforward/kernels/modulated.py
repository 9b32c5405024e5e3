"""A residual net of SiLU units that are scaled and shifted, with its divergence; the reference is ``nets.modulated``.

    u = g_l ∘ (W_l h) + s_l,    h ← [h +] u σ(u),    F = W h + b,    y = skip x + out F
    ∂h ← [∂h +] (σ(u) + u σ(u) (1 − σ(u))) ∘ g_l ∘ (W_l ∂h),    tr ∂y/∂x = skip D + out Σ_d W_d · ∂h/∂x_d

g, s, skip and out belong to a moment, and many rows share one; g and s are a linear map of SiLU of the moment's embedding, but
for a factor of the first g. A block of rows goes through all layers while it is in the caches
of a core; where the divergence is wanted its D derivatives go with it, as more rows of the same products, and all that lies
between two products is one pass: nothing is kept for a way back, since there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray, cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, lane_loops, sigmoid
from pushforward.kernels.product import GROUP, product
from pushforward.kernels.threads import FIRST, TASK, floats, integers, run, take

ROWS = 192  # of a product, where a block of rows and their derivatives allow it

# entries of a task's table: the whole net's, then of every layer the padded sizes, the weights and whether it is added
(A, D, BLOCK, WIDEST, LAYERS, X, MOMENTS, STEP, INDEX, Y, TRACE, LAST, BIAS, FLAT, OUTPUTS) = (FIRST + i for i in range(15))
HEAD = FIRST + 15
EACH = 4
INPUTS, WIDE, ACROSS, ADDED = range(4)
# and of a table of moments: how many, the sizes of embedding, moment and first layer, and addresses
(N, SIZE, WIDTH, FIRST_WIDE, EMBEDDING, MAP, CONSTANT, FOUND, SCALE, SKIP, OUT) = (FIRST + i for i in range(11))
MOMENT = FIRST + 11
PART = 32  # moments of a part


def padded(n: int) -> int:
    """How many numbers a row of n has: whole groups."""
    return (n + GROUP - 1) // GROUP * GROUP


@cfunc(TASK, cache=True)
def _moments(table: Any) -> None:
    t = carray(table, MOMENT)
    size, width = t[SIZE], t[WIDTH]
    units = np.empty(PART * size, np.float32)
    scale, skip, out = carray(floats(t[SCALE]), t[N]), carray(floats(t[SKIP]), t[N]), carray(floats(t[OUT]), t[N])
    part = take(table)
    while part < t[1]:
        r0 = part * PART
        n = min(PART, t[N] - r0)
        embedding, found = carray(floats(t[EMBEDDING] + 4 * r0 * size), n * size), t[FOUND] + 4 * r0 * width
        for i in range(n * size):
            units[i] = embedding[i] * sigmoid(embedding[i])
        product(units.ctypes.data, size, 1, t[MAP], width, found, width, t[CONSTANT], 0, n, width, size, 0, False)
        moment = carray(floats(found), n * width)
        for r in range(n):
            for i in range(r * width, r * width + t[FIRST_WIDE]):
                moment[i] *= scale[r0 + r]
            moment[(r + 1) * width - GROUP], moment[(r + 1) * width - GROUP + 1] = skip[r0 + r], out[r0 + r]
        part = take(table)


@njit(**lane_loops)
def _first(wide: Any, d: Any, here: Any, known: Any, slope: Any, weight: Any, tangents: Any, step: Any) -> None:
    """A row of the first layer, and the derivatives of it, which are its weights times the slopes."""
    h, m, s = carray(floats(here), wide), carray(floats(known), 2 * wide), carray(floats(slope), wide)
    for i in range(wide):
        u = h[i] * m[i] + m[wide + i]
        p = sigmoid(u)
        a = u * p
        h[i] = a
        s[i] = (p + a * (F(1.0) - p)) * m[i]
    for k in range(d):
        w, t = carray(floats(weight + 4 * k * wide), wide), carray(floats(tangents + 4 * k * step), wide)
        for i in range(wide):
            t[i] = w[i] * s[i]


@njit(**lane_loops)
def _next(wide: Any, d: Any, here: Any, before: Any, known: Any, slope: Any, step: Any, added: Any) -> None:
    """A row of a later layer, and of its d derivatives, which lie ``step`` numbers apart from one another."""
    h, b, m, s = (
        carray(floats(here), wide),
        carray(floats(before), wide),
        carray(floats(known), 2 * wide),
        carray(floats(slope), wide),
    )
    for i in range(wide):
        u = h[i] * m[i] + m[wide + i]
        p = sigmoid(u)
        a = u * p
        s[i] = (p + a * (F(1.0) - p)) * m[i]
        h[i] = a
    if added:
        for i in range(wide):
            h[i] += b[i]
    for k in range(1, d + 1):
        t, r = carray(floats(here + 4 * k * step), wide), carray(floats(before + 4 * k * step), wide)
        if added:
            for i in range(wide):
                t[i] = t[i] * s[i] + r[i]
        else:
            for i in range(wide):
                t[i] *= s[i]


@njit(**lane_loops)
def _traced(wide: Any, d: Any, tangents: Any, last: Any, step: Any, scratch: Any) -> Any:
    """Σ_d W_d · ∂h/∂x_d of one row: sums of whole groups first, which go side by side."""
    total = carray(floats(scratch), wide)
    for i in range(wide):
        total[i] = F(0.0)
    for k in range(d):
        t, w = carray(floats(tangents + 4 * k * step), wide), carray(floats(last + 4 * k * wide), wide)
        for i in range(wide):
            total[i] += t[i] * w[i]
    for g in range(GROUP, wide, GROUP):
        for i in range(GROUP):
            total[i] += total[g + i]
    found = F(0.0)
    for i in range(GROUP):
        found += total[i]
    return found


@njit(**lane_loops)
def _through(t: Any, r0: Any, n: Any, scratch: Any) -> None:
    """n rows from r0 on; ``scratch`` has two blocks of rows and derivatives, and three rows."""
    d, widest, rows = t[D], t[WIDEST], n
    derivatives = d if t[TRACE] != 0 else 0
    size = 4 * t[BLOCK] * (1 + derivatives) * widest
    zeros = scratch + 2 * size
    slope, wide = zeros + 4 * widest, 0
    index = carray(integers(t[INDEX]), t[A])
    before, here = scratch, scratch + size
    place = t[MOMENTS]
    for l in range(t[LAYERS]):
        at = HEAD + l * EACH
        inputs, wide, across = t[at + INPUTS], t[at + WIDE], t[at + ACROSS]
        if l == 0:
            product(t[X] + 4 * r0 * d, d, 1, across, wide, here, wide, zeros, 0, n, wide, d, 0, False)
            for r in range(n):
                known = place + 4 * index[r0 + r] * t[STEP]
                _first(wide, derivatives, here + 4 * r * wide, known, slope, across, here + 4 * (n + r) * wide, n * wide)
        else:
            product(before, inputs, 1, across, wide, here, wide, zeros, 0, rows, wide, inputs, 0, False)
            for r in range(n):
                known = place + 4 * index[r0 + r] * t[STEP]
                _next(wide, derivatives, here + 4 * r * wide, before + 4 * r * wide, known, slope, n * wide, t[at + ADDED] != 0)
        place += 4 * 2 * wide
        rows = n * (1 + derivatives)
        before, here = here, before
    if t[Y] != 0:
        outputs = t[OUTPUTS]
        flat = (outputs + GROUP - 1) // GROUP * GROUP
        product(before, wide, 1, t[FLAT], flat, here, flat, t[BIAS], 0, n, flat, wide, 0, False)
        y, x = carray(floats(t[Y] + 4 * r0 * outputs), n * outputs), carray(floats(t[X] + 4 * r0 * d), n * d)
        found = carray(floats(here), n * flat)
        for r in range(n):
            ends = carray(floats(place + 4 * index[r0 + r] * t[STEP]), 2)
            for i in range(outputs):
                y[r * outputs + i] = ends[1] * found[r * flat + i]
            if ends[0] != F(0.0):
                for i in range(outputs):
                    y[r * outputs + i] += ends[0] * x[r * d + i]
    if t[TRACE] != 0:
        trace = carray(floats(t[TRACE] + 4 * r0), n)
        for r in range(n):
            ends = carray(floats(place + 4 * index[r0 + r] * t[STEP]), 2)
            found_trace = _traced(wide, d, before + 4 * (n + r) * wide, t[LAST], n * wide, slope)
            trace[r] = ends[0] * F(d) + ends[1] * found_trace


@cfunc(TASK, cache=True)
def _task(table: Any) -> None:
    t = carray(table, HEAD + carray(table, HEAD)[LAYERS] * EACH)
    derivatives = t[D] if t[TRACE] != 0 else 0
    scratch = np.empty((2 * t[BLOCK] * (1 + derivatives) + 2) * t[WIDEST], np.float32)
    for i in range(2 * t[BLOCK] * (1 + derivatives) * t[WIDEST], len(scratch)):
        scratch[i] = F(0.0)
    part = take(table)
    while part < t[1]:
        r0 = part * t[BLOCK]
        _through(t, r0, min(t[BLOCK], t[A] - r0), scratch.ctypes.data)
        part = take(table)


@dataclass(frozen=True)
class Weights:
    """The weights of a net as the kernel reads them; ``table`` has the addresses of what is ``held``."""

    outputs: int
    table: Any
    moments: Any
    held: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, weights: Sequence[Tensor], added: Sequence[bool], last: Tensor, bias: Tensor, of_moment: Tensor, constant: Tensor
    ) -> Weights:
        """Of float32 weights (outputs, inputs) of the layers, the ``last`` and the moments, with biases, without gradients.

        They are copied in whole groups of both, layers as (inputs, outputs); the inputs of the first are as many as they are.
        """
        across = [_widened(w.T, rows=i > 0) for i, w in enumerate(weights)]
        ends = _widened(last, rows=False), _widened(bias[None], rows=False), _widened(last.T)
        widest = max(padded(len(last)), *(w.shape[1] for w in across))
        entries = [0] * HEAD
        entries[D], entries[WIDEST], entries[LAYERS], entries[OUTPUTS] = weights[0].shape[1], widest, len(weights), len(last)
        entries[LAST], entries[BIAS], entries[FLAT] = (end.data_ptr() for end in ends)
        for w, skips in zip(across, added, strict=True):
            entries += [*w.shape, w.data_ptr(), int(skips)]
        over = of_moment.T.contiguous(), constant.contiguous()
        moments = np.zeros(MOMENT, dtype=np.int64)
        moments[SIZE], moments[WIDTH], moments[FIRST_WIDE] = *over[0].shape, across[0].shape[1]
        moments[MAP], moments[CONSTANT] = (t.data_ptr() for t in over)
        return cls(len(last), np.array(entries, dtype=np.int64), moments, (*across, *ends, *over))


def _widened(matrix: Tensor, rows: bool = True) -> Tensor:
    """``matrix`` in whole groups of columns, and of ``rows``, with zeros in what is more."""
    m, n = matrix.shape
    wide = matrix.new_zeros(padded(m) if rows else m, padded(n))
    wide[:m, :n] = matrix
    return wide


def moments(w: Weights, embedding: Tensor, scale: Tensor, skip: Tensor, out: Tensor) -> Tensor:
    """Of embeddings (N, E) and three numbers each, (N,), float32 on the CPU, what ``forward`` asks for: (N, ·)."""
    table, held = w.moments.copy(), [t.contiguous() for t in (embedding, scale, skip, out)]
    found = embedding.new_empty(len(embedding), table[WIDTH])
    table[N], table[FOUND] = len(embedding), found.data_ptr()
    table[EMBEDDING], table[SCALE], table[SKIP], table[OUT] = (t.data_ptr() for t in held)
    run(_moments, -(-len(embedding) // PART), table)
    return found


def forward(w: Weights, x: Tensor, moments: Tensor, index: Tensor, *, value: bool, trace: bool) -> tuple[Any, Any]:
    """y (A, outputs) if ``value`` and tr ∂y/∂x (A,) if ``trace``, of x (A, D), all float32 on the CPU.

    ``moments`` (K, ·): of each layer g and s in whole groups, then a group of which skip and out are the first; row i takes
    that of ``index``[i] (int64). Where there are not as many outputs as inputs skip is 0 and no trace is asked for.
    """
    rows, size = x.shape
    y = x.new_empty(rows, w.outputs) if value else None
    found = x.new_empty(rows) if trace else None
    if rows == 0:
        return y, found
    x, index = x.contiguous(), index.contiguous()
    block = max(8, ROWS // (1 + size if trace else 3))
    table = w.table.copy()  # two passes may be under way
    table[A], table[BLOCK], table[X], table[INDEX] = rows, block, x.data_ptr(), index.data_ptr()
    table[MOMENTS], table[STEP] = moments.data_ptr(), moments.stride(0)
    table[Y], table[TRACE] = 0 if y is None else y.data_ptr(), 0 if found is None else found.data_ptr()
    run(_task, -(-rows // block), table)
    return y, found
