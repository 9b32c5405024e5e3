"""One masked network under many orders and masks (Germain et al. 2015, arXiv:1502.03509, sections 4.2 and 4.3).

A number k gives an order of the elements and the degrees of all hidden units; the masks follow from them, the weights are
shared. Under k the output of an element sees the elements before it in the order of k. Several k may share an order, and then
differ in their masks alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import mix
from pushforward.nets.common import context_vector, zeroed
from pushforward.nets.linear import rectified
from pushforward.nets.masked import MaskedMLP, spread_degrees


class ManyOrders(nn.Module):
    """Features (B, F) to parameters (B, P) under order number k; ``features`` (F,) and ``params`` (P,) say whose each is.

    ``after`` = {element: another} keeps elements behind others in every order: a number behind the word whether there is one.
    ``masks`` numbers in turn share an order; a random one, unless all are to take that of the data (``shuffled`` false).
    """

    features: Tensor
    params: Tensor

    def __init__(
        self,
        features: Tensor,
        params: Tensor,
        hidden: Sequence[int] = (500,),
        *,
        context: int = 0,
        after: Mapping[int, int] | None = None,
        masks: int = 1,
        shuffled: bool = True,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("found no hidden layer: masks need one at least")
        if masks < 1:
            raise ValueError(f"masks must be at least 1, found {masks}")
        self.sharing, self.shuffled = masks, shuffled
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("params", params, persistent=False)
        self.count, self.hidden, self.context = int(features.max()) + 1, tuple(hidden), context
        self.after = dict(after or {})
        widths = [len(features), *hidden, len(params)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        with torch.no_grad():  # under a mask a unit sees half of the layer below
            for layer in self._layers():
                layer.weight.mul_(2**0.5)
        zeroed(self.layers[-1])
        self.from_context = nn.Linear(context, hidden[0], bias=False) if context else None

    def _layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.layers]

    def order(self, k: int, known: Sequence[int] = ()) -> list[int]:
        """The elements in the order number k; those ``known`` come first."""
        every = list(range(self.count))
        if self.shuffled:
            generator = torch.Generator().manual_seed(mix(k // self.sharing, 0x0DE2))
            every = torch.randperm(self.count, generator=generator).tolist()
        first = set(known)
        order = [i for i in every if i in first] + [i for i in every if i not in first]
        for one, other in self.after.items():
            here, there = order.index(one), order.index(other)
            if here < there:
                order[here], order[there] = other, one
        return order

    def _degrees(self, k: int, order: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Places of the elements, from 1, and the degrees of the hidden units of each layer, dealt out at random."""
        places = torch.empty(self.count, dtype=torch.long)
        places[list(order)] = torch.arange(1, self.count + 1)
        generator = torch.Generator().manual_seed(mix(k, 0xDE62))
        spread = (spread_degrees(width, self.count - 1, self.context > 0) for width in self.hidden)
        return places, [degrees[torch.randperm(len(degrees), generator=generator)] for degrees in spread]

    def masks(self, k: int) -> list[Tensor]:
        """Which weights count under order number k, in the type of the weights."""
        places, hidden = self._degrees(k, self.order(k))
        places, hidden = places.to(self.features.device), [d.to(self.features.device) for d in hidden]
        order = [places[self.features], *hidden]
        masks = [b[:, None] >= a for a, b in itertools.pairwise(order)]
        masks.append(places[self.params][:, None] > order[-1])
        return [mask.to(layer.weight.dtype) for mask, layer in zip(masks, self._layers(), strict=True)]

    def forward(self, x: Tensor, context: Context | None = None, *, k: int = 0) -> Tensor:
        vector = context_vector(context, self.context)
        shift = self.from_context(vector) if self.from_context is not None and vector is not None else None
        layers = self._layers()
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return rectified(x, weights, biases, shift=shift, masks=self.masks(k))

    @torch.no_grad()
    def member(self, k: int, known: Sequence[int] = ()) -> tuple[MaskedMLP, list[int]]:
        """The network under order number k, with ``known`` elements first, by itself; and the order. Its weights are copies."""
        order = self.order(k, known)
        places, hidden = self._degrees(k, order)
        sorted_degrees, ranks = zip(*(degrees.sort() for degrees in hidden), strict=True)
        device, dtype = self.features.device, self._layers()[0].weight.dtype
        own = (places[self.features.cpu()], places[self.params.cpu()], self.hidden)
        net = MaskedMLP(*own, context=self.context, hidden_degrees=sorted_degrees).to(device, dtype)
        inputs = [torch.arange(len(self.features)), *ranks]
        outputs = [*ranks, torch.arange(len(self.params))]
        for layer, mine, rows, columns in zip(net.layers, self._layers(), outputs, inputs, strict=True):
            layer.weight.copy_(mine.weight[rows][:, columns])  # type: ignore[union-attr,operator]
            layer.bias.copy_(mine.bias[rows])  # type: ignore[union-attr,operator]
        if net.from_context is not None and self.from_context is not None:
            net.from_context.weight.copy_(self.from_context.weight[ranks[0]])
        return net, order
