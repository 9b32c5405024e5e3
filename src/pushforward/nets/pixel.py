"""Gated convolutions over the pixels above and to the left (van den Oord et al. 2016, arXiv:1606.05328).

Two stacks of L layers of gated units, tanh and σ by element. With k taps to a side (a kernel of 2k + 1) and dilation d,

    v_l[y, x] = v_{l−1}[y, x] + tanh(a) σ(b),    (a, b) = Σ_{i ≤ k, |j| ≤ k} D_l[i, j] v_{l−1}[y − i d, x + j d] + C_l c
    g_l[y, x] = tanh(a) σ(b),    (a, b) = Σ_{i ≤ k} H_l[i] h_{l−1}[y, x − i d] + A_l v_l[y, x] + C'_l c
    h_l = h_{l−1} + R_l g_l

where c is the condition; biases are left out. The first layer sees pixels at i ≥ 1 in place of v_0 and h_0, and adds to
nothing: so v[y] knows the rows above y, on either side of x, and h[y, x] also what is to the left in row y. Kernels are as
large as what they may see, nothing is masked. From all g come hidden units of every channel c, to which the channels of the
same pixel before it are added, and from those the parameters:

    u_c = max(0, T_c (g_1 … g_L) + Σ_{c' < c} E_cc' x_c'),    parameters of channel c = W_c u_c

A pixel depends on the rows up to ``reach`` above it and as many columns on either side, and as many pixels to its left.

One pixel at a time, row y of v is computed once the rows above are known, for all columns together, from the k d rows of each
layer that it needs; then h pixel by pixel from the k d before it: all steps together cost one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.common import context_vector, zeroed
from pushforward.nets.linear import kernels_pay
from pushforward.nets.masked import MaskedLinear
from pushforward.transforms.monotone import plain_cpu

if TYPE_CHECKING:
    from pushforward.kernels.pixel import Stack

ABREAST = 16  # the kernel takes whole groups of so many examples


def gate(pair: Tensor, dim: int = 1) -> Tensor:
    """tanh(a) σ(b) of (a, b), the halves of ``pair`` along ``dim``."""
    a, b = pair.chunk(2, dim)
    return a.tanh() * b.sigmoid()


def _convolution(
    inputs: int, outputs: int, size: tuple[int, int] = (1, 1), gain: float = 1.0, *, dilation: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Sums of deviation ``gain`` of numbers of deviation 1; no bias at the start."""
    layer = nn.Conv2d(inputs, outputs, size, dilation=dilation, bias=bias)
    nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class GatedLayer(nn.Module):
    """One layer of both stacks: v_{l−1} and h_{l−1} (B, ·, H, W) to v_l and g_l (B, width, H, W).

    ``strict`` leaves out the row and the pixel at hand, ``residual`` is R_l.
    """

    def __init__(self, inputs: int, width: int, kernel: int, dilation: int, *, strict: bool, last: bool) -> None:
        super().__init__()
        side = kernel // 2
        self.strict, self.dilation, self.reach, self.taps = strict, dilation, side * dilation, side + (not strict)
        # a gated unit of standard normal numbers has a deviation of a third: larger sums keep layers from fading
        self.down = _convolution(inputs, 2 * width, (self.taps, kernel), 1.5, dilation=dilation)
        self.along = _convolution(inputs, 2 * width, (1, self.taps), dilation=dilation, bias=False)
        self.across = _convolution(width, 2 * width)
        self.residual = None if last else _convolution(width, width)

    def forward(self, v: Tensor, h: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """``shift`` (2, B, 2 · width, 1, 1): what the condition adds to either stack."""
        r, end = self.reach, -1 if self.strict else 0  # what lies past the end is cut off
        down = self.down(F.pad(v, (r, r, r, end)))
        v = self.added(v, gate(down if shift is None else down + shift[0]))
        along = self.along(F.pad(h, (r, end))) + self.across(v)
        return v, gate(along if shift is None else along + shift[1])

    def added(self, below: Tensor, new: Tensor) -> Tensor:
        """What is passed on to the next layer: the first one has units of another kind below it."""
        return new if self.strict else below + new

    def matrices(self) -> tuple[Tensor, Tensor]:
        """H_l as (2 · width, taps · inputs), and R_l as (width, width), empty in the last layer."""
        along = self.along.weight[:, :, 0].transpose(1, 2).flatten(1).contiguous()
        return along, along.new_zeros(0) if self.residual is None else self.residual.weight.flatten(1)


@dataclass
class PixelState:
    """What ``PixelCNN`` has computed; its tensors are written to.

    ``place``: the pixel at hand. ``above`` (B, ·, rows, columns): of the pixels so far and v of each layer but the last, with
    zeros around. ``beside`` (columns, ·, B): of the pixels so far and h of each layer but the last, the row at hand, with zeros
    before it. ``given`` (W, 2 · width, B): what g of each layer owes to v and the condition in that row. ``shifts``: those of
    the condition, by layer. ``hidden`` (C, hidden, B): u before the channels of the same pixel. ``layers``, ``earlier``,
    ``last``: H_l and R_l of each layer, E, W_c and its bias of each channel. ``stack``: what the kernel needs of all this,
    where it applies; then as many examples lie abreast as it likes.
    """

    place: tuple[int, int]
    above: list[Tensor]
    beside: list[Tensor]
    given: list[Tensor]
    shifts: list[Tensor | None]
    hidden: Tensor
    layers: list[tuple[Tensor, Tensor]]
    earlier: Tensor
    last: list[tuple[Tensor, Tensor]]
    stack: Stack | None = None


class PixelCNN(nn.Module):
    """Pixels (B, C · H · W) to parameters (B, C · H · W · ``outputs``), both channel by channel. They become known row by row,
    the channels of a pixel together (``order``). A zero function at the start.

    ``shape``: (C, H, W). ``width``: units of a stack. ``first`` and ``kernel``: sides of the first kernel and of the others,
    odd. ``dilations``: one for each layer after the first. ``hidden``: units u of each channel. ``context``: size of
    ``Context.vector``. ``binary``: pixels are 0 and 1, and looked at as −1 and 1, so that black is not what lies outside.
    Raises ValueError for sizes that make no net.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        *,
        width: int = 32,
        first: int = 7,
        kernel: int = 3,
        dilations: Sequence[int] = (1, 1, 1, 1, 1),
        hidden: int = 64,
        context: int = 0,
        binary: bool = False,
    ) -> None:
        super().__init__()
        for name, side in (("first", first), ("kernel", kernel)):
            if side < 3 or side % 2 == 0:
                raise ValueError(f"found {name} {side}: expected an odd number of at least 3")
        if min(width, hidden, *dilations, 1) < 1:
            raise ValueError(f"found width {width}, hidden {hidden}, dilations {tuple(dilations)}: expected at least 1 of each")
        self.shape, self.outputs_each, self.context, self.binary = tuple(shape), outputs, context, binary
        channels = self.shape[0]
        steps = [(channels, first, 1), *((width, kernel, d) for d in dilations)]
        self.layers = nn.ModuleList(
            GatedLayer(inputs, width, side, d, strict=i == 0, last=i == len(steps) - 1)
            for i, (inputs, side, d) in enumerate(steps)
        )
        self.reach = sum(layer.reach for layer in self._layers())
        self.of_context = nn.Linear(context, 4 * width * len(steps), bias=False) if context else None
        self.mix = _convolution(len(steps) * width, channels * hidden, gain=2.0)
        channel = torch.arange(channels)
        self.earlier = MaskedLinear(channel.repeat_interleave(hidden)[:, None] > channel, bias=False) if channels > 1 else None
        self.last = zeroed(nn.Conv2d(channels * hidden, channels * outputs, 1, groups=channels))

    @property
    def order(self) -> tuple[int, ...]:
        """Elements as they become known."""
        channels, height, width = self.shape
        return tuple(torch.arange(channels * height * width).view(channels, -1).T.flatten().tolist())

    def _layers(self) -> list[GatedLayer]:
        return [cast(GatedLayer, layer) for layer in self.layers]

    def _shifts(self, context: Context | None) -> list[Tensor | None]:
        """C c and C' c of each layer, (2, B, 2 · width, 1, 1)."""
        vector = context_vector(context, self.context)
        if self.of_context is None or vector is None:
            return [None] * len(self.layers)
        shifts = self.of_context(vector).view(len(vector), len(self.layers), 2, -1, 1, 1)
        return list(shifts.permute(1, 2, 0, 3, 4, 5))

    def _look(self, features: Tensor) -> Tensor:
        return 2 * features - 1 if self.binary else features

    def forward(self, features: Tensor, context: Context | None = None) -> Tensor:
        x = self._look(features).view(-1, *self.shape).contiguous(memory_format=torch.channels_last)
        v, h, gated = x, x, []
        for layer, shift in zip(self._layers(), self._shifts(context), strict=True):
            v, g = layer(v, h, shift)
            if layer.residual is not None:
                h = layer.added(h, layer.residual(g))
            gated.append(g)
        u = self.mix(torch.cat(gated, 1))
        if self.earlier is not None:
            u = u + F.conv2d(x, self.earlier.masked()[:, :, None, None])
        params = self.last(F.relu(u))  # (B, C · P, H, W)
        return params.unflatten(1, (self.shape[0], -1)).permute(0, 1, 3, 4, 2).flatten(1)

    @torch.no_grad()
    def start(self, batch: int, context: Context | None = None) -> PixelState:
        """The state before any pixel is known, for ``batch`` examples."""
        (channels, height, width), layers, like = self.shape, self._layers(), self.mix.weight
        sizes = [(layer.along.in_channels, layer.reach) for layer in layers]
        quick = like.dtype == torch.float32 and plain_cpu(like) and not torch.is_autocast_enabled("cpu") and kernels_pay()
        abreast = -(-batch // ABREAST) * ABREAST if quick else batch
        assert self.last.bias is not None
        weights, biases = self.last.weight.flatten(1).chunk(channels), self.last.bias[:, None].chunk(channels)
        state = PixelState(
            place=(0, 0),
            above=[like.new_zeros(batch, n, r + height, 2 * r + width) for n, r in sizes],
            beside=[like.new_zeros(r + width, n, abreast) for n, r in sizes],
            given=[like.new_zeros(width, len(layer.across.weight), abreast) for layer in layers],
            shifts=self._shifts(context),
            hidden=like.new_zeros(channels, len(self.mix.weight) // channels, abreast),
            layers=[layer.matrices() for layer in layers],
            earlier=like.new_zeros(0) if self.earlier is None else self.earlier.masked().unflatten(0, (channels, -1)),
            last=list(zip(weights, biases, strict=True)),
        )
        state.stack = self._stack(state) if quick else None
        self._row(state, 0)
        self._pixel(state, 0, 0)
        return state

    def _stack(self, state: PixelState) -> Stack:
        from pushforward.kernels.pixel import Layer, Stack

        parts = []
        for i, (layer, (along, residual)) in enumerate(zip(self._layers(), state.layers, strict=True)):
            after = (residual, layer.residual.bias, state.beside[i + 1]) if layer.residual is not None else ()
            parts.append(Layer(along, state.given[i], state.beside[i], layer.dilation, *after))
        assert self.mix.bias is not None
        return Stack.of(parts, self.mix.weight.flatten(1), self.mix.bias, state.hidden.flatten(0, 1))

    def _row(self, state: PixelState, y: int) -> None:
        """Row y of v, and what it gives to g."""
        layers, size = self._layers(), self.shape[2]
        v = state.above[0]
        for i, (layer, shift) in enumerate(zip(layers, state.shifts, strict=True)):
            down = layer.down(state.above[i][:, :, y : y + layer.reach + (not layer.strict)])
            v = layer.added(v, gate(down if shift is None else down + shift[0]))
            if i + 1 < len(layers):
                r = layers[i + 1].reach
                state.above[i + 1][:, :, r + y, r : r + size] = v[:, :, 0]
            across = layer.across(v)
            given = across if shift is None else across + shift[1]
            state.given[i][:, :, : len(given)] = given[:, :, 0].permute(2, 1, 0)

    def _pixel(self, state: PixelState, y: int, x: int) -> None:
        """h at column x of row y, and u before the channels of that pixel."""
        state.place = (y, x)
        if state.stack is not None:
            state.stack.pixel(x)
            return
        h, gated = state.beside[0], []
        for i, (layer, (along, residual)) in enumerate(zip(self._layers(), state.layers, strict=True)):
            near = state.beside[i][x : x + layer.reach + (not layer.strict) : layer.dilation]
            g = gate(torch.addmm(state.given[i][x], along, near.flatten(0, 1)), 0)
            gated.append(g)
            if layer.residual is not None and layer.residual.bias is not None:
                h = layer.added(h, torch.addmm(layer.residual.bias[:, None], residual, g))
                state.beside[i + 1][x + self._layers()[i + 1].reach] = h
        assert self.mix.bias is not None
        u = torch.addmm(self.mix.bias[:, None], self.mix.weight.flatten(1), torch.cat(gated))
        state.hidden.copy_(u.view_as(state.hidden))

    @torch.no_grad()
    def outputs(self, state: PixelState, rows: slice) -> Tensor:
        """Parameters (B, P) of the next element, whose place among all is ``rows``."""
        _, height, width = self.shape
        c = rows.start // (self.outputs_each * height * width)
        u = state.hidden[c]
        if c:
            u = torch.addmm(u, state.earlier[c, :, :c], self._at_hand(state)[:c])
        weight, bias = state.last[c]
        return torch.addmm(bias, weight, F.relu(u)).T[: len(state.above[0])]

    @torch.no_grad()
    def advance(self, state: PixelState, columns: slice, values: Tensor) -> PixelState:
        """``state`` itself once the next element, whose place is ``columns``, is known to be ``values`` (B, 1)."""
        (channels, height, width), (y, x) = self.shape, state.place
        c, r = columns.start // (height * width), self._layers()[0].reach
        state.above[0][:, c, r + y, r + x] = self._at_hand(state)[c, : len(values)] = self._look(values[:, 0])
        if c == channels - 1:
            x += 1
            if x == width:
                y, x = y + 1, 0
                if y < height:
                    self._row(state, y)
            if y < height:
                self._pixel(state, y, x)
        return state

    def _at_hand(self, state: PixelState) -> Tensor:
        """The channels (C, B) of the pixel at hand."""
        return state.beside[0][self._layers()[0].reach + state.place[1]]
