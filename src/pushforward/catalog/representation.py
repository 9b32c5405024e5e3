"""Self-supervised representations as recipes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pushforward.catalog.parts import Eye
from pushforward.core.schema import Image, Schema
from pushforward.models.contrastive import SimCLR
from pushforward.models.views import FeatureViews, ImageViews
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ResNet


@dataclass(frozen=True)
class SimclrOptions:
    """Options of SimCLR.

    size: dimensions of the representation. projection: dimensions in which views are compared. temperature: of
    the cross-entropy. crop: smallest share of the picture in a view. mirror: whether a mirrored picture means
    the same (digits: no). width: channels of the network for images.
    """

    size: int = 128
    projection: int = 64
    temperature: float = 0.2
    crop: float = 0.4
    mirror: bool = False
    width: int = 16


def simclr(schema: Schema, config: SimclrOptions) -> SimCLR:
    """Crops and contrast for images, replaced features for vectors and tables."""
    kind, eye = schema.example, Eye(schema.example)
    if isinstance(kind, Image):
        views: nn.Module = ImageViews(config.crop, mirror=config.mirror)
        encoder: nn.Module = ResNet(kind.channels, config.size, width=config.width)
    else:
        views = FeatureViews(eye.features)
        encoder = MLP(eye.features, config.size, (256, 256))
    head = MLP(config.size, config.projection, (config.size,))
    return SimCLR(schema, eye, views, encoder, head, temperature=config.temperature)
