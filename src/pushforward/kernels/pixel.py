"""One pixel of a PixelCNN's horizontal stack, from what is kept of those before it; the reference is ``nets.pixel.PixelCNN``.

    (a, b) = given_l + Σ_i H_l[i] h_{l−1}[x − i d],   g_l = tanh(a) σ(b),   h_l = h_{l−1} + R_l g_l + r_l,
    u = T (g_1 … g_L) + t

Examples lie side by side, in whole groups of columns: so a layer is two products of small weights by a few vectors, and the
units of a pixel and of those before it follow one another in memory as the rows of one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray, cfunc, njit
from torch import Tensor

from pushforward.kernels.lanes import F, exp, lane_loops
from pushforward.kernels.product import GROUP, product
from pushforward.kernels.threads import FIRST, TASK, floats, run, take

BLOCK = 64  # columns that a part has

# entries of the table: columns in all, layers, the pixel, units of a stack; scratch for (a, b), all g; T, t, u and its rows
COLUMNS, LAYERS, AT, WIDTH, PAIR, GATED, MIX, MIX_BIAS, HIDDEN, ROWS = (FIRST + i for i in range(10))
HEAD = FIRST + 10
# of each layer: H, given, what is kept of h_{l−1}, its units, taps, dilation; R, r and where h_l of the first pixel goes, 0 for
# none
ALONG, GIVEN, BESIDE, UNITS, TAPS, DILATION, RESIDUAL, RESIDUAL_BIAS, NEXT = range(9)
EACH = 9


@njit(**lane_loops)
def _gate(pair: Any, gated: Any, width: Any, step: Any, n: Any) -> None:
    for j in range(width):
        a, b = carray(floats(pair + 4 * j * step), n), carray(floats(pair + 4 * (width + j) * step), n)
        g = carray(floats(gated + 4 * j * step), n)
        for i in range(n):
            # (1 − e)/(1 + e) · 1/(1 + f) with one division; beyond 40 neither changes, and products stay finite
            e, f = exp(F(-2.0) * min(max(a[i], F(-20.0)), F(20.0))), exp(-min(max(b[i], F(-40.0)), F(40.0)))
            g[i] = (F(1.0) - e) / ((F(1.0) + e) * (F(1.0) + f))


@njit(**lane_loops)
def _started(c: Any, bias: Any, before: Any, rows: Any, step: Any, n: Any) -> None:
    """c = bias [+ before], row by row."""
    of = carray(floats(bias), rows)
    for m in range(rows):
        line = carray(floats(c + 4 * m * step), n)
        for i in range(n):
            line[i] = of[m]
        if before != 0:
            known = carray(floats(before + 4 * m * step), n)
            for i in range(n):
                line[i] += known[i]


@njit(**lane_loops)
def _pixel(t: Any, start: Any, n: Any) -> None:
    """Columns start … start + n − 1."""
    step, width, x = t[COLUMNS], t[WIDTH], t[AT]
    column = 4 * start
    pair = t[PAIR] + column
    for l in range(t[LAYERS]):
        at = HEAD + l * EACH
        units, taps, dilation = t[at + UNITS], t[at + TAPS], t[at + DILATION]
        given = t[at + GIVEN] + 4 * x * 2 * width * step + column
        near = t[at + BESIDE] + 4 * x * units * step + column
        many, apart = (1, taps * units) if dilation == 1 else (taps, units)
        for i in range(many):
            weights, values = t[at + ALONG] + 4 * i * units, near + 4 * i * dilation * units * step
            product(weights, taps * units, 1, values, step, pair, step, given, step, 2 * width, n, apart, 0, False)
            given = pair
        gated = t[GATED] + 4 * l * width * step + column
        _gate(pair, gated, width, step, n)
        if t[at + NEXT] != 0:
            h = t[at + NEXT] + 4 * x * width * step + column
            before = near + 4 * (taps - 1) * dilation * units * step if l > 0 else 0
            _started(h, t[at + RESIDUAL_BIAS], before, width, step, n)
            product(t[at + RESIDUAL], width, 1, gated, step, h, step, h, step, width, n, width, 0, False)
    hidden = t[HIDDEN] + column
    _started(hidden, t[MIX_BIAS], 0, t[ROWS], step, n)
    every = t[LAYERS] * width
    product(t[MIX], every, 1, t[GATED] + column, step, hidden, step, hidden, step, t[ROWS], n, every, 0, False)


@cfunc(TASK, cache=True)
def _pixels(table: Any) -> None:
    t = carray(table, HEAD + carray(table, HEAD)[LAYERS] * EACH)
    part = take(table)
    while part < t[1]:
        start = part * BLOCK
        _pixel(t, start, min(BLOCK, t[COLUMNS] - start))
        part = take(table)


@dataclass(frozen=True)
class Layer:
    """H (2 · width, taps · inputs), the row's given (W, 2 · width, B), what is kept of the layer below (columns, inputs, B); of
    all layers but the last also R, r and what is kept of h, (columns, width, B)."""

    along: Tensor
    given: Tensor
    beside: Tensor
    dilation: int
    residual: Tensor | None = None
    bias: Tensor | None = None
    kept: Tensor | None = None


@dataclass(frozen=True)
class Stack:
    """The arrays of a state as the kernel wants them: float32, contiguous, of whole groups of examples."""

    table: Any
    parts: int
    held: tuple[Any, ...]

    @classmethod
    def of(cls, layers: Sequence[Layer], mix: Tensor, mix_bias: Tensor, hidden: Tensor) -> Stack:
        """``hidden`` (rows, B) is where u goes."""
        columns, width = hidden.shape[-1], layers[0].given.shape[1] // 2
        if columns % GROUP:
            raise ValueError(f"found {columns} examples: expected a multiple of {GROUP}")
        pair, gated = hidden.new_zeros(2 * width, columns), hidden.new_zeros(len(layers) * width, columns)
        addresses = [t.data_ptr() for t in (pair, gated, mix, mix_bias, hidden)]
        entries = [0, 0, columns, len(layers), 0, width, *addresses, len(mix)]
        for layer in layers:
            units = layer.beside.shape[1]
            taps = layer.along.shape[1] // units
            entries += [t.data_ptr() for t in (layer.along, layer.given, layer.beside)]
            entries += [units, taps, layer.dilation]
            if layer.residual is None or layer.bias is None or layer.kept is None:
                entries += [0, 0, 0]
            else:
                first = len(layer.kept) - len(layer.given)  # what lies before the first pixel
                entries += [t.data_ptr() for t in (layer.residual, layer.bias, layer.kept[first])]
        return cls(np.array(entries, dtype=np.int64), -(-columns // BLOCK), (tuple(layers), mix, mix_bias, hidden, pair, gated))

    def pixel(self, x: int) -> None:
        """h of all layers at column x, and u."""
        self.table[AT] = x
        run(_pixels, self.parts, self.table)
