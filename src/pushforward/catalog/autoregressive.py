"""Autoregressive models as recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Kind, Schema
from pushforward.models.autoregressive import Autoregressive
from pushforward.models.elements import elements
from pushforward.models.orders import OrderMixture
from pushforward.nets.belief import NADE, FullyVisible
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.orders import Ensemble, ManyOrders, Orders
from pushforward.nets.pixel import PixelCNN

_LINKS = 1_000_000  # numbers of a net's direct connections at most


@dataclass(frozen=True)
class FvsbnOptions:
    """Options of the fully visible belief network.

    components: logistics in the mixture of a number or 8-bit pixel.
    """

    components: int = 5


def fvsbn(schema: Schema, config: FvsbnOptions) -> Autoregressive:
    """Every parameter linear in the elements before, in the order of the data."""
    parts, conditioner = elements(schema.example, config.components), Conditioner(schema.conditions)
    net = FullyVisible(parts.feature_element, parts.param_element, context=conditioner.width)
    return Autoregressive(schema, parts, net, conditioner)


@dataclass(frozen=True)
class NadeOptions:
    """Options of NADE.

    units: width of the hidden layer. components: logistics in the mixture of a number or 8-bit pixel.
    """

    units: int = 500
    components: int = 5


def nade(schema: Schema, config: NadeOptions) -> Autoregressive:
    """One hidden layer whose sums are carried from element to element, in the order of the data."""
    if config.units < 1:
        raise ValueError(f"units must be at least 1, found {config.units}")
    parts, conditioner = elements(schema.example, config.components), Conditioner(schema.conditions)
    net = NADE(parts.feature_slices, parts.param_slices, config.units, context=conditioner.width)
    return Autoregressive(schema, parts, net, conditioner)


@dataclass(frozen=True)
class MadeOptions:
    """Options of MADE.

    hidden: widths of the masked net; None takes (256, 256), or (512, 512) above 256 elements. components: logistics in the
    mixture of a number or 8-bit pixel. orders: 1 takes the order of the data; more train the net under that many in turn: from
    beginning and end (pictures: row by row and column by column, from every corner), then random ones; 0 under a new one at
    each step, so that anything can be completed given anything. masks: under each order, so many in turn. ensemble: a net for
    each order, with weights of its own. mixture: of how many orders and masks the density is the mean; None takes all, 8 at
    most. dropout: share of the hidden units left out in training, of nets whose weights are their own.
    """

    hidden: tuple[int, ...] | None = None
    components: int = 5
    orders: int = 1
    masks: int = 1
    ensemble: bool = False
    mixture: int | None = None
    dropout: float = 0.0


def made(schema: Schema, config: MadeOptions) -> Autoregressive | OrderMixture:
    """A masked net, in the order of the data (columns, pixels row by row, characters from left to right) or in many."""
    parts, conditioner = elements(schema.example, config.components), Conditioner(schema.conditions)
    features, params = parts.feature_element, parts.param_element
    hidden = config.hidden or ((512, 512) if parts.count > 256 else (256, 256))
    members = config.orders * config.masks
    if config.orders < 0:
        raise ValueError(f"orders must be at least 0, found {config.orders}")
    if config.orders == 0 and config.masks != 1:
        raise ValueError(f"found masks={config.masks} with orders=0, where every step has new masks: leave one of them out")
    if config.ensemble and (config.orders < 2 or config.masks != 1):
        raise ValueError(f"an ensemble has orders=2 or more and no masks, found orders={config.orders}, masks={config.masks}")
    if config.dropout and members != 1 and not config.ensemble:
        raise ValueError("dropout is for nets whose weights are their own: take ensemble, one order, or no dropout")
    if config.mixture not in (None, 1) and members == 1:
        raise ValueError(f"found a mixture of {config.mixture} with one order and its masks: give orders or masks too")
    own: dict[str, Any] = {"context": conditioner.width, "dropout": config.dropout, "zero_last": True}
    own["direct"] = len(features) * len(params) <= _LINKS
    if members == 1:
        net = MaskedMLP(features + 1, params + 1, hidden, **own)
        return Autoregressive(schema, parts, net, conditioner)
    orders = Orders(parts.count, _readings(schema.example, parts.count) if members else (), parts.indicator_of)
    many: Ensemble | ManyOrders
    if config.ensemble:
        many = Ensemble(features, params, orders, members, hidden, **own)
    else:
        many = ManyOrders(features, params, orders, members, hidden, context=conditioner.width, masks=config.masks)
    mixture = config.mixture if config.mixture is not None else min(8, members or 8)
    return OrderMixture(schema, parts, many, conditioner, mixture=mixture)


def _readings(kind: Kind, count: int) -> list[list[int]]:
    """Orders that keep neighbours together: that of the data, back from its end, and of pictures those of each corner."""
    if not isinstance(kind, Image):
        return [list(range(count)), list(range(count))[::-1]]
    rows = torch.arange(count).view(kind.shape)
    grids = [grid.flip(sides) for sides in ((), (1, 2), (2,), (1,)) for grid in (rows, rows.transpose(1, 2))]
    return [grid.flatten().tolist() for grid in grids]


@dataclass(frozen=True)
class PixelcnnOptions:
    """Options of the gated PixelCNN.

    width: units of either stack. first, kernel: sides of the first layer's kernel and of the others', odd. dilations: one for
    each layer after the first. head: hidden units that the parameters of a channel come from. components: logistics in the
    mixture of an 8-bit pixel.
    """

    width: int = 32
    first: int = 7
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 1, 2, 1)
    head: int = 64
    components: int = 5


def pixelcnn(schema: Schema, config: PixelcnnOptions) -> Autoregressive:
    """Pixels row by row, the channels of each together."""
    kind = schema.example
    assert isinstance(kind, Image)
    parts, conditioner = elements(kind, config.components), Conditioner(schema.conditions)
    net = PixelCNN(
        kind.shape,
        len(parts.param_element) // kind.size,
        width=config.width,
        first=config.first,
        kernel=config.kernel,
        dilations=config.dilations,
        hidden=config.head,
        context=conditioner.width,
        binary=kind.levels == 2,
    )
    return Autoregressive(schema, parts, net, conditioner, order=net.order)
