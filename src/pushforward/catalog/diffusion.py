"""Diffusion and flow matching: each paper is a setting of one model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pushforward.catalog.parts import coordinates, marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Image, Schema
from pushforward.core.transform import Compose
from pushforward.models.diffusion import Diffusion
from pushforward.nets.mlp import TimeMLP
from pushforward.nets.unet import UNet, default_multipliers
from pushforward.paths.schedule import Linear
from pushforward.solvers.ode import tableau_named
from pushforward.transforms.quantise import LevelBands


@dataclass(frozen=True)
class RectifiedFlowOptions:
    """Options of rectified flow.

    width: channels of the U-Net. hidden: widths of the net for vectors and tables. condition_drop: rate of condition
    dropout, which guidance needs. sampling_steps and score_steps: default solver steps. method: euler, midpoint, heun or rk4.
    """

    width: int = 32
    hidden: tuple[int, ...] = (256, 256, 256)
    condition_drop: float = 0.1
    sampling_steps: int = 30
    score_steps: int = 20
    method: str = "heun"


def rectified_flow(schema: Schema, config: RectifiedFlowOptions) -> Diffusion:
    """x_t = (1 − t) x_0 + t ε with a velocity target (Liu et al. 2022, arXiv:2209.03003)."""
    tableau_named(config.method)
    kind, conditioner = schema.example, Conditioner(schema.conditions)
    if isinstance(kind, Image):
        # convolutions treat all pixels alike, and so must what they see
        preprocess = Compose([LevelBands(kind.shape, kind.levels)])
        shape: tuple[int, ...] = kind.shape
        net: nn.Module = UNet(
            kind.channels,
            kind.channels,
            width=config.width,
            multipliers=default_multipliers(kind.height, kind.width),
            context=conditioner.width,
        )
    else:
        preprocess = marginals(kind)
        shape = (coordinates(kind, preprocess),)
        net = TimeMLP(shape[0], hidden=config.hidden, context=conditioner.width)
    return Diffusion(
        schema,
        preprocess,
        net,
        conditioner,
        Linear(),
        shape,
        drop=config.condition_drop,
        steps=config.sampling_steps,
        score_steps=config.score_steps,
        method=config.method,
    )
