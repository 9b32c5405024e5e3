"""Nets whose outputs see only the elements before their own (Germain et al. 2015, arXiv:1502.03509)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.common import activation_named, context_vector, zeroed


class MaskedLinear(nn.Linear):
    """A linear layer whose weight (outputs, inputs) counts only where ``mask``, of the same shape, is true."""

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs, bias=bias)
        self.register_buffer("mask", mask.to(self.weight), persistent=False)
        # a row that sees few inputs gets the spread of a layer with that many, or early elements would learn slowly
        seen = self.mask.sum(1, keepdim=True).clamp_min(1.0)
        with torch.no_grad():
            self.weight.mul_((inputs / seen).sqrt())

    def masked(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """The weight with the mask applied, of the given rows."""
        return self.weight[rows] * self.mask[rows]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.masked(), self.bias)


@dataclass(frozen=True)
class MaskedState:
    """What ``MaskedMLP`` has computed from the elements known so far.

    ``first`` (B, hidden[0]): the first layer before its activation. ``inputs`` (B, I), zero where unknown, kept only
    for direct connections. ``weights``: the masked weights of all layers but the last, so that no step masks again.
    """

    first: Tensor
    inputs: Tensor | None
    weights: tuple[Tensor, ...]


def _hidden_degrees(width: int, top: int, context: bool) -> Tensor:
    """Degrees of ``width`` hidden units, ascending and even over 1..top.

    Units of degree 0 see the context alone. They exist where there is one, for without them the first element could
    not depend on it, and where ``top`` is 0, for then no unit may see an input.
    """
    if top < 1:
        return torch.zeros(width, dtype=torch.long)
    zeros = max(width // (top + 1), width // 8, 1) if context else 0
    units = width - zeros
    if units >= top:
        rest = 1 + torch.arange(units) * top // units
    else:
        # fewer units than degrees: both ends stay in, so that the last output still sees every input
        rest = torch.linspace(1, top, units).round().long() if units > 1 else torch.full((units,), top)
    return torch.cat([torch.zeros(zeros, dtype=torch.long), rest])


class MaskedMLP(nn.Module):
    """Vectors (B, I) to (B, O), where an output of degree d depends only on inputs of degree below d.

    Degrees start at 1: ``in_degrees`` (I,) is the place of each input's element in the order, ``out_degrees`` (O,) the
    place of the element that the output describes, so outputs of degree 1 are constants, or functions of the context.
    Several inputs, or outputs, may share a degree. ``context`` is the width of ``Context.vector``, which every output
    may see. ``direct`` adds masked linear connections from inputs to outputs: worth having where a hidden layer has
    fewer units than there are elements, since some neighbours are then seen by no unit in time. ``zero_last`` starts the net
    as the zero function.

    For ancestral sampling, ``start``, ``advance`` and ``outputs`` give the same values as ``forward`` one element at
    a time: a step costs one column of the first layer, the hidden layers, and the rows asked for of the last.
    """

    in_degrees: Tensor
    out_degrees: Tensor

    def __init__(
        self,
        in_degrees: Tensor,
        out_degrees: Tensor,
        hidden: Sequence[int] = (128, 128),
        *,
        context: int = 0,
        activation: str = "relu",
        direct: bool = False,
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("found no hidden layer: MaskedMLP needs one at least")
        for name, degrees in (("in_degrees", in_degrees), ("out_degrees", out_degrees)):
            if degrees.dim() != 1 or not degrees.numel() or (degrees < 1).any():
                raise ValueError(f"found {name} of shape {tuple(degrees.shape)}: expected (n,), n >= 1, of numbers >= 1")
        self.context = context
        self.register_buffer("in_degrees", in_degrees.long(), persistent=False)
        self.register_buffer("out_degrees", out_degrees.long(), persistent=False)
        top = min(int(in_degrees.max()), int(out_degrees.max()) - 1)
        order = [self.in_degrees, *(_hidden_degrees(width, top, context > 0) for width in hidden)]
        masks = [b[:, None] >= a for a, b in itertools.pairwise(order)]
        masks.append(self.out_degrees[:, None] > order[-1])
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.from_context = nn.Linear(context, hidden[0], bias=False) if context else None
        self.direct = MaskedLinear(self.out_degrees[:, None] > self.in_degrees, bias=False) if direct else None
        self.activation = activation_named(activation)
        if zero_last:
            zeroed(self.layers[-1])
            if self.direct is not None:
                zeroed(self.direct)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        h = self.layers[0](x)
        if self.from_context is not None and vector is not None:
            h = h + self.from_context(vector)
        for layer in self.layers[1:]:
            h = layer(self.activation(h))
        return h if self.direct is None else h + self.direct(x)

    def _layers(self) -> list[MaskedLinear]:
        return [cast(MaskedLinear, layer) for layer in self.layers]

    def start(self, batch: int, context: Context | None = None) -> MaskedState:
        """The state before any element is known, for ``batch`` examples."""
        vector = context_vector(context, self.context)
        first = self._layers()[0]
        h = first.bias.expand(batch, -1)
        if self.from_context is not None and vector is not None:
            h = h + self.from_context(vector)
        inputs = None if self.direct is None else h.new_zeros(batch, first.in_features)
        return MaskedState(h, inputs, tuple(layer.masked() for layer in self._layers()[:-1]))

    def advance(self, state: MaskedState, columns: slice | Tensor, values: Tensor) -> MaskedState:
        """The state once the inputs ``columns`` are known to be ``values`` (B, k). Give each input once."""
        first = state.first + F.linear(values, state.weights[0][:, columns])
        if state.inputs is None:
            return replace(state, first=first)
        inputs = state.inputs.clone()
        inputs[:, columns] = values.to(inputs.dtype)
        return replace(state, first=first, inputs=inputs)

    def outputs(self, state: MaskedState, rows: slice | Tensor = slice(None)) -> Tensor:
        """The outputs ``rows``: (B, r). They equal ``forward``'s once every input of lower degree is known."""
        h = state.first
        *middle, last = self._layers()[1:]
        for layer, weight in zip(middle, state.weights[1:], strict=True):
            h = F.linear(self.activation(h), weight, layer.bias)
        h = F.linear(self.activation(h), last.masked(rows), last.bias[rows])
        if self.direct is None or state.inputs is None:
            return h
        return h + F.linear(state.inputs, self.direct.masked(rows))
