"""Masked networks under many orders (Germain et al. 2015, arXiv:1502.03509, sections 4.2 and 4.3).

A number k gives an order of the elements: under k the output of an element sees the elements before it in the order of k.
``ManyOrders`` is one network: k gives the degrees of all hidden units too, the masks follow from them, the weights are shared.
Several k may share an order, and then differ in their masks alone. ``Ensemble`` has a network for each order. Both answer

    net(x, context, k=k)        the parameters under order number k
    in_turn(x, context, draws)  those under the orders that a step of training takes
    member(k)                   the network under order number k, by itself
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws, mix
from pushforward.nets.common import context_vector, zeroed
from pushforward.nets.linear import rectified
from pushforward.nets.masked import MaskedMLP, spread_degrees

_FRESH = 1 << 40  # numbers of the orders of training steps, far from those that are asked for


@dataclass(frozen=True)
class Orders:
    """Orders of ``count`` elements: those ``first``, then random ones.

    ``after`` = {element: another} keeps elements behind others in every order: a number behind the word whether there is one.
    """

    count: int
    first: Sequence[Sequence[int]] = ()
    after: Mapping[int, int] = field(default_factory=dict)

    def __call__(self, k: int, known: Sequence[int] = ()) -> list[int]:
        """The elements in the order number k; those ``known`` come first."""
        if k < len(self.first):
            every = list(self.first[k])
        else:
            generator = torch.Generator().manual_seed(mix(k, 0x0DE2))
            every = torch.randperm(self.count, generator=generator).tolist()
        ahead = set(known)
        order = [i for i in every if i in ahead] + [i for i in every if i not in ahead]
        for one, other in self.after.items():
            here, there = order.index(one), order.index(other)
            if here < there:
                order[here], order[there] = other, one
        return order


def _places(order: Sequence[int]) -> Tensor:
    """The place of each element in ``order``, from 1."""
    places = torch.empty(len(order), dtype=torch.long)
    places[list(order)] = torch.arange(1, len(order) + 1)
    return places


class Ensemble(nn.Module):
    """A network of its own for each of the first ``members`` of ``orders``: features (B, F) to parameters (B, P).

    A step of training deals the rows of its batch out to them, so that all learn side by side, each as it would alone with
    batches of that share. ``how``: options of every ``MaskedMLP``.
    """

    def __init__(
        self, features: Tensor, params: Tensor, orders: Orders, members: int, hidden: Sequence[int], **how: Any
    ) -> None:
        super().__init__()
        if members < 2:
            raise ValueError(f"an ensemble has two orders or more, found {members}")
        self.orders, self.members = orders, members
        places = [_places(orders(k)) for k in range(members)]
        self.nets = nn.ModuleList(MaskedMLP(p[features], p[params], hidden, **how) for p in places)

    def forward(self, x: Tensor, context: Context | None = None, *, k: int = 0) -> Tensor:
        return cast(Tensor, self.nets[k](x, context))

    def in_turn(self, x: Tensor, context: Context, draws: Draws) -> Tensor:
        """Each row under one order: neighbours share it, and every order has as many, over all processes."""
        ends = [
            min(max(draws.total * k // self.members, draws.start), draws.stop) - draws.start for k in range(self.members + 1)
        ]
        pieces = []
        for net, a, b in zip(self.nets, ends, ends[1:], strict=False):
            mine = Context() if context.vector is None else Context(context.vector[a:b])
            pieces.append(net(x[a:b], mine, draws.part(a, b)))
        return torch.cat(pieces)

    def member(self, k: int, known: Sequence[int] = ()) -> tuple[MaskedMLP, list[int]]:
        """The network of order number k, and the order."""
        return cast(MaskedMLP, self.nets[k]), self.orders(k)


class ManyOrders(nn.Module):
    """Features (B, F) to parameters (B, P) under order number k; ``features`` (F,) and ``params`` (P,) say whose each is.

    ``masks`` numbers in turn share one of ``orders``. A step of training takes one of ``members`` numbers, or, where that is 0,
    one that was never taken before.
    """

    features: Tensor
    params: Tensor

    def __init__(
        self,
        features: Tensor,
        params: Tensor,
        orders: Orders,
        members: int = 0,
        hidden: Sequence[int] = (500,),
        *,
        context: int = 0,
        masks: int = 1,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("found no hidden layer: masks need one at least")
        if masks < 1:
            raise ValueError(f"masks must be at least 1, found {masks}")
        self.orders, self.members, self.sharing = orders, members, masks
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("params", params, persistent=False)
        self.hidden, self.context = tuple(hidden), context
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
        """The elements in the order of number k; those ``known`` come first."""
        return self.orders(k // self.sharing, known)

    def _degrees(self, k: int, order: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Places of the elements, from 1, and the degrees of the hidden units of each layer, dealt out at random."""
        generator = torch.Generator().manual_seed(mix(k, 0xDE62))
        spread = (spread_degrees(width, self.orders.count - 1, self.context > 0) for width in self.hidden)
        return _places(order), [degrees[torch.randperm(len(degrees), generator=generator)] for degrees in spread]

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

    def in_turn(self, x: Tensor, context: Context, draws: Draws) -> Tensor:
        """All rows under one number, which the seed of the batch says."""
        step = mix(draws.seed, 0x0DE2)
        return self(x, context, k=step % self.members if self.members else _FRESH + step % _FRESH)

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
