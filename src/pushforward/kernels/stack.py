"""A stack of linear layers with max(0, ·) between them, and its gradient; the reference is ``nets.linear.rectified``.

    v₀ = x,   v_{l+1} = max(0, W_l v_l + b_l),   y = W_n v_n + b_n

A block of rows goes through all layers while it is in the caches of a core, and backwards likewise:

    g_n = ∂/∂y;   ∂/∂W_l = g_lᵀ v_l,   ∂/∂b_l = Σ g_l,   g_{l−1} = (g_l W_l) where v_l > 0

Layers and rows of weights are padded to whole groups of columns. Masks are multiplied into the weights where these are copied,
and blocks of weights that a mask makes zero are passed over: a network of ordered units is half as much work as a full one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray, cfunc, njit
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pushforward.kernels.lanes import F, lane_loops
from pushforward.kernels.product import GROUP, product, reach, transpose
from pushforward.kernels.threads import FIRST, TASK, floats, run, take, threads

BLOCK = 64  # rows that go through all layers together

# entries of a task's table: the whole stack's, then each layer's
ROWS, LAYERS, X, X_STEP, Y, SHIFT, G, G_X, G_SHIFT, G_STEP = (FIRST + i for i in range(10))
HEAD = FIRST + 10
EACH = 12
# sizes, whole groups of both; weights (outputs × inputs) and masks as given; copies inputs × wide outputs and the other way
# round; the bias in whole groups; what enters the layer; ranges of inputs by groups of outputs and the other way round
INPUTS, OUTPUTS, WEIGHT, MASK, BIAS, ACROSS, ALONG, WIDE_BIAS, ENTERS, BY_OUTPUT, BY_INPUT, GRADIENT = range(12)


def _padded(n: int) -> int:
    """How many numbers a row of n has: whole groups, and never so many that all rows begin in the same place of the caches."""
    whole = (n + GROUP - 1) // GROUP * GROUP
    return whole + GROUP if whole % 1024 == 0 else whole


_wide = njit(**lane_loops)(_padded)


@njit(**lane_loops)
def _copy(t: Any, l: Any) -> None:
    """Layer l's masked weights in both orders, and its bias, padded with zeros."""
    at = HEAD + l * EACH
    inputs, outputs = t[at + INPUTS], t[at + OUTPUTS]
    wide_in, wide_out = _wide(inputs), _wide(outputs)
    weight, bias = carray(floats(t[at + WEIGHT]), outputs * inputs), carray(floats(t[at + BIAS]), outputs)
    mask = carray(floats(t[at + MASK] if t[at + MASK] != 0 else t[at + WEIGHT]), outputs * inputs)
    masked = t[at + MASK] != 0
    wide_bias = carray(floats(t[at + WIDE_BIAS]), wide_out)
    for o in range(wide_out):
        wide_bias[o] = bias[o] if o < outputs else F(0.0)
    along = carray(floats(t[at + ALONG]), wide_out * wide_in)
    for o in range(outputs):
        for i in range(inputs):
            along[o * wide_in + i] = weight[o * inputs + i]
        for i in range(inputs, wide_in):
            along[o * wide_in + i] = F(0.0)
    for i in range(outputs * wide_in, wide_out * wide_in):
        along[i] = F(0.0)
    if masked:
        for o in range(outputs):
            for i in range(inputs):
                along[o * wide_in + i] *= mask[o * inputs + i]
    transpose(t[at + ALONG], wide_out, wide_in, t[at + ACROSS])


@cfunc(TASK, cache=True)
def _copying(table: Any) -> None:
    t = carray(table, FIRST)
    l = take(table)
    while l < t[1]:
        _copy(carray(table, HEAD + t[1] * EACH), l)
        l = take(table)


@njit(**lane_loops)
def _forward(t: Any, r0: Any, n: Any, scratch: Any, width: Any) -> None:
    """n rows from r0 on; ``scratch`` has two blocks of rows of ``width``, used where nothing is kept."""
    layers = t[LAYERS]
    a, a_step = t[X] + 4 * r0 * t[X_STEP], t[X_STEP]
    for l in range(layers):
        at = HEAD + l * EACH
        inputs, outputs = t[at + INPUTS], t[at + OUTPUTS]
        wide = _wide(outputs)
        last = l == layers - 1
        c = scratch + 4 * (l % 2) * BLOCK * width
        if last and wide == outputs:
            c = t[Y] + 4 * r0 * outputs
        elif not last and t[at + EACH + ENTERS] != 0:
            c = t[at + EACH + ENTERS] + 4 * r0 * wide
        d, d_step = t[at + WIDE_BIAS], 0
        if l == 0 and t[SHIFT] != 0:
            start, bias = carray(floats(c), n * wide), carray(floats(t[at + WIDE_BIAS]), wide)
            shift = carray(floats(t[SHIFT] + 4 * r0 * outputs), n * outputs)
            for r in range(n):
                for o in range(outputs):
                    start[r * wide + o] = bias[o] + shift[r * outputs + o]
                for o in range(outputs, wide):
                    start[r * wide + o] = F(0.0)
            d, d_step = c, wide
        product(a, a_step, 1, t[at + ACROSS], wide, c, wide, d, d_step, n, wide, inputs, t[at + BY_OUTPUT], not last)
        if last and wide != outputs:
            found, y = carray(floats(c), n * wide), carray(floats(t[Y] + 4 * r0 * outputs), n * outputs)
            for r in range(n):
                for o in range(outputs):
                    y[r * outputs + o] = found[r * wide + o]
        a, a_step = c, wide


@njit(**lane_loops)
def _widest(t: Any) -> Any:
    width = 0
    for l in range(t[LAYERS]):
        width = max(width, _wide(t[HEAD + l * EACH + INPUTS]), _wide(t[HEAD + l * EACH + OUTPUTS]))
    return width


@cfunc(TASK, cache=True)
def _pushing(table: Any) -> None:
    t = carray(table, HEAD + carray(table, HEAD)[LAYERS] * EACH)
    width = _widest(t)
    scratch = np.empty(2 * BLOCK * width, np.float32)
    part = take(table)
    while part < t[1]:
        r0 = part * BLOCK
        _forward(t, r0, min(BLOCK, t[ROWS] - r0), scratch.ctypes.data, width)
        part = take(table)


@njit(**lane_loops)
def _by_weight(t: Any, l: Any, g: Any, g_step: Any, v: Any, n: Any, into: Any) -> None:
    """Adds g (n, outputs)ᵀ v (n, inputs) to the matrix at ``into``, and below it the sums of g."""
    at = HEAD + l * EACH
    inputs, outputs = t[at + INPUTS], t[at + OUTPUTS]
    wide = _wide(inputs)
    for o in range(0, outputs, GROUP):
        first, last = reach(t[at + BY_OUTPUT], o, 1, inputs)
        left, right = first // GROUP * GROUP, (last + GROUP - 1) // GROUP * GROUP
        c = into + 4 * (o * wide + left)
        product(g + 4 * o, 1, g_step, v + 4 * left, wide, c, wide, c, wide, min(GROUP, outputs - o), right - left, n, 0, False)
    sums, of = carray(floats(into + 4 * outputs * wide), outputs), carray(floats(g), n * g_step)
    for r in range(n):
        for o in range(outputs):
            sums[o] += of[r * g_step + o]


@njit(**lane_loops)
def _backward(t: Any, part: Any, r0: Any, n: Any, scratch: Any, width: Any) -> None:
    """n rows from r0 on, gradients by weights added to those of ``part``; ``scratch`` has three blocks and a row of zeros."""
    layers = t[LAYERS]
    zeros = scratch + 4 * 3 * BLOCK * width
    g, g_step = t[G] + 4 * r0 * t[HEAD + (layers - 1) * EACH + OUTPUTS], t[HEAD + (layers - 1) * EACH + OUTPUTS]
    for l in range(layers - 1, -1, -1):
        at = HEAD + l * EACH
        inputs, outputs = t[at + INPUTS], t[at + OUTPUTS]
        wide = _wide(inputs)
        v = t[at + ENTERS] + 4 * r0 * wide
        if l == 0:
            v = t[X] + 4 * r0 * t[X_STEP]
            if t[X_STEP] != wide or wide != inputs:
                x, held = carray(floats(v), n * t[X_STEP]), carray(floats(scratch + 4 * 2 * BLOCK * width), n * wide)
                for r in range(n):
                    for i in range(inputs):
                        held[r * wide + i] = x[r * t[X_STEP] + i]
                    for i in range(inputs, wide):
                        held[r * wide + i] = F(0.0)
                v = scratch + 4 * 2 * BLOCK * width
        if t[at + GRADIENT] != 0:
            _by_weight(t, l, g, g_step, v, n, t[at + GRADIENT] + 4 * part * t[G_STEP])
        if l == 0:
            if t[G_SHIFT] != 0:
                by, of = carray(floats(t[G_SHIFT] + 4 * r0 * outputs), n * outputs), carray(floats(g), n * g_step)
                for r in range(n):
                    for o in range(outputs):
                        by[r * outputs + o] = of[r * g_step + o]
            if t[G_X] == 0:
                break
        below = scratch + 4 * (l % 2) * BLOCK * width
        if l == 0 and wide == inputs:
            below = t[G_X] + 4 * r0 * inputs
        product(g, g_step, 1, t[at + ALONG], wide, below, wide, zeros, 0, n, wide, outputs, t[at + BY_INPUT], False)
        found = carray(floats(below), n * wide)
        if l > 0:
            entered = carray(floats(v), n * wide)
            for i in range(n * wide):
                value = found[i]
                found[i] = value if entered[i] > F(0.0) else F(0.0)
        elif wide != inputs:
            by_x = carray(floats(t[G_X] + 4 * r0 * inputs), n * inputs)
            for r in range(n):
                for i in range(inputs):
                    by_x[r * inputs + i] = found[r * wide + i]
        g, g_step = below, wide


@cfunc(TASK, cache=True)
def _pulling(table: Any) -> None:
    t = carray(table, HEAD + carray(table, HEAD)[LAYERS] * EACH)
    width = _widest(t)
    scratch = np.empty((3 * BLOCK + 1) * width, np.float32)
    for i in range(3 * BLOCK * width, (3 * BLOCK + 1) * width):
        scratch[i] = F(0.0)
    blocks = (t[ROWS] + BLOCK - 1) // BLOCK
    part = take(table)
    while part < t[1]:
        for block in range(blocks * part // t[1], blocks * (part + 1) // t[1]):
            r0 = block * BLOCK
            _backward(t, part, r0, min(BLOCK, t[ROWS] - r0), scratch.ctypes.data, width)
        part = take(table)


_reaches: Any = WeakTensorKeyDictionary()


def _reach(mask: Tensor) -> tuple[Any, Any]:
    """Which inputs the outputs of a masked layer see, (groups of a row of outputs, 2), first and last + 1; and the other way
    round."""

    def ranges(seen: Tensor) -> Any:
        places = [group.any(0).nonzero().flatten().tolist() for group in seen.split(GROUP)]
        nothing = np.array([seen.shape[1], 0], dtype=np.int64)  # such as padding sees
        found = np.tile(nothing, (_padded(len(seen)) // GROUP, 1))
        for i, at in enumerate(places):
            found[i] = (at[0], at[-1] + 1) if at else found[i]
        return found

    known = _reaches.get(mask)
    if known is None or known[0] != mask._version:
        known = _reaches[mask] = mask._version, ranges(mask != 0), ranges((mask != 0).t())
    return known[1:]


@dataclass(frozen=True)
class Pass:
    """What the way back needs of a pass forward.

    ``sizes``: inputs and outputs of each layer; ``table``: the kernel's, whose addresses are those of ``held``.
    """

    sizes: list[tuple[int, int]]
    table: Any
    held: tuple[Any, ...]


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shift: Tensor | None,
    masks: Sequence[Tensor] | None,
    *,
    keep: bool,
) -> tuple[Tensor, Pass | None]:
    """y (B, outputs) of float32 x (B, inputs) on the CPU, and with ``keep`` what ``backward`` needs; no gradient is kept."""
    rows, count = x.shape[0], len(weights)
    x = x.detach()
    x = x if x.stride(1) == 1 else x.contiguous()
    widths = [x.shape[1], *(w.shape[0] for w in weights)]
    wide = [_padded(width) for width in widths]
    copies = x.new_empty(sum((2 * wide[i] + 1) * wide[i + 1] for i in range(count)))
    values = [x.new_empty(rows, width) for width in wide[1:-1]] if keep else []
    y = x.new_empty(rows, widths[-1])
    shift = None if shift is None else shift.expand(rows, widths[1]).contiguous()
    given = [t.contiguous() for t in (*weights, *biases, *(masks or ()))]
    reaches = [_reach(mask) for mask in masks or ()]
    entries = [0, 0, rows, count, x.data_ptr(), x.stride(0), y.data_ptr(), 0 if shift is None else shift.data_ptr(), 0, 0, 0, 0]
    at = copies.data_ptr()
    for i in range(count):
        square = 4 * wide[i] * wide[i + 1]
        entries += [widths[i], widths[i + 1], given[i].data_ptr(), given[2 * count + i].data_ptr() if masks else 0]
        entries += [given[count + i].data_ptr(), at, at + square, at + 2 * square]
        entries.append(values[i - 1].data_ptr() if i and keep else 0)
        entries += [*(ranges.ctypes.data for ranges in reaches[i]), 0] if masks else [0, 0, 0]
        at += 2 * square + 4 * wide[i + 1]
    table = np.array(entries, dtype=np.int64)
    run(_copying, count, table)
    run(_pushing, -(-rows // BLOCK), table)
    if not keep:
        return y, None
    return y, Pass(list(itertools.pairwise(widths)), table, (x, copies, values, reaches))


def backward(
    made: Pass, g: Tensor, *, by_x: bool, by_shift: bool, by_weight: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Gradients by x, the shift, and, where wanted, each weight before its mask and each bias; given that by y."""
    sizes, table, rows = made.sizes, made.table.copy(), g.shape[0]
    # every part has sums of its own, which are added up in the end: with two blocks or more they are worth it
    parts = threads(rows // (2 * BLOCK))
    g = g.contiguous()
    g_x = g.new_empty(rows, sizes[0][0]) if by_x else None
    g_shift = g.new_empty(rows, sizes[0][1]) if by_shift else None
    places = list(itertools.accumulate((o * (_padded(i) + 1) for i, o in sizes), initial=0))
    sums = g.new_zeros(parts, places[-1])  # of each thread, by every weight with its bias below
    table[G], table[G_STEP] = g.data_ptr(), places[-1]
    table[G_X], table[G_SHIFT] = (0 if t is None else t.data_ptr() for t in (g_x, g_shift))
    for l, wanted in enumerate(by_weight):
        table[HEAD + l * EACH + GRADIENT] = sums.data_ptr() + 4 * places[l] if wanted else 0
    run(_pulling, parts, table)
    total = sums[0] if parts == 1 else sums.sum(0)
    g_weights: list[Tensor | None] = []
    g_biases: list[Tensor | None] = []
    for (i, o), at, wanted in zip(sizes, places, by_weight, strict=False):
        wide = _padded(i)
        g_weights.append(total.as_strided((o, i), (wide, 1), at) if wanted else None)
        g_biases.append(total.as_strided((o,), (1,), at + o * wide) if wanted else None)
    return g_x, g_shift, g_weights, g_biases
