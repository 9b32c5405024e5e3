"""The trivial models a leaderboard needs to mean anything."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.catalog.parts import plain, vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.distribution import Normal
from pushforward.core.schema import Schema
from pushforward.core.transform import Elementwise
from pushforward.models.flow import Flow
from pushforward.models.mixture import GaussianMixture


@dataclass(frozen=True)
class IndependentOptions:
    """No options."""


def independent(schema: Schema, config: IndependentOptions) -> Flow:
    """log p(x) = Σ log p(x_i): level frequencies, and numbers through their own quantiles.

    z is normal whatever noise a level or a grid was dequantised with, so for levels V + log φ(z) = log w_k leaves no gap.
    """
    transform, size = vector_marginals(schema.example)
    tight = all(part.tight for part in transform if isinstance(part, Elementwise))
    return Flow(schema, Normal((size,)), transform, Conditioner(()), tight=tight)


@dataclass(frozen=True)
class GaussianOptions:
    """No options."""


def gaussian(schema: Schema, config: GaussianOptions) -> GaussianMixture:
    """One Gaussian with full covariance; categories enter as their codes, gaps are integrated out.

    A prior worth one row keeps the covariance regular when there are fewer rows than coordinates.
    """
    transform, size = plain(schema.example)
    return GaussianMixture(schema, transform, size, components=1, covariance="full", prior=1.0)
