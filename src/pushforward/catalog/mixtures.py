"""Mixtures fitted by EM."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.catalog.parts import vector_marginals
from pushforward.core.schema import Schema
from pushforward.models.mixture import GaussianMixture


@dataclass(frozen=True)
class GmmOptions:
    """Options of the Gaussian mixture.

    components: how many. covariance: full, tied, diagonal or spherical. prior: weight, in rows, of the data's own covariance in
    each component's; None takes the number of coordinates, 0 is plain maximum likelihood. restarts: k-means++ starts.
    """

    components: int = 10
    covariance: str = "full"
    prior: float | None = None
    restarts: int = 1


def gmm(schema: Schema, config: GmmOptions) -> GaussianMixture:
    """A mixture on coordinates whose marginals are normal; gaps stay gaps."""
    if config.components < 1:
        raise ValueError(f"components must be at least 1, found {config.components}")
    transform, size = vector_marginals(schema.example, fill=False)
    prior = float(size) if config.prior is None else config.prior
    return GaussianMixture(
        schema,
        transform,
        size,
        components=config.components,
        covariance=config.covariance,
        prior=prior,
        restarts=config.restarts,
    )
