"""Expectation–maximisation (Dempster et al. 1977): what every model fitted by it shares.

With latent variables h, data y_n of weights w_n and parameters θ with a prior p(θ), or none,

    L(θ) = Σ_n w_n log p(y_n | θ) + log p(θ)
    E step   additive statistics of the rows under p(h | y_n, θ)
    M step   θ′ = the maximum over θ of the expected log p(y, h | θ) + log p(θ), from those statistics alone

never lower L. That is asserted while fitting: a fall of more than √ε (S + |L|/n) a row, with ε the rounding of the numbers used
and S the size of a row, is a wrong step and raises ``TrainingDiverged``. For a variational model L is the bound on
log p(y_1 … y_N).

Which of several starts to go on from, and how many components there should be, is settled at the start by short runs on a
sample: the start of the highest L, and the number K of the lowest

    BIC = p log n − 2 Σ log p(y_n | θ)  (Schwarz 1978),     AIC = 2p − 2 Σ log p(y_n | θ)  (Akaike 1974),

p parameters free. K grows from 1, until three numbers in a row have been no better.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pushforward.core.errors import TrainingDiverged
from pushforward.core.model import Batch, FitsDirectly, Model
from pushforward.core.random import Draws
from pushforward.core.schema import Schema

CRITERIA: dict[str, Callable[[float, float, float], float]] = {
    "bic": lambda likelihood, free, rows: free * math.log(rows) - 2 * likelihood,
    "aic": lambda likelihood, free, rows: 2 * free - 2 * likelihood,
}
_SHORT = 100  # iterations of a run that only compares starts
_PATIENCE = 3  # numbers of components that are no better, before none greater is tried


@dataclass(frozen=True)
class Seen:
    """What EM needs of a batch and no iteration changes: ``rows`` as the model sees them, V of their transform (B,), weights
    (B,) or None."""

    rows: Any
    score: Tensor
    weight: Tensor | None = None

    def total(self, likelihood: Tensor) -> dict[str, Tensor]:
        """The sums that all models have, from log p of the rows as they are seen, (B,)."""
        each = likelihood + self.score
        if self.weight is None:
            return {"likelihood": each.sum(), "rows": each.new_tensor(float(len(each)))}
        return {"likelihood": (each * self.weight).sum(), "rows": self.weight.sum()}

    def weigh(self, share: Tensor) -> Tensor:
        """Responsibilities (B, K) times the weights."""
        return share if self.weight is None else share * self.weight[:, None]


class EM(Model, FitsDirectly):
    """A model whose parameters are buffers, fitted by E and M steps.

    ``components`` is how many there are at most; with ``criterion`` (bic or aic) the start settles how many are used.
    ``restarts`` starts are compared by short runs.
    """

    bound: bool = False
    """Whether L is a bound on the likelihood of all rows together, which is what ``update`` then tells."""

    def __init__(self, schema: Schema, components: int, restarts: int = 1, criterion: str | None = None) -> None:
        super().__init__(schema)
        for name, count in (("components", components), ("restarts", restarts)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, found {count}")
        if criterion is not None and criterion not in CRITERIA:
            raise ValueError(f"criterion is one of {', '.join(CRITERIA)}, found {criterion!r}")
        self.components, self.restarts, self.criterion = components, restarts, criterion
        self._before: tuple[float, float] | None = None

    # what a model has to say

    @abstractmethod
    def digest(self, batch: Batch, weight: Tensor | None = None) -> Seen:
        """What of a batch the E step needs. The same in every iteration: worth keeping."""

    @abstractmethod
    def e_step(self, seen: Seen) -> dict[str, Tensor]:
        """Additive statistics; ``likelihood`` and ``rows`` are among them."""

    @abstractmethod
    def m_step(self, sums: dict[str, Tensor]) -> None:
        """New parameters from the summed statistics."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """log p(θ) up to a constant; of a variational model −KL(q(θ) ‖ p(θ))."""

    @abstractmethod
    def begin(self, seen: Seen, components: int, draws: Draws) -> None:
        """Parameters to start from, with the first ``components`` in use."""

    @property
    @abstractmethod
    def used(self) -> int:
        """How many components are in use."""

    @abstractmethod
    def free(self) -> float:
        """How many free parameters the components in use have."""

    # EM

    @final
    def stats(self, batch: Batch) -> dict[str, Tensor]:
        return self.e_step(self.digest(batch))

    @final
    def update(self, stats: dict[str, Tensor]) -> float:
        """One M step. Returns the mean log-likelihood before it. Raises TrainingDiverged where L fell."""
        rows = float(stats["rows"])
        likelihood = float(stats["likelihood"]) / rows
        objective = likelihood + float(self.log_prior()) / rows
        if self._before is not None and self._before[1] == rows:
            allowed = torch.finfo(stats["likelihood"].dtype).eps ** 0.5 * (self.schema.example.size + abs(objective))
            if not objective >= self._before[0] - allowed:
                raise TrainingDiverged(
                    f"a step of EM took the objective from {self._before[0]:.10g} to {objective:.10g} a row, and no right step "
                    "lowers it: fit on rows that do not change, with a larger floor or prior; or this is a fault to report"
                )
        self.m_step(stats)
        self._before = objective, rows
        return objective if self.bound else likelihood

    @final
    def start(self, x: Tensor, draws: Draws, weight: Tensor | None = None) -> None:
        """Parameters from a sample of training codes (B, …): the best of ``restarts``, and of numbers of components."""
        self._start(self.digest(Batch(x, draws), weight), draws)

    def _start(self, seen: Seen, draws: Draws) -> None:
        self._forget()
        if self.criterion is None and self.restarts == 1:
            return self.begin(seen, self.components, draws)
        best, stale, kept = math.inf, 0, self.state_dict()
        for k in range(1, self.components + 1) if self.criterion else [self.components]:
            score, state = self._attempts(seen, k, draws.fork(k))
            stale = 0 if score < best else stale + 1
            if score < best:
                best, kept = score, state
            if stale == _PATIENCE:
                break
        self.load_state_dict(kept)
        return None

    def _attempts(self, seen: Seen, components: int, draws: Draws) -> tuple[float, dict[str, Tensor]]:
        """The best of ``restarts`` short runs: its criterion (without one −L) and its state."""
        highest, found = -math.inf, (math.inf, self.state_dict())
        for r in range(self.restarts):
            self.begin(seen, components, draws.fork(r))
            self.run(seen, _SHORT, 1e-5)
            sums = self.e_step(seen)
            objective = float(sums["likelihood"] + self.log_prior())
            if objective > highest:
                criterion = CRITERIA[self.criterion] if self.criterion else None
                told = criterion(float(sums["likelihood"]), self.free(), float(sums["rows"])) if criterion else -objective
                highest, found = objective, (told, {n: t.clone() for n, t in self.state_dict().items()})
        self._forget()
        return found

    def run(self, seen: Seen, iterations: int, tolerance: float) -> list[float]:
        """E and M steps until L gains less than ``tolerance`` (1 + |L|) a row; what ``update`` told, in order."""
        told: list[float] = []
        self._forget()
        for _ in range(iterations):
            told.append(self.update(self.e_step(seen)))
            if len(told) > 1 and abs(told[-1] - told[-2]) < tolerance * (1 + abs(told[-1])):
                break
        return told

    @torch.no_grad()
    def fit_em(
        self,
        x: Tensor,
        *,
        weight: Tensor | None = None,
        iterations: int = 200,
        tolerance: float = 1e-7,
        draws: Draws | None = None,
    ) -> list[float]:
        """Prepare, start and run on codes x (B, …) with ``weight`` (B,) ≥ 0, a row of weight 2 counting as two rows.

        Returns the mean log-likelihood (of variational models the bound) before each iteration. For data in memory, with no
        run, no validation and no checkpoint; ``pushforward.fit`` has these.
        """
        if weight is not None and (weight.shape != x.shape[:1] or not bool(weight.min() >= 0) or not bool(weight.sum() > 0)):
            raise ValueError(f"found weights of shape {tuple(weight.shape)}: expected {len(x)}, none negative and not all 0")
        draws = draws or Draws(0, 0, len(x), device=x.device)
        self.prepare(x)
        seen = self.digest(Batch(x, draws), weight)
        self._start(seen, draws)
        return self.run(seen, iterations, tolerance)

    def _forget(self) -> None:
        """Parameters come from elsewhere: there is no earlier L to compare with."""
        self._before = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def _apply(self, *args: Any, **kwargs: Any) -> EM:
        self._forget()
        return super()._apply(*args, **kwargs)


def plus_plus(y: Tensor, count: int, distance: Callable[[Tensor, Tensor], Tensor], weight: Tensor | None, u: Tensor) -> Tensor:
    """Indices of ``count`` rows of y (B, …), each chosen in proportion to weight times its ``distance`` from those before it
    (k-means++, Arthur & Vassilvitskii 2007); u (count,) are uniform numbers."""
    chance = weight if weight is not None else torch.ones(len(y), dtype=u.dtype, device=y.device)
    chosen: list[Tensor] = []
    near = torch.full_like(chance, math.inf)
    for i in range(count):
        by = (chance * near if chosen else chance).cumsum(0)
        at = torch.searchsorted(by, u[i] * by[-1], right=True).clamp(max=len(y) - 1)
        chosen.append(at)
        near = near.minimum(distance(y, y[at]))
    return torch.stack(chosen)
