"""Variational autoencoders as recipes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pushforward.catalog.parts import Eye, PixelParams
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Schema
from pushforward.models.elements import elements
from pushforward.models.vae import VAE
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ConvDecoder, ResNet


@dataclass(frozen=True)
class VaeOptions:
    """Options of the VAE.

    latent: dimensions of the code; None takes 16, or 32 for images above 16 pixels. beta: weight of the KL term in the loss.
    hidden: widths of the multilayer nets. width: channels of the convolutional ones.
    """

    latent: int | None = None
    beta: float = 1.0
    hidden: tuple[int, ...] = (256, 256)
    width: int = 32


def vae(schema: Schema, config: VaeOptions) -> VAE:
    """Gaussian code; levels by categoricals, numbers and 8-bit pixels by mixtures of logistics."""
    kind, conditioner = schema.example, Conditioner(schema.conditions)
    large = isinstance(kind, Image) and max(kind.height, kind.width) > 16
    latent = config.latent or (32 if large else 16)
    inputs = latent + conditioner.width
    eye = Eye(kind, flat=not large)
    if large and isinstance(kind, Image):
        parts = elements(kind, components=3)
        per_pixel = len(parts.param_element) // kind.size
        encoder: nn.Module = ResNet(kind.channels, 2 * latent, width=config.width, context=conditioner.width)
        maps = ConvDecoder(inputs, kind.channels * per_pixel, kind.height, kind.width, features=config.width)
        decoder: nn.Module = PixelParams(maps, kind.channels)
    else:
        parts = elements(kind, components=3)
        encoder = MLP(eye.features, 2 * latent, config.hidden, context=conditioner.width)
        decoder = MLP(inputs, len(parts.param_element), config.hidden[::-1], zero_last=True)
    return VAE(schema, parts, eye, encoder, decoder, conditioner, latent=latent, beta=config.beta)
