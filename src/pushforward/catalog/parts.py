"""The parts recipes share: what continuous families see of each kind of data, and what networks see of it."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.distribution import BASES, Distribution
from pushforward.core.schema import Image, Kind, Points, Signal, Table, Tokens, Vector
from pushforward.core.transform import Compose, Transform
from pushforward.models.elements import Elements, Pixels, elements
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.reshape import Flatten
from pushforward.transforms.support import Support
from pushforward.transforms.tabular import LevelMarginals, NumberMarginals, TableMap, table_codes, table_marginals
from pushforward.transforms.univariate import SharedStandardise, Standardise


@singledispatch
def marginals(kind: Kind, fill: bool = True) -> Compose:
    """Data ↔ coordinates that are standard normal one by one, in the shape of the data (a table's are a vector).

    Those of signals and points are standardised only: all samples of a channel alike, and all points.
    """
    raise TypeError(f"{type(kind).__name__} has no continuous marginals")


@marginals.register
def _(kind: Vector, fill: bool = True) -> Compose:
    return Compose([NumberMarginals([0.0] * kind.length, bounds=kind.bounds)])


@marginals.register
def _(kind: Image, fill: bool = True) -> Compose:
    return Compose([LevelMarginals(kind.shape, kind.levels)])


@marginals.register
def _(kind: Tokens, fill: bool = True) -> Compose:
    return Compose([LevelMarginals(kind.shape, len(kind.vocabulary))])


@marginals.register
def _(kind: Table, fill: bool = True) -> Compose:
    return Compose([table_marginals(kind.learned, fill=fill)])


@marginals.register
def _(kind: Signal, fill: bool = True) -> Compose:
    # a convolution treats all samples of a channel alike
    return Compose([SharedStandardise(kind.shape, mean_over=(1,), std_over=(1,))])


@marginals.register
def _(kind: Points, fill: bool = True) -> Compose:
    # one scale for all coordinates keeps the geometry, one mean for all points their symmetry
    return Compose([SharedStandardise(kind.shape, mean_over=(0,), std_over=(0, 1))])


def coordinates(kind: Kind, transform: Compose) -> int:
    """How many coordinates ``marginals`` gives."""
    (part,) = transform
    return part.size if isinstance(part, TableMap) else kind.size


def vector_marginals(kind: Kind, fill: bool = True) -> tuple[Compose, int]:
    """``marginals`` as flat vectors, and their size."""
    inner = marginals(kind, fill)
    size = coordinates(kind, inner)
    if len(kind.shape) > 1:
        # push order: the flat latent is given the shape of the data, then their marginals
        return Compose([Flatten(kind.shape), *inner]), size
    return inner, size


def noise(base: str, size: int) -> tuple[Distribution, list[Transform]]:
    """The base of that name over vectors (B, size), and what stands between it and the layers of a flow.

    The uniform one is unfolded onto the line, for layers that know no bounds: one that left the cube would have density 0.
    """
    if base not in BASES:
        raise ValueError(f"base is one of {', '.join(sorted(BASES))}, found {base!r}")
    between: list[Transform] = [Support([-1.0] * size, [1.0] * size).inverse()] if base == "uniform" else []
    return BASES[base]((size,)), between


def plain(kind: Kind) -> tuple[Compose, int]:
    """Data ↔ standardised vectors in the data's own geometry: an affine map after dequantisation, nothing more."""
    if isinstance(kind, Image):
        return Compose([Standardise((kind.size,)), Flatten(kind.shape), Dequantise(1.0, (0.0, kind.levels - 1.0))]), kind.size
    if isinstance(kind, Table):
        codes = table_codes(kind.learned)
        return Compose([Standardise((codes.size,)), codes]), codes.size
    shaped = [Flatten(kind.shape)] if len(kind.shape) > 1 else []
    return Compose([Standardise((kind.size,)), *shaped]), kind.size


class Eye(nn.Module):
    """What a network sees of the codes: pixels in [−1, 1] as an image, everything else as features (B, F)."""

    def __init__(self, kind: Kind, flat: bool = False) -> None:
        super().__init__()
        self.image = isinstance(kind, Image) and not flat
        self.see: nn.Module = Pixels(kind.levels) if isinstance(kind, Image) else elements(kind)
        self.features = kind.size if isinstance(kind, Image) else len(self.see.feature_element)  # type: ignore[arg-type]

    def prepare(self, x: Tensor) -> None:
        """Set the statistics of the features."""
        if isinstance(self.see, Elements):
            self.see.prepare(x)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.see(x)
        return seen if self.image else seen.flatten(1)


class PixelParams(nn.Module):
    """A decoder of images with channels · p feature maps as one of the parameters (B, P) of their elements."""

    def __init__(self, decoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.decoder, self.channels = decoder, channels

    def forward(self, z: Tensor) -> Tensor:
        maps = self.decoder(z)  # (B, C·p, H, W)
        b, _, h, w = maps.shape
        return maps.view(b, self.channels, -1, h, w).permute(0, 1, 3, 4, 2).reshape(b, -1)


class Shaped(nn.Module):
    """A network of flat vectors for examples of another shape, in time: net(x (B, …), t, context)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        return self.net(x.flatten(1), t, context).view_as(x)
