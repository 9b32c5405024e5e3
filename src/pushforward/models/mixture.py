"""Mixtures p(y) = Σ_k π_k p_k(y), fitted by EM.

    E step    r_k = π_k p_k(y_o) / Σ_j π_j p_j(y_o),     o the coordinates that are known
    M step    π_k = Σ r_k / n,    and the p_k from their own statistics (models/densities, models/gaussians)

A component of weight 0 is not in use and stays so. The variational M step of the weights is in models/bayes; then the E step
takes E[log π_k] and E[log p_k(y)] in the place of the logs, and nothing else is different.

    p(y_m | y_o) = Σ_k r_k p_k(y_m | y_o)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Completes, Encodes, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.densities import EMPTY, WIDE, Densities, DiagonalGaussians
from pushforward.models.em import EM, Seen
from pushforward.models.gaussians import FullGaussians, HighestLikelihood


class Weights(nn.Module, ABC):
    """The weights π of K components."""

    chances: Tensor
    """π, or where q(π) is a distribution its mean, (K,)."""
    bound: bool = False

    def __init__(self, components: int) -> None:
        super().__init__()
        self.register_buffer("chances", torch.full((components,), 1 / components, dtype=WIDE))

    @abstractmethod
    def estimate(self, mass: Tensor) -> None:
        """The M step, from Σ r_k (K,)."""

    @abstractmethod
    def used(self) -> Tensor:
        """Which components are in use, bool (K,)."""

    @abstractmethod
    def logs(self) -> Tensor:
        """log π_k or E[log π_k], (K,)."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """log p(π) up to a constant, or −KL(q(π) ‖ p(π))."""


class Proportions(Weights):
    """Weights of the highest likelihood."""

    def estimate(self, mass: Tensor) -> None:
        self.chances.copy_(torch.where(mass > EMPTY, mass, 0.0) / mass.sum())

    def used(self) -> Tensor:
        return self.chances > 0

    def logs(self) -> Tensor:
        return self.chances.log()

    def log_prior(self) -> Tensor:
        return self.chances.new_zeros(())


class Mixture(EM, Samples, Scores, Encodes, Completes):
    """``densities`` of coordinates y = ``transform``.pull(x), in which gaps stay NaN, and their weights."""

    def __init__(
        self,
        schema: Schema,
        transform: Compose,
        densities: Densities,
        *,
        weighing: Weights | None = None,
        restarts: int = 1,
        criterion: str | None = None,
    ) -> None:
        super().__init__(schema, densities.components, restarts, criterion)
        self.transform, self.densities = transform, densities
        self.weighing = weighing or Proportions(densities.components)
        self.bound = self.weighing.bound
        self.density_kind = "lower_bound" if transform.stochastic else "exact"

    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x)

    @property
    def weights(self) -> Tensor:
        """π, (K,)."""
        return self.weighing.chances

    @property
    def used(self) -> int:
        return int(self.weighing.used().sum())

    # EM

    def digest(self, batch: Batch, weight: Tensor | None = None) -> Seen:
        y, score = self._pull(batch.x, batch.draws)
        return Seen(self.densities.see(y), score.to(y.dtype), None if weight is None else weight.to(y.dtype))

    def e_step(self, seen: Seen) -> dict[str, Tensor]:
        """Responsibilities, and the sums under them."""
        if isinstance(self.densities, FullGaussians) and self.densities.fusible(seen.rows):
            likelihood, sums = self.densities.expect(seen.rows, self._offset(), seen.weight)
            return {"mass": sums["count"], **sums, **seen.total(likelihood)}
        log_joint = self.densities.log_prob(seen.rows) + self._offset()
        share = seen.weigh(log_joint.softmax(1))
        return {"mass": share.sum(0), **self.densities.sums(seen.rows, share), **seen.total(log_joint.logsumexp(1))}

    def m_step(self, sums: dict[str, Tensor]) -> None:
        """Weights and densities of the highest expected log-likelihood."""
        self.densities.estimate(sums)
        self.weighing.estimate(sums["mass"])

    def log_prior(self) -> Tensor:
        return self.densities.log_prior() + self.weighing.log_prior()

    def begin(self, seen: Seen, components: int, draws: Draws) -> None:
        """k-means++ (with a few steps of k-means where there are means), each row in the component it is nearest to."""
        share = seen.weigh(self.densities.shares(seen.rows, components, draws, seen.weight))
        self.m_step({"mass": share.sum(0), **self.densities.sums(seen.rows, share)})

    def free(self) -> float:
        return self.used - 1 + self.densities.free(self.used)

    def _offset(self) -> Tensor:
        """What the E step adds to the log density of each component, (K,)."""
        return self.weighing.logs() + self.densities.shift()

    # verbs

    def _pull(self, x: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        y, score = self.transform.pull(x, None, draws)
        return y.to(self.weights.dtype), score

    def _log_joint(self, rows: Any) -> Tensor:
        """log π_k p_k(y_o), (B, K); gaps are integrated out."""
        return self.densities.log_prob(rows) + self.weights.log()

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        y, score = self._pull(x, draws)
        rows = self.densities.see(y)
        if isinstance(self.densities, FullGaussians) and self.densities.fusible(rows):
            return self.densities.log_mixture(rows, self.weights.log()) + score
        return self._log_joint(rows).logsumexp(1) + score

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x, batch.condition, batch.draws)}

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x), (B, K)."""
        return self._log_joint(self.densities.see(self._pull(x, None)[0])).softmax(1)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """p(k | x), (B, K). One full Gaussian has nobody to share with: whitened coordinates (B, D), gaps at their expected
        values."""
        if self.components > 1 or not isinstance(self.densities, FullGaussians):
            return self.responsibilities(x)
        rows = self.densities.see(self._pull(x, None)[0])
        y = rows.y.clone()
        for at, o, m in rows.groups:
            y[at[:, None], m] = self.densities.given(y[at], o, m)[1][:, 0]
        whiten, centres, _ = self.densities.whitening()
        return y @ whiten[0].T - centres[0]

    def sample(self, n: int, condition: Condition | None, draws: Draws, **options: Any) -> Tensor:
        k = draws.categorical(self.weights.log().expand(n, -1))
        blank = self.weights.new_zeros(n, self.densities.size)
        return self.transform.push(self._drawn(blank, torch.zeros_like(blank, dtype=torch.bool), k, draws))

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Draws from the closed-form conditional mixture p(y_m | y_o)."""
        y, known = self.known(x, observed, draws)
        uniform = draws.uniform(1, dtype=y.dtype)
        share = self._log_joint(self.densities.see(y, known)).softmax(1).cumsum(1)
        k = (uniform > share).sum(1).clamp(max=self.components - 1)
        return torch.where(observed, x, self.transform.push(self._drawn(y, known, k, draws)).to(x.dtype))

    def _drawn(self, y: Tensor, known: Tensor, k: Tensor, draws: Draws) -> Tensor:
        return self.densities.fill(self.densities.see(y, known), k, self.densities.noise(draws))

    def known(self, x: Tensor, observed: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Coordinates, and which of them are known where ``observed`` (B, …) marks the known codes."""
        y, _ = self._pull(torch.where(observed, x, torch.zeros_like(x)), draws)
        return y, self.transform.spread(observed) & ~y.isnan()


class OfGaussians(Mixture):
    """A mixture whose components are Gaussians. For what some coordinates say of others see models/conditional."""

    @property
    def means(self) -> Tensor:
        """μ, (K, D), in the coordinates y."""
        return self._gaussians.means

    @property
    def covariances(self) -> Tensor:
        """Σ, (K, D, D), in the coordinates y."""
        return self._gaussians.covariances

    @property
    def _gaussians(self) -> FullGaussians | DiagonalGaussians:
        assert isinstance(self.densities, (FullGaussians, DiagonalGaussians))
        return self.densities


class GaussianMixture(OfGaussians):
    """``components`` Gaussians on ``size`` coordinates.

    ``covariance`` is one of full, tied, diagonal, spherical; ``prior`` counts rows of the data's own covariance in each, and
    eigenvalues are at least ``floor``.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Compose,
        size: int,
        *,
        components: int = 8,
        covariance: str = "full",
        prior: float = 0.0,
        floor: float = 1e-6,
        restarts: int = 1,
        criterion: str | None = None,
    ) -> None:
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance is one of {', '.join(COVARIANCES)}, found {covariance!r}")
        densities = COVARIANCES[covariance](size, components, prior, floor)
        super().__init__(schema, transform, densities, restarts=restarts, criterion=criterion)
        self.size = size


COVARIANCES: dict[str, Callable[[int, int, float, float], Densities]] = {
    "full": lambda size, k, prior, floor: FullGaussians(size, k, HighestLikelihood(size, prior=prior, floor=floor)),
    "tied": lambda size, k, prior, floor: FullGaussians(size, k, HighestLikelihood(size, tied=True, prior=prior, floor=floor)),
    "diagonal": lambda size, k, prior, floor: DiagonalGaussians(size, k, prior=prior, floor=floor),
    "spherical": lambda size, k, prior, floor: DiagonalGaussians(size, k, spherical=True, prior=prior, floor=floor),
}
