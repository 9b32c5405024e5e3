"""Predictors p(y | x) as recipes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pushforward.catalog.parts import Eye
from pushforward.core.errors import RecipeError
from pushforward.core.schema import Image, Schema
from pushforward.models.classifier import Classifier
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ResNet


@dataclass(frozen=True)
class ClassifierOptions:
    """Options of the classifier.

    hidden: widths of the net for tables, vectors and text. width: channels of the net for images. smoothing: label smoothing.
    """

    hidden: tuple[int, ...] = (256, 256)
    width: int = 16
    smoothing: float = 0.05


def classifier(schema: Schema, config: ClassifierOptions) -> Classifier:
    """A small residual network for images, a multilayer one for everything else."""
    kind, eye = schema.example, Eye(schema.example)
    if schema.target is None:
        raise RecipeError("a classifier needs a target: name one with target= (--target)")
    features = config.hidden[-1]
    if isinstance(kind, Image):
        body: nn.Module = ResNet(kind.channels, features, width=config.width)
    else:
        body = MLP(eye.features, features, config.hidden[:-1] or (features,))
    return Classifier(schema, eye, body, nn.Linear(features, schema.target.levels), smoothing=config.smoothing)
