"""Adversarial models as recipes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pushforward.catalog.parts import coordinates, marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Schema
from pushforward.core.transform import Compose
from pushforward.models.gan import WGAN
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ConvDecoder, ResNet
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.univariate import Interval


@dataclass(frozen=True)
class WganGpOptions:
    """Options of the WGAN with gradient penalty.

    latent: dimensions of the noise. penalty: weight λ of the gradient penalty. critic_steps: critic updates for each of the
    generator. hidden: widths of the nets for vectors and tables. width: channels of the convolutional ones.
    """

    latent: int = 64
    penalty: float = 10.0
    critic_steps: int = 5
    hidden: tuple[int, ...] = (256, 256)
    width: int = 16


class _Squashed(nn.Module):
    """tanh of a network's output: pixels in [−1, 1]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).tanh()


def wgan_gp(schema: Schema, config: WganGpOptions) -> WGAN:
    """Images in [−1, 1] by convolutions; vectors and tables as normal marginals by multilayer nets."""
    kind = schema.example
    conditioners = Conditioner(schema.conditions), Conditioner(schema.conditions)
    inputs, context = config.latent + conditioners[0].width, conditioners[1].width
    if isinstance(kind, Image):
        top = kind.levels - 1.0
        preprocess = Compose([Interval(0.0, top), Dequantise(1.0, (0.0, top))])
        shape: tuple[int, ...] = kind.shape
        generator: nn.Module = _Squashed(ConvDecoder(inputs, kind.channels, kind.height, kind.width, features=config.width))
        critic: nn.Module = ResNet(kind.channels, 1, width=config.width, context=context)
    else:
        preprocess = marginals(kind)
        shape = (coordinates(kind, preprocess),)
        generator = MLP(inputs, shape[0], config.hidden)
        critic = MLP(shape[0], 1, config.hidden, context=context)
    return WGAN(
        schema,
        preprocess,
        generator,
        critic,
        conditioners,
        shape,
        latent=config.latent,
        penalty=config.penalty,
        critic_steps=config.critic_steps,
    )
