"""Networks of paths from noise to data, F(x, t, context), and what they see of each kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pushforward.catalog.parts import coordinates, marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Kind, Points, Schema, Signal
from pushforward.core.transform import Compose
from pushforward.nets.dit import DiT, SetTransformer
from pushforward.nets.mlp import TimeMLP
from pushforward.nets.unet import UNet, default_multipliers
from pushforward.transforms.quantise import LevelBands

_NETS = ("auto", "unet", "dit")


@dataclass(frozen=True)
class NetOptions:
    """Options of the network.

    net: auto, unet or dit (images and signals). width: channels of the net. depth, heads, patch: of the dit, and of the
    transformer for points. hidden: widths of the net for vectors and tables. checkpoint: gradients in less memory and more
    time.
    """

    net: str = "auto"
    width: int = 32
    depth: int = 4
    heads: int = 4
    patch: int = 2
    hidden: tuple[int, ...] = (256, 256, 256)
    checkpoint: bool = False


def whitened(kind: Kind) -> Compose:
    """Data ↔ coordinates of variance 1, in which paths run."""
    # convolutions treat all pixels alike, and so must what they see
    return Compose([LevelBands(kind.shape, kind.levels)]) if isinstance(kind, Image) else marginals(kind)


def network(
    kind: Kind, preprocess: Compose, config: NetOptions, conditioner: Conditioner, outputs: Callable[[int], int]
) -> tuple[nn.Module, tuple[int, ...]]:
    """The network for a kind of data, with ``outputs`` of as many channels as it has, and the shape that it works on."""
    if config.net not in _NETS:
        raise ValueError(f"net is one of {', '.join(_NETS)}, found {config.net!r}")
    context = conditioner.width
    deep: dict[str, Any] = {"width": config.width, "depth": config.depth, "heads": config.heads}
    if isinstance(kind, (Image, Signal)):
        channels, dims = kind.channels, 2 if isinstance(kind, Image) else 1
        shared: dict[str, Any] = {"context": context, "dims": dims, "checkpoint": config.checkpoint}
        shared |= {"tokens": conditioner.tokens, "spatial": conditioner.spatial}
        if config.net == "dit":
            return DiT(channels, outputs(channels), patch=config.patch, **deep, **shared), kind.shape
        sides = kind.shape[1:] if dims == 2 else (1, *kind.shape[1:])
        levels = default_multipliers(*sides)
        return UNet(channels, outputs(channels), width=config.width, multipliers=levels, **shared), kind.shape
    if config.net == "unet":
        raise ValueError(f"a U-Net is for images and signals, found {kind.name} data: leave net as it is")
    if isinstance(kind, Points):
        shared = {"context": context, "tokens": conditioner.tokens, "checkpoint": config.checkpoint}
        net = SetTransformer(kind.dims, outputs(kind.dims), **deep, **shared)
        return net, kind.shape
    size = coordinates(kind, preprocess)
    return TimeMLP(size, hidden=config.hidden, context=context, outputs=outputs(size)), (size,)


def assembled(
    schema: Schema, config: NetOptions, outputs: Callable[[int], int]
) -> tuple[Compose, nn.Module, Conditioner, tuple[int, ...]]:
    """Preprocessing, a network of ``outputs``(channels), the conditioner and the shape that the network works on."""
    kind = schema.example
    conditioner = Conditioner(schema.conditions, shape=kind.shape if isinstance(kind, (Image, Signal)) else None)
    preprocess = whitened(kind)
    net, shape = network(kind, preprocess, config, conditioner, outputs)
    return preprocess, net, conditioner, shape
