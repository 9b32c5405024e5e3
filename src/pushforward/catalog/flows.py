"""Normalizing flows as recipes over transforms: which layers, in which order, make which paper.

All of them see numbers, levels and pixels through their marginals (``parts.vector_marginals``), so that a stack of layers that
do nothing is the model of independent marginals. Layers are listed in the order of ``push``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pushforward.catalog.glow import realnvp_image
from pushforward.catalog.parts import noise, vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Schema
from pushforward.core.transform import Compose, Transform
from pushforward.models.flow import Flow
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.mlp import MLP, SteeredMLP
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.coupling import Coupling, halves
from pushforward.transforms.integral import Integral
from pushforward.transforms.linear import Permute
from pushforward.transforms.monotone import Additive, Affine, Monotone
from pushforward.transforms.polynomial import Bernstein, SumOfSquares
from pushforward.transforms.sigmoidal import Sigmoids
from pushforward.transforms.spline import Spline
from pushforward.transforms.univariate import Scale

ORDERS = ("alternating", "data")


def couplings(
    size: int, transforms: int, hidden: Sequence[int], monotone: Callable[[], Monotone], conditioner: Conditioner
) -> list[Transform]:
    """Layers in which, by turns, the even coordinates steer the odd ones and the odd ones the even ones.

    Coordinates are sorted into even and odd ones once, so that every layer cuts them in the middle, which copies nothing.
    """
    if size < 2 or not transforms:
        return []
    order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    layers: list[Transform] = []
    for i in range(transforms):
        stays, f = halves(size, i), monotone()
        a = int(stays.sum())
        net = MLP(a, f.params * (size - a), hidden, context=conditioner.width, activation="relu", zero_last=True)
        layers.append(Coupling(stays, net, f))
    return [Permute(order.argsort()), *layers, Permute(order)]


def autoregressions(
    size: int,
    transforms: int,
    hidden: Sequence[int],
    monotone: Callable[[], Monotone],
    conditioner: Conditioner,
    order: str = "alternating",
) -> list[Autoregressive]:
    """Masked layers, by turns from the last coordinate to the first and from the first to the last.

    The layer next to the data goes in their own order; with ``order`` "data" all do, and what comes first is drawn without
    regard to what comes later, so that completing the end of an example is exact.
    """
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}, found {order!r}")
    layers = []
    for i in range(transforms):
        f, degrees = monotone(), torch.arange(1, size + 1)
        if order == "alternating" and (transforms - 1 - i) % 2:
            degrees = degrees.flip(0)
        net = MaskedMLP(degrees, degrees.repeat(f.params), hidden, context=conditioner.width, zero_last=True)
        layers.append(Autoregressive(net, f))
    return layers


def _flow(schema: Schema, base: str, layers: Callable[[int, Conditioner], Sequence[Transform]]) -> Flow:
    """``layers``(size, conditioner) between the base and the marginals."""
    preprocess, size = vector_marginals(schema.example)
    conditioner = Conditioner(schema.conditions)
    distribution, between = noise(base, size)
    return Flow(schema, distribution, Compose([*between, *layers(size, conditioner), *preprocess]), conditioner)


@dataclass(frozen=True)
class NiceOptions:
    """Options of NICE.

    transforms: number of coupling layers. hidden: widths of each coupling's network. base: the noise, as of every flow: normal,
    logistic, student-t, full-normal, mixture or uniform.
    """

    transforms: int = 6
    hidden: tuple[int, ...] = (256, 256)
    base: str = "normal"


def nice(schema: Schema, config: NiceOptions) -> Flow:
    """Additive couplings and a diagonal scaling (Dinh et al. 2014, arXiv:1410.8516)."""
    return _flow(
        schema,
        config.base,
        lambda size, given: [Scale(size), *couplings(size, config.transforms, config.hidden, Additive, given)],
    )


@dataclass(frozen=True)
class MafOptions:
    """Options of masked autoregressive flows.

    transforms: number of layers. hidden: widths of each masked network. order: alternating, or data for all layers in the
    data's own order. base: the noise.
    """

    transforms: int = 6
    hidden: tuple[int, ...] = (128, 128)
    order: str = "alternating"
    base: str = "normal"


def maf(schema: Schema, config: MafOptions) -> Flow:
    """Affine autoregressive layers (Papamakarios et al. 2017, arXiv:1705.07057): one pass scores, samples come element by
    element.
    """
    return _flow(
        schema,
        config.base,
        lambda size, given: autoregressions(size, config.transforms, config.hidden, Affine, given, config.order),
    )


@dataclass(frozen=True)
class IafOptions:
    """Options of inverse autoregressive flows.

    transforms: number of layers. hidden: widths of each masked network. base: the noise.
    """

    transforms: int = 4
    hidden: tuple[int, ...] = (128, 128)
    base: str = "normal"


def iaf(schema: Schema, config: IafOptions) -> Flow:
    """MAF read the other way (Kingma et al. 2016, arXiv:1606.04934): one pass samples, scores come element by element.

    Made for fitting to a density, where only samples are needed; learning from data is slow.
    """
    return _flow(
        schema,
        config.base,
        lambda size, given: [
            layer.inverse() for layer in autoregressions(size, config.transforms, config.hidden, Affine, given)
        ],
    )


@dataclass(frozen=True)
class NsfOptions:
    """Options of neural spline flows with couplings.

    transforms: number of layers. hidden: widths of each network. bins: of each spline. bound: splines act on [−bound, bound].
    base: the noise.
    """

    transforms: int = 6
    hidden: tuple[int, ...] = (128, 128)
    bins: int = 8
    bound: float = 5.0
    base: str = "normal"


def nsf(schema: Schema, config: NsfOptions) -> Flow:
    """Rational-quadratic spline couplings (Durkan et al. 2019, arXiv:1906.04032)."""
    spline = lambda: Spline(config.bins, config.bound)
    return _flow(schema, config.base, lambda size, given: couplings(size, config.transforms, config.hidden, spline, given))


@dataclass(frozen=True)
class NsfArOptions:
    """Options of autoregressive neural spline flows.

    transforms: number of layers. hidden: widths of each masked network. bins: of each spline. bound: splines act on
    [−bound, bound]. order: alternating, or data for all layers in the data's own order. base: the noise.
    """

    transforms: int = 4
    hidden: tuple[int, ...] = (128, 128)
    bins: int = 8
    bound: float = 5.0
    order: str = "alternating"
    base: str = "normal"


def nsf_ar(schema: Schema, config: NsfArOptions) -> Flow:
    """Rational-quadratic spline autoregressive layers (Durkan et al. 2019, arXiv:1906.04032)."""
    spline = lambda: Spline(config.bins, config.bound)
    return _flow(
        schema,
        config.base,
        lambda size, given: autoregressions(size, config.transforms, config.hidden, spline, given, config.order),
    )


@dataclass(frozen=True)
class RealNvpOptions:
    """Options of RealNVP.

    transforms: number of coupling layers, at each level for images. hidden: widths of each coupling's network (default 128
    128), or channels of its convolutions (64 64). levels, dequantisation: of images, as Glow's. base: the noise.
    """

    transforms: int = 6
    hidden: tuple[int, ...] | None = None
    levels: int | None = None
    dequantisation: str = "uniform"
    base: str = "normal"


def realnvp(schema: Schema, config: RealNvpOptions) -> Flow:
    """Affine couplings (Dinh et al. 2016, arXiv:1605.08803); of images with checkerboards, level by level."""
    if isinstance(schema.example, Image):
        return realnvp_image(
            schema,
            transforms=config.transforms,
            levels=config.levels,
            hidden=config.hidden or (64, 64),
            dequantisation=config.dequantisation,
            base=config.base,
        )
    hidden = config.hidden or (128, 128)
    return _flow(schema, config.base, lambda size, given: couplings(size, config.transforms, hidden, Affine, given))


@dataclass(frozen=True)
class NafOptions:
    """Options of neural autoregressive flows.

    transforms: number of layers. hidden: widths of each masked network. map: what is done to a number: sigmoidal (a mixture
    of sigmoids, the paper's own), umnn (the integral of a positive network), bernstein or sum-of-squares (polynomials). bins:
    how many sigmoids, or the degree of a polynomial, or the numbers that steer a network. order: alternating, or data for all
    layers in the data's own order. base: the noise.
    """

    transforms: int = 4
    hidden: tuple[int, ...] = (128, 128)
    map: str = "sigmoidal"
    bins: int = 8
    order: str = "alternating"
    base: str = "normal"


NEURAL_MAPS: dict[str, Callable[[int], Monotone]] = {
    "sigmoidal": Sigmoids,
    "umnn": lambda size: Integral(SteeredMLP(size, (32, 32)), size),
    "bernstein": Bernstein,
    "sum-of-squares": SumOfSquares,
}


def naf(schema: Schema, config: NafOptions) -> Flow:
    """Autoregressive layers of maps that are networks themselves (Huang et al. 2018, arXiv:1804.00779)."""
    if config.map not in NEURAL_MAPS:
        raise ValueError(f"map is one of {', '.join(NEURAL_MAPS)}, found {config.map!r}")
    one = lambda: NEURAL_MAPS[config.map](config.bins)
    return _flow(
        schema,
        config.base,
        lambda size, given: autoregressions(size, config.transforms, config.hidden, one, given, config.order),
    )
