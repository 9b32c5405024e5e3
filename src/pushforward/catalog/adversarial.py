"""Adversarial models as recipes: one model, a choice of losses, penalties and nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Kind, Schema, Table, Vector
from pushforward.core.transform import Compose
from pushforward.models.adversarial_losses import OBJECTIVES, Penalty, gradient_penalty, objective, r1, r2
from pushforward.models.gan import GAN, Head
from pushforward.models.soft import MixedHead
from pushforward.nets.adversarial import DCBody, DCGenerator, FlatBody, Projection, ResidualBody
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ConvDecoder
from pushforward.nets.spectral import spectral
from pushforward.transforms.onehot import table_corners
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.support import Support
from pushforward.transforms.univariate import Interval, SharedStandardise


@dataclass(frozen=True)
class PlayerOptions:
    """Options of both players.

    latent: dimensions of the noise; None takes twice those of the data, 4 to 64. hidden: widths of the nets for vectors and
    tables. net: dcgan or resnet, the convolutional nets for images, which take a tenth of the learning rate; a step of resnet
    costs ten of dcgan. width: their channels at full size. softness: temperature of the soft choices that stand for a table's
    categories while training; samples are always decided.
    """

    latent: int | None = None
    hidden: tuple[int, ...] = (128, 128, 128)
    net: str = "dcgan"
    width: int = 32
    softness: float = 0.3


@dataclass(frozen=True)
class GanOptions(PlayerOptions):
    """Options of the GAN.

    loss: relativistic, non-saturating, minimax, hinge, least-squares. r1, r2: weights of the penalties on the critic's slope at
    real and at generated examples. spectral: weights of the critic divided by their largest singular value. critic_steps:
    critic updates for each of the generator.
    """

    loss: str = "relativistic"
    r1: float = 0.01
    r2: float = 0.01
    spectral: bool = False
    critic_steps: int = 1


@dataclass(frozen=True)
class WganOptions(PlayerOptions):
    """Options of the WGAN with clipped weights.

    clip: the critic's weights stay in [−clip, clip]. critic_steps: critic updates for each of the generator.
    """

    clip: float = 0.03
    critic_steps: int = 5


@dataclass(frozen=True)
class WganGpOptions(PlayerOptions):
    """Options of the WGAN with gradient penalty.

    penalty: weight λ of the gradient penalty; None takes 10 for images as in the paper, else 1, with which critics are sharper.
    critic_steps: critic updates for each of the generator.
    """

    penalty: float | None = None
    critic_steps: int = 2


@dataclass(frozen=True)
class _Parts:
    """What two players need of a kind of data: data ↔ y of ``shape``, G's net of so many inputs, its head, D's features, and
    the share of the learning rate that these take.
    """

    preprocess: Compose
    shape: tuple[int, ...]
    generator: Callable[[int], nn.Module]
    body: nn.Module
    head: Head | None = None
    pace: float = 1.0


class _Squashed(nn.Module):
    """tanh of a network's output: pixels in [−1, 1]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).tanh()


def _still(x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Pixels stay where they are: a critic of slope 1 does not see their grid, and noise would bury those of two levels."""
    return torch.full_like(x, 0.5, dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64, device=x.device)


_GENERATORS: dict[str, Callable[..., nn.Module]] = {"dcgan": DCGenerator, "resnet": ConvDecoder}
_BODIES: dict[str, Callable[..., Any]] = {"dcgan": DCBody, "resnet": ResidualBody}


@singledispatch
def _parts(kind: Kind, config: PlayerOptions) -> _Parts:
    raise TypeError(f"{type(kind).__name__} has no adversarial nets")


@_parts.register
def _(kind: Image, config: PlayerOptions) -> _Parts:
    if config.net not in _BODIES:
        raise ValueError(f"net is one of {', '.join(_BODIES)}, found {config.net!r}")
    top = kind.levels - 1.0
    preprocess = Compose([Interval(0.0, top), Dequantise(1.0, (0.0, top), _still)])
    shape = kind.shape
    generator = lambda inputs: _Squashed(_GENERATORS[config.net](inputs, *shape, features=config.width))
    return _Parts(preprocess, shape, generator, _BODIES[config.net](*shape, features=config.width), pace=0.1)


def _flat(preprocess: Compose, size: int, config: PlayerOptions, head: Head | None = None) -> _Parts:
    if not config.hidden:
        raise ValueError("found no hidden layer: the critic needs one at least")
    body = FlatBody(MLP(size, config.hidden[-1], config.hidden[:-1], activation="relu"), config.hidden[-1])
    generator = lambda inputs: MLP(inputs, size, config.hidden, activation="relu")
    return _Parts(preprocess, (size,), generator, body, head)


@_parts.register
def _(kind: Vector, config: PlayerOptions) -> _Parts:
    ends = torch.tensor(kind.bounds, dtype=torch.float64).unbind(1) if kind.bounds else None
    # the data's own geometry, in which distances are measured: quantiles would close the gaps between modes
    standard = SharedStandardise((kind.length,), mean_over=(), std_over=())
    return _flat(Compose([standard, Support(*ends)] if ends else [standard]), kind.length, config)


@_parts.register
def _(kind: Table, config: PlayerOptions) -> _Parts:
    transform, levels = table_corners(kind.learned)
    numbers = [c for c in kind.learned if not c.discrete]
    gapped = [i for i, c in enumerate(numbers) if c.missing]
    size = len(numbers) + sum(levels)
    return _flat(Compose([transform]), size, config, MixedHead(len(numbers), levels, gapped, config.softness))


def _model(
    schema: Schema, config: Any, loss: str, penalties: Sequence[Penalty] = (), *, normalised: bool = False, **rest: Any
) -> GAN:
    parts = _parts(schema.example, config)
    conditioners = Conditioner(schema.conditions), Conditioner(schema.conditions)
    latent = config.latent or min(64, max(4, 2 * math.prod(parts.shape)))
    critic: nn.Module = Projection(parts.body, parts.body.features_out, conditioners[1].width)  # type: ignore[arg-type]
    return GAN(
        schema,
        parts.preprocess,
        parts.generator(latent + conditioners[0].width),
        spectral(critic) if normalised else critic,
        conditioners,
        parts.shape,
        latent=latent,
        objective=objective(loss),
        penalties=penalties,
        critic_steps=config.critic_steps,
        head=parts.head,
        pace=parts.pace,
        **rest,
    )


def gan(schema: Schema, config: GanOptions) -> GAN:
    """Any loss but Wasserstein's, with R1 and R2, with spectral normalisation, or with neither."""
    if config.loss == "wasserstein":
        known = ", ".join(name for name in OBJECTIVES if name != "wasserstein")
        raise ValueError(f"found loss 'wasserstein': expected one of {known}; for Wasserstein's take wgan-gp or wgan")
    return _model(schema, config, config.loss, (r1(config.r1), r2(config.r2)), normalised=config.spectral)


def wgan(schema: Schema, config: WganOptions) -> GAN:
    """Wasserstein losses, the critic's weights clipped."""
    if not config.clip > 0:
        raise ValueError(f"found clip {config.clip}: expected a positive number")
    return _model(schema, config, "wasserstein", clip=config.clip)


def wgan_gp(schema: Schema, config: WganGpOptions) -> GAN:
    """Wasserstein losses with a gradient penalty."""
    usual = 10.0 if isinstance(schema.example, Image) else 1.0
    return _model(schema, config, "wasserstein", (gradient_penalty(usual if config.penalty is None else config.penalty),))
