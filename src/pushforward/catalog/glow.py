"""Flows of pictures, level by level: Glow, and RealNVP with its checkerboards. Glow of vectors and tables too.

A level squeezes blocks of 2×2 pixels into channels, runs its layers, and lets half of the channels leave
(transforms/multiscale). A side is halved only where it is even, so 28 pixels become 14 and then 7, and there it ends. What a
layer is, from the latent to the data, as everywhere in the order of ``push``:

| | |
|---|---|
| Glow | affine coupling of the halves of the channels, 1×1 convolution, ActNorm |
| RealNVP before squeezing | affine coupling of the two colours of a chess board, by turns, ActNorm |
| RealNVP after squeezing | affine coupling of the halves of the channels, by turns, ActNorm |

The layers see pixels through ``LevelBands``, one order-preserving map for all pixels of a channel: convolutions treat pixels
alike, and a level as frequent as a black background is a bell from the start, not a spike that affine layers have to grow.
Noise within a level is drawn at random, or by a small flow that sees the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.catalog.parts import noise, vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Schema
from pushforward.core.transform import Compose, Transform
from pushforward.models.elements import Pixels
from pushforward.models.flow import Flow
from pushforward.nets.convolution import ConvNet
from pushforward.nets.mlp import MLP
from pushforward.transforms.coupling import CheckerboardCoupling, Coupling, checkerboard, halves
from pushforward.transforms.linear import LU
from pushforward.transforms.monotone import Affine
from pushforward.transforms.multiscale import MultiScale
from pushforward.transforms.normalise import ActNorm
from pushforward.transforms.quantise import LevelBands, VariationalNoise
from pushforward.transforms.reshape import Squeeze

Shape = tuple[int, int, int]
Nets = Callable[[int, int], nn.Module]
"""(channels in, channels out) → the network of a coupling."""

DEQUANTISATIONS = ("uniform", "variational")
_LEVELS = 3
_WIDTH = 0.2  # of the bell of a frequent level
_SLOPE = 0.1  # a coupling scales by 10 at most: many follow, and all are to be undone


@dataclass(frozen=True)
class GlowOptions:
    """Options of Glow.

    transforms: number of layers, at each level for images. levels: how often images are squeezed; by default as often as
    their sides are even, at most 3 times. hidden: channels of each coupling's convolutions (default 64 64), or widths of its
    network for vectors and tables (default 128 128). dequantisation: uniform noise between the levels of pixels, or
    variational, drawn by a small flow. base: the noise, as of every flow.
    """

    transforms: int = 8
    levels: int | None = None
    hidden: tuple[int, ...] | None = None
    dequantisation: str = "uniform"
    base: str = "normal"


def glow(schema: Schema, config: GlowOptions) -> Flow:
    """Affine couplings between invertible linear maps (Kingma & Dhariwal 2018, arXiv:1807.03039)."""
    if isinstance(schema.example, Image):
        return _pictures(
            schema,
            before=lambda shape, nets: [],
            after=lambda shape, nets: mixed_couplings(shape, config.transforms, nets),
            levels=config.levels,
            hidden=config.hidden or (64, 64),
            dequantisation=config.dequantisation,
            base=config.base,
        )
    _check(config.dequantisation)
    preprocess, size = vector_marginals(schema.example)
    conditioner = Conditioner(schema.conditions)
    parts: list[Transform] = []
    for _ in range(config.transforms):
        if size > 1:
            stays, f = halves(size, 0), Affine(_SLOPE)
            a = int(stays.sum())
            hidden = config.hidden or (128, 128)
            net = MLP(a, f.params * (size - a), hidden, context=conditioner.width, activation="relu", zero_last=True)
            parts.append(Coupling(stays, net, f))
        parts += [LU(size), ActNorm(size)]
    distribution, between = noise(config.base, size)
    return Flow(schema, distribution, Compose([*between, *parts]), conditioner, preprocess=preprocess)


def realnvp_image(
    schema: Schema,
    *,
    transforms: int = 6,
    levels: int | None = None,
    hidden: Sequence[int] = (64, 64),
    dequantisation: str = "uniform",
    base: str = "normal",
) -> Flow:
    """RealNVP of pictures (Dinh et al. 2016, arXiv:1605.08803): ``transforms`` couplings at each level, half of them (rounded
    up) checkerboards before the squeezing, the others of channels after it."""
    return _pictures(
        schema,
        before=lambda shape, nets: checkerboard_couplings(shape, (transforms + 1) // 2, nets),
        after=lambda shape, nets: channel_couplings(shape, transforms // 2, nets),
        levels=levels,
        hidden=hidden,
        dequantisation=dequantisation,
        base=base,
    )


# layers


def mixed_couplings(shape: Shape, count: int, nets: Nets) -> list[Transform]:
    """Glow's layers: what stays and what moves is chosen by the 1×1 convolution between them."""
    channels = shape[0]
    if channels == 1:  # nothing to mix: the pixels take turns
        return checkerboard_couplings(shape, count, nets)
    parts: list[Transform] = []
    for _ in range(count):
        parts += [_halves(channels, 0, nets), LU(channels), ActNorm(channels)]
    return parts


def channel_couplings(shape: Shape, count: int, nets: Nets, normalise: bool = True) -> list[Transform]:
    """Couplings of the two halves of the channels, by turns."""
    channels = shape[0]
    if channels == 1:
        return checkerboard_couplings(shape, count, nets, normalise)
    return _normalised([_halves(channels, i, nets) for i in range(count)], channels, normalise)


def checkerboard_couplings(shape: Shape, count: int, nets: Nets, normalise: bool = True) -> list[Transform]:
    """Couplings of the two colours of a chess board, by turns; none for a single pixel."""
    channels, height, width = shape
    f = Affine(_SLOPE)
    if height * width == 1:
        return _normalised([], channels, normalise)
    parts = [
        CheckerboardCoupling(checkerboard(height, width, i), channels, nets(channels, f.params * channels), Affine(_SLOPE))
        for i in range(count)
    ]
    return _normalised(parts, channels, normalise)


def _normalised(couplings: Sequence[Transform], channels: int, normalise: bool) -> list[Transform]:
    if not normalise:
        return list(couplings)
    return [part for coupling in couplings for part in (coupling, ActNorm(channels))] or [ActNorm(channels)]


def _halves(channels: int, parity: int, nets: Nets) -> Coupling:
    stays, f = halves(channels, parity), Affine(_SLOPE)
    kept = int(stays.sum())
    return Coupling(stays, nets(kept, f.params * (channels - kept)), f)


# levels


def factors(height: int, width: int, levels: int | None = None) -> list[tuple[int, int]]:
    """By how much each level divides the sides: by 2 where they are even, so at least one level has to do without where none
    is.

    Left to itself (``levels`` None) there are three levels at most, and those after the first keep two pixels a side, so that
    their convolutions have neighbours to see. ValueError where ``levels`` are more than the sides allow.
    """
    found: list[tuple[int, int]] = []
    h, w, wanted = height, width, 0
    while h % 2 == 0 or w % 2 == 0:
        found.append((2 - h % 2, 2 - w % 2))
        h, w = h // found[-1][0], w // found[-1][1]
        wanted += len(found) <= _LEVELS and (len(found) == 1 or min(h, w) > 1)
    found = found or [(1, 1)]
    if levels is None:
        return found[: max(1, wanted)]
    if not 1 <= levels <= len(found):
        allowed = f"1 to {len(found)}" if len(found) > 1 else "1"
        raise ValueError(
            f"found {levels} levels: {height}×{width} pixels allow {allowed}, as each level halves a side that is even"
        )
    return found[:levels]


def _pictures(
    schema: Schema,
    *,
    before: Callable[[Shape, Nets], list[Transform]],
    after: Callable[[Shape, Nets], list[Transform]],
    levels: int | None,
    hidden: Sequence[int],
    dequantisation: str,
    base: str,
) -> Flow:
    """Levels with the layers ``before`` (nearer the data) and ``after`` squeezing."""
    _check(dequantisation)
    kind = schema.example
    assert isinstance(kind, Image)
    conditioner = Conditioner(schema.conditions)

    def nets(inputs: int, outputs: int) -> nn.Module:
        return ConvNet(inputs, outputs, hidden, context=conditioner.width)

    steps = factors(kind.height, kind.width, levels)
    shape: Shape = (kind.channels, kind.height, kind.width)
    parts, shapes = [], []
    for i, (f, g) in enumerate(steps):
        fine, shape = shape, (shape[0] * f * g, shape[1] // f, shape[2] // g)
        # the half that leaves is judged given the half that goes on: last for the data, so first in the order of push
        prior = [_halves(shape[0], 0, nets)] if i + 1 < len(steps) else []
        parts.append(Compose([*prior, *after(shape, nets), Squeeze((f, g)), *before(fine, nets)]))
        shapes.append(shape)
        shape = (shape[0] // 2, *shape[1:]) if prior else shape
    within = _noise(kind, steps[0]) if dequantisation == "variational" and kind.size > 1 else None
    preprocess = Compose([LevelBands(kind.shape, kind.levels, width=_WIDTH, bell=True, noise=within)])
    distribution, between = noise(base, kind.size)
    flow = Compose([*between, MultiScale(parts, shapes)])
    return Flow(schema, distribution, flow, conditioner, preprocess=preprocess)


def _check(dequantisation: str) -> None:
    if dequantisation not in DEQUANTISATIONS:
        raise ValueError(f"dequantisation is one of {', '.join(DEQUANTISATIONS)}, found {dequantisation!r}")


# noise


class _See(nn.Module):
    """Codes (B, C, H, W) to features (B, ``features``, H/f, W/g) of blocks of pixels."""

    def __init__(self, kind: Image, factor: tuple[int, int], features: int) -> None:
        super().__init__()
        self.pixels, self.squeeze = Pixels(kind.levels), Squeeze(factor)
        self.net = ConvNet(kind.channels * factor[0] * factor[1], features, (features,), zero_last=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(self.squeeze.pull(self.pixels(x))[0]))


def _noise(kind: Image, factor: tuple[int, int], features: int = 32, count: int = 4) -> VariationalNoise:
    """Couplings of the channels of a squeezed picture of noise, each of which sees the picture."""
    f, g = factor
    shape = (kind.channels * f * g, kind.height // f, kind.width // g)

    def nets(inputs: int, outputs: int) -> nn.Module:
        return ConvNet(inputs, outputs, (features, features), spatial=features)

    flow = Compose([*channel_couplings(shape, count, nets, normalise=False), Squeeze(factor)])
    return VariationalNoise(flow, _See(kind, factor, features), shape)
