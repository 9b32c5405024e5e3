"""MADE: the masked autoencoder for distribution estimation (Germain et al. 2015, arXiv:1502.03509).

    log p(x) = Σ_i log p(e_i | e_1 … e_{i−1})

One pass of a masked network gives the parameters of all conditionals; sampling runs element by element on running first-layer
sums, so that each input is multiplied once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pushforward.core.context import Condition, Conditioner
from pushforward.core.model import Batch, Completes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.elements import Elements
from pushforward.nets.masked import MaskedMLP


class MADE(Model, Samples, Scores, Completes):
    """``net`` maps features (B, F) to parameters (B, P); those of element i see features of elements before i only."""

    density_kind = "exact"

    def __init__(
        self, schema: Schema, elements: Elements, net: MaskedMLP, conditioner: Conditioner, *, particles: int = 16
    ) -> None:
        super().__init__(schema)
        self.elements, self.net, self.conditioner, self.particles = elements, net, conditioner, particles

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        e = self.elements.take_apart(x)
        params = self.net(self.elements.look(e), self.conditioner(condition, len(x)))
        return self.elements.log_prob_elements(params, e).sum(1)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x, batch.condition or None)}

    def _ancestral(
        self, n: int, condition: Condition | None, draws: Draws, e: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Elements drawn in order with those of ``e`` where ``known`` held; and Σ log p(known e_i | before), (n,)."""
        state = self.net.start(n, self.conditioner(condition, n))
        drawn = torch.zeros(n, self.elements.count, dtype=torch.float64, device=self.device)
        weight = torch.zeros(n, dtype=torch.float64, device=self.device)
        feature, param = 0, 0
        for i, block in enumerate(self.elements.singles()):
            outputs = self.net.outputs(state, slice(param, param + block.params))[:, None]
            value = block.sample(outputs, draws)
            if e is not None and known is not None:
                scored = block.log_prob(outputs, torch.where(known[:, i : i + 1], e[:, i : i + 1], value))[:, 0]
                weight += torch.where(known[:, i], scored.double(), 0.0)
                value = torch.where(known[:, i : i + 1], e[:, i : i + 1], value)
            gap = self.elements.indicator_of.get(i)
            if gap is not None:  # a number drawn as missing is not there to be seen
                value = torch.where(drawn[:, gap : gap + 1] > 0, math.nan, value)
            drawn[:, i] = value[:, 0]
            seen = block.look(value)[:, 0]
            state = self.net.advance(state, slice(feature, feature + block.features), seen)
            feature, param = feature + block.features, param + block.params
        return drawn, weight

    @torch.no_grad()
    def sample(self, n: int, condition: Condition | None, draws: Draws, **options: Any) -> Tensor:
        return self.elements.put_together(self._ancestral(n, condition, draws)[0])

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Exact where the observed elements come first; else ``particles`` ancestral draws with the observed elements held,
        one of which is kept with probability proportional to the likelihood of what was held (importance resampling)."""
        known = self.elements.spread(observed)
        e = self.elements.take_apart(torch.where(observed, x, torch.zeros_like(x)))
        best = score = None
        for particle in range(self.particles):
            stream = draws.fork(particle)
            drawn, weight = self._ancestral(len(x), condition, stream, e, known)
            gumbel = -(-stream.uniform(dtype=torch.float64).clamp_(min=1e-300).log()).log()
            race = weight + gumbel.to(weight.device)
            if best is None or score is None:
                best, score = drawn, race
            else:
                better = race > score
                best, score = torch.where(better[:, None], drawn, best), torch.maximum(race, score)
        assert best is not None
        return torch.where(observed, x, self.elements.put_together(best).to(x.dtype))
