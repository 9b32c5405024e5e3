"""Normalizing flows as recipes over transforms."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.catalog.parts import vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.distribution import BASES
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose, Transform
from pushforward.models.flow import Flow
from pushforward.nets.mlp import MLP
from pushforward.transforms.coupling import AdditiveCoupling, alternating
from pushforward.transforms.univariate import Scale


@dataclass(frozen=True)
class NiceOptions:
    """Options of NICE.

    transforms: number of coupling layers. hidden: widths of each coupling's network. base: normal or logistic.
    """

    transforms: int = 6
    hidden: tuple[int, ...] = (256, 256)
    base: str = "normal"


def nice(schema: Schema, config: NiceOptions) -> Flow:
    """Alternating additive couplings and a diagonal scaling (Dinh et al. 2014, arXiv:1410.8516), after the marginals."""
    if config.base not in BASES:
        raise ValueError(f"base is one of {sorted(BASES)}, found {config.base!r}")
    preprocess, size = vector_marginals(schema.example)
    conditioner = Conditioner(schema.conditions)
    parts: list[Transform] = [Scale(size)]
    for i in range(config.transforms if size > 1 else 0):
        stays = alternating(size, i)
        a = int(stays.sum())
        net = MLP(a, size - a, config.hidden, context=conditioner.width, zero_last=True)
        parts.append(AdditiveCoupling(stays, net))
    return Flow(schema, BASES[config.base]((size,)), Compose([*parts, *preprocess]), conditioner)
