"""Flows: the pushforward of a base distribution through a transform.

    log p(x) = log p_base(z) + V(x, z),   z = pull(x)

trained by maximum likelihood. With bijections the density is exact; stochastic maps (dequantisation) make it a lower bound.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pushforward.core.context import Condition, Conditioner
from pushforward.core.distribution import Distribution
from pushforward.core.model import Batch, Encodes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.transform import Transform


class Flow(Model, Samples, Scores, Encodes):
    """``base`` pushed through ``transform``, given the schema's conditions through ``conditioner``.

    ``tight`` declares that the stochastic parts of ``transform`` leave no gap, so that the density is exact after all.
    """

    def __init__(
        self, schema: Schema, base: Distribution, transform: Transform, conditioner: Conditioner, *, tight: bool = False
    ) -> None:
        super().__init__(schema)
        self.base, self.transform, self.conditioner = base, transform, conditioner
        self.density_kind = "lower_bound" if transform.stochastic and not tight else "exact"

    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x, self.conditioner(None, 1))

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x, batch.condition, batch.draws)}

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        z, score = self.transform.pull(x, self.conditioner(condition, len(x)), draws)
        return self.base.log_prob(z) + score

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        z = self.base.sample(draws, dtype=self.dtype)
        return self.transform.push(temperature * z, self.conditioner(condition, n))

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.transform.pull(x, self.conditioner(condition, len(x)))[0].flatten(1)
