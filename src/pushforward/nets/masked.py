"""Nets whose outputs see only the elements before their own (Germain et al. 2015, arXiv:1502.03509)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.nets.common import activation_named, context_vector, zeroed
from pushforward.nets.linear import kernels_pay, rectified
from pushforward.transforms.monotone import Monotone, plain_cpu

if TYPE_CHECKING:
    from pushforward.kernels.autoregressive import Packed


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

    def masked(self) -> Tensor:
        """The weight with the mask applied, made anew each time: the product costs next to nothing.

        Fused optimisers and writes to ``.data`` leave no mark by which a kept one could be known to be stale.
        """
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        bias = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias
        return rectified(x, [self.weight], [bias], masks=[self.mask])


@dataclass(frozen=True)
class MaskedState:
    """What ``MaskedMLP`` has computed from the elements up to ``degree``.

    ``first`` (B, hidden[0]): the first layer before its activation. ``hidden``: the activations (B, n) of the n units of
    each layer that see no later element. ``inputs`` (B, I), zero where unknown, kept only for direct connections.
    ``weights``: the masked weights of the layers; ``links``: those of the direct connections.
    """

    degree: int
    first: Tensor
    hidden: tuple[Tensor, ...]
    inputs: Tensor | None
    weights: tuple[Tensor, ...]
    links: tuple[Tensor, ...] = ()


def spread_degrees(width: int, top: int, context: bool) -> Tensor:
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
    may see. ``hidden_degrees``, ascending, are even ones unless given. ``direct`` adds masked linear connections to the
    outputs from the inputs and from every hidden layer but the last, which has its own: worth having where a hidden layer has
    fewer units than there are elements, since some neighbours are then seen by no unit in time, and quicker to learn.
    ``dropout``: the share of hidden units left out in training, by the ``draws`` of the batch. ``zero_last`` starts the net as
    the zero function.

    ``start``, ``advance`` and ``outputs`` give the same values as ``forward`` one element at a time. Units are sorted by
    degree, so what can be computed so far is a block at the front of every layer, and a step computes the units that it
    makes computable, each once: all steps together cost one pass. ``unroll`` inverts an autoregressive map with them.
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
        dropout: float = 0.0,
        zero_last: bool = False,
        hidden_degrees: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("found no hidden layer: MaskedMLP needs one at least")
        for name, degrees in (("in_degrees", in_degrees), ("out_degrees", out_degrees)):
            if degrees.dim() != 1 or not degrees.numel() or (degrees < 1).any():
                raise ValueError(f"found {name} of shape {tuple(degrees.shape)}: expected (n,), n >= 1, of numbers >= 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a share of at least 0 and below 1, found {dropout}")
        self.context, self.dropout = context, dropout
        self.register_buffer("in_degrees", in_degrees.long(), persistent=False)
        self.register_buffer("out_degrees", out_degrees.long(), persistent=False)
        top = min(int(in_degrees.max()), int(out_degrees.max()) - 1)
        given = hidden_degrees or [spread_degrees(width, top, context > 0) for width in hidden]
        order = [self.in_degrees, *given]
        self._places = self.in_degrees.tolist()
        # how many units of each hidden layer see nothing later than degree k, k = 0 …
        self._upto = [torch.searchsorted(d, torch.arange(max(self._places) + 1), right=True).tolist() for d in order[1:]]
        masks = [b[:, None] >= a for a, b in itertools.pairwise(order)]
        masks.append(self.out_degrees[:, None] > order[-1])
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.from_context = nn.Linear(context, hidden[0], bias=False) if context else None
        links = [MaskedLinear(self.out_degrees[:, None] > d, bias=False) for d in order[:-1]] if direct else []
        self.direct = nn.ModuleList(links)
        self.activation = activation_named(activation)
        self._kept: tuple[list[Tensor], Packed] | None = None
        if zero_last:
            for layer in (self.layers[-1], *self.direct):
                zeroed(layer)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": None}

    def forward(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        shift = self.from_context(vector) if self.from_context is not None and vector is not None else None
        layers, drops = self._layers(), draws is not None and self.training and self.dropout > 0
        if isinstance(self.activation, nn.ReLU) and not drops and not self.direct:
            weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
            return rectified(x, weights, biases, shift=shift, masks=[layer.mask for layer in layers])
        below = [x]
        for i, layer in enumerate(layers[:-1]):
            h = layer(below[-1])
            h = self.activation(h if i or shift is None else h + shift)
            if draws is not None and drops:
                h = h * ((draws.uniform(h.shape[1]) >= self.dropout).to(h) / (1 - self.dropout))
            below.append(h)
        y = layers[-1](below[-1])
        for link, h in zip(self.direct, below, strict=False):
            y = y + link(h)
        return y

    def _layers(self) -> list[MaskedLinear]:
        return [cast(MaskedLinear, layer) for layer in self.layers]

    def _links(self) -> list[MaskedLinear]:
        return [cast(MaskedLinear, link) for link in self.direct]

    def start(self, batch: int, context: Context | None = None) -> MaskedState:
        """The state before any element is known, for ``batch`` examples."""
        vector = context_vector(context, self.context)
        first = self._layers()[0]
        h = first.bias.expand(batch, -1)
        if self.from_context is not None and vector is not None:
            h = h + self.from_context(vector)
        inputs = h.new_zeros(batch, first.in_features) if self.direct else None
        weights, links = (tuple(layer.masked() for layer in part) for part in (self._layers(), self._links()))
        return self._grown(MaskedState(0, h, tuple(h[:, :0] for _ in self._upto), inputs, weights, links))

    def _grown(self, state: MaskedState) -> MaskedState:
        """``state`` with the units that its elements make computable."""
        hidden: list[Tensor] = []
        for index, (layer, upto) in enumerate(zip(self._layers(), self._upto, strict=False)):
            known, end = state.hidden[index], upto[state.degree]
            start = known.shape[1]
            if end > start and index == 0:
                known = torch.cat([known, self.activation(state.first[:, start:end])], 1)
            elif end > start:
                below = hidden[-1]
                rows = state.weights[index][start:end, : below.shape[1]]
                known = torch.cat([known, self.activation(F.linear(below, rows, layer.bias[start:end]))], 1)
            hidden.append(known)
        return replace(state, hidden=tuple(hidden))

    def advance(self, state: MaskedState, columns: slice | Tensor, values: Tensor) -> MaskedState:
        """The state once the inputs ``columns`` are known to be ``values`` (B, k).

        Give them in the order of their degrees, all of one degree together.
        """
        places = self._places[columns] if isinstance(columns, slice) else [self._places[i] for i in columns.tolist()]
        first = state.first + F.linear(values, state.weights[0][:, columns])
        inputs = state.inputs
        if inputs is not None:
            inputs = inputs.clone()
            inputs[:, columns] = values.to(inputs.dtype)
        return self._grown(replace(state, degree=max(places), first=first, inputs=inputs))

    def outputs(self, state: MaskedState, rows: slice | Tensor = slice(None)) -> Tensor:
        """The outputs ``rows``: (B, r). They equal ``forward``'s once every input of lower degree is known."""
        below, last = state.hidden[-1], self._layers()[-1]
        y = F.linear(below, state.weights[-1][rows, : below.shape[1]], last.bias[rows])
        if state.inputs is not None:
            for weight, h in zip(state.links, (state.inputs, *state.hidden), strict=False):
                y = y + F.linear(h, weight[rows, : h.shape[1]])
        return y

    def unroll(self, z: Tensor, monotone: Monotone, context: Context | None = None) -> Tensor:
        """The x (B, D) that ``monotone`` pulls to z (B, D) with the parameters this net gives at x.

        Outputs are ordered p · D + i, the inputs' degrees all different.
        """
        if monotone.kernel is not None and self._kernel_applies(z, context):
            from pushforward.kernels.autoregressive import unroll

            first = self._before(context)
            size, order = z.shape[1], self.in_degrees.argsort().cpu()
            rows = (order[:, None] + size * torch.arange(len(self.out_degrees) // size)).flatten()
            return unroll(z, first, self._pack(rows), *monotone.kernel)
        size, columns, state = z.shape[1], [z] * z.shape[1], self.start(len(z), context)
        for i in self.in_degrees.argsort().tolist():
            params = self.outputs(state, slice(i, None, size))
            columns[i] = monotone.push(z[:, i : i + 1], params[:, :, None])
            state = self.advance(state, slice(i, i + 1), columns[i].to(state.first.dtype))
        return torch.cat(columns, 1)

    def _before(self, context: Context | None) -> Tensor:
        """The first layer before any element, (B or 1, H₁)."""
        first = self._layers()[0].bias[None]
        vector = context_vector(context, self.context)
        return first if self.from_context is None or vector is None else first + self.from_context(vector)

    def draw(
        self,
        elements: Any,
        u: Tensor,
        context: Context | None = None,
        held: tuple[Tensor, Tensor] | None = None,
        how: Any = None,
    ) -> Tensor | None:
        """All elements (B, E), as ``models.autoregressive.ancestral`` draws them; None where not alike, or sharpened."""
        alike, single = elements.alike, u.float()
        if how is not None or alike is None or len(self.in_degrees) != u.shape[1] or not self._kernel_applies(single, context):
            return None
        from pushforward.kernels.autoregressive import unroll

        kind, default, grid = alike
        order, each = self.in_degrees.argsort().cpu(), len(self.out_degrees) // u.shape[1]
        rows = (each * order[:, None] + torch.arange(each)).flatten()
        kept = None
        if held is not None:
            kept = torch.where(held[1], elements.look(held[0]).double(), math.nan).float()
        return elements.seen(unroll(single, self._before(context), self._pack(rows, default), kind, (), kept, grid))

    def _kernel_applies(self, z: Tensor, context: Context | None) -> bool:
        """float32 on the CPU, rectified units, and nobody who asks for gradients."""
        given = () if context is None or context.vector is None else (context.vector,)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (z, *given, *self.parameters()))
        return (
            isinstance(self.activation, nn.ReLU)
            and not learns
            and z.dtype == self.layers[0].weight.dtype == torch.float32
            and plain_cpu(z)
            and kernels_pay()
        )

    def _pack(self, rows: Tensor, added: Tensor | None = None) -> Packed:
        """The net as the kernel wants it, its outputs in the order ``rows``, with ``added`` to them before; made again when a
        number of it has changed."""
        # compared number by number: nothing else tells for certain (see ``MaskedLinear.masked``)
        now = [p.detach() for p in self.parameters()] + [rows] + ([] if added is None else [added])
        known = self._kept[0] if self._kept is not None else []
        if self._kept is None or len(known) != len(now) or not all(map(torch.equal, known, now)):
            self._kept = [p.clone() for p in now], self._packed(rows, added)
        return self._kept[1]

    @torch.no_grad()
    def _packed(self, rows: Tensor, added: Tensor | None) -> Packed:
        from pushforward.kernels.autoregressive import Packed

        order = self.in_degrees.argsort().cpu()
        first, *middle, last = self._layers()
        widest = max(layer.out_features for layer in (first, *middle))
        at_once = self._links()
        skips = torch.zeros(len(at_once[1:]), len(rows), widest)
        for index, link in enumerate(at_once[1:]):
            skips[index, :, : link.in_features] = link.masked()[rows]
        square, bias = torch.zeros(len(middle), widest, widest), torch.zeros(1 + len(middle), widest)
        for index, layer in enumerate(middle):
            square[index, : layer.out_features, : layer.in_features] = layer.masked()
        for index, layer in enumerate((first, *middle)):
            bias[index, : layer.out_features] = layer.bias
        outputs = last.bias if added is None else last.bias + added
        arrays = {
            "w_in": first.masked()[:, order],
            "middle": square,
            "bias": bias,
            "w_out": last.masked()[rows],
            "direct": at_once[0].masked()[rows][:, order] if at_once else torch.zeros(0, len(order)),
            "skips": skips,
            "b_out": outputs[rows],  # element by element in their order, each with all of its parameters
        }
        numbers = {name: t.detach().contiguous().numpy() for name, t in arrays.items()}
        return Packed(**numbers, upto=np.asarray(self._upto, dtype=np.uint64), order=order.numpy().astype(np.uint64))
