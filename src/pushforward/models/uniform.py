"""Diffusion of symbols towards uniform ones: every symbol may change at any time, and be mended later.

The net predicts p(x | z, t) of each place from all noisy symbols z; the loss is the bound of ``paths.discrete.Uniform``
(Lou et al. 2023, arXiv:2310.16834; Schiff et al. 2024, arXiv:2412.10193) at one time,

    loss = 2u · bound(z, x, log p, t),   t = u²,  u stratified in [0, 1],

where u² instead of t keeps the variance finite: the bound's integrand grows like 1/t in the few places that have changed.
A place's own symbol is evidence, which Bayes' rule puts into the prediction, log p(x | z, t) = net + log q_t(z | x) + const,
so a net that adds nothing to the symbols' frequencies is the model of independent symbols.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.model import Batch, Completes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Tokens
from pushforward.models.elements import Levels
from pushforward.paths.discrete import Uniform


class UniformDiffusion(Model, Samples, Scores, Completes):
    """``net``(z (B, T), t (B,), context) → (B, T, V) for ``Tokens``. Sampling takes ``steps`` passes, scoring ``score_steps``.

    Both go along a chain of that many steps of equal length, p(z_s | z_t) = Σ_x p(x | z_t) q(z_s | z_t, x).
    """

    density_kind = "lower_bound"

    def __init__(
        self,
        schema: Schema,
        net: nn.Module,
        conditioner: Conditioner,
        *,
        steps: int = 64,
        score_steps: int = 64,
        particles: int = 16,
    ) -> None:
        super().__init__(schema)
        kind = schema.example
        if not isinstance(kind, Tokens):
            raise ValueError(f"the uniform path is for tokens, found {kind.name} data: use path masked")
        self.net, self.conditioner, self.path = net, conditioner, Uniform(len(kind.vocabulary))
        self.symbols = Levels(kind.length, len(kind.vocabulary))
        self.steps, self.score_steps, self.particles = steps, score_steps, particles

    def prepare(self, x: Tensor) -> None:
        self.symbols.prepare(x)

    def _log_p(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        """log p(x | z, t), (B, T, V)."""
        logits = self.net(z, t, context).to(self.dtype) + self.symbols.default
        return (logits + self.path.evidence(z, t)).log_softmax(-1)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        u = batch.draws.stratified(torch.float64).to(self.dtype)
        t = u.square()
        z = self.path.draw(batch.x, t, batch.draws)
        log_p = self._log_p(z, t, self.conditioner(batch.condition or None, len(z)))
        return {"loss": 2 * u * self.path.bound(z, batch.x, log_p, t).sum(1)}

    def _walk(self, x: Tensor, held: Tensor, condition: Condition | None, draws: Draws, steps: int) -> tuple[Tensor, Tensor]:
        """A chain from noise to data. Places that are ``held`` (B, T) go along a chain of the known x (B, T), the others
        along the model's. Returns the data, and Σ log p(z_s | z_t) − log q(z_s | z_t, x) over what is held, (B,)."""
        context, known = self.conditioner(condition, len(x)), F.one_hot(x, self.path.levels).double()
        z, weight = self.path.noise(draws, x.shape[1]), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for k in range(steps, 0, -1):
            s, t = (torch.full((len(x),), v / steps, dtype=torch.float64, device=x.device) for v in (k - 1, k))
            p = self._log_p(z, t.to(self.dtype), context).double().exp()
            model, true = (self.path.posterior(z, guess, s, t).clamp_min(1e-300).log() for guess in (p, known))
            z = draws.categorical(torch.where(held[..., None], true, model))
            gain = (model - true).gather(-1, z[..., None])[..., 0]
            weight = weight + torch.where(held, gain, 0.0).sum(1)
        return z, weight

    @torch.no_grad()
    def sample(self, n: int, condition: Condition | None, draws: Draws, *, steps: int | None = None, **options: Any) -> Tensor:
        """``n`` examples in exactly ``steps`` network passes."""
        nothing = torch.zeros(n, *self.schema.example.shape, dtype=torch.int64, device=self.device)
        return self._walk(nothing, nothing.bool(), condition, draws, steps or self.steps)[0]

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """log p(chain)/q(chain | x) for one noisy chain that ends in x.

        The mean over chains of its exponential is exactly the probability with which ``sample(steps=score_steps)`` draws x, so
        one call is a proper log importance weight, and its mean a lower bound: that of the loss in the limit of many steps.
        """
        draws = draws or Draws(0, 0, len(x), device=x.device)
        held = torch.ones_like(x, dtype=torch.bool)
        return self._walk(x, held, condition, draws, self.score_steps)[1].to(self.dtype)

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """``particles`` chains with the observed places held to noisy chains of theirs, of which one is kept with probability
        proportional to its weight: exact in the limit of many particles only (importance resampling)."""
        x = torch.where(observed, x, 0)
        best = score = None
        for particle in range(self.particles):
            stream = draws.fork(particle)
            drawn, weight = self._walk(x, observed, condition, stream, self.steps)
            race = weight - stream.uniform(dtype=torch.float64).clamp_(min=1e-300).log().neg().log()
            if best is None or score is None:
                best, score = drawn, race
            else:
                best, score = torch.where((race > score)[:, None], drawn, best), torch.maximum(race, score)
        assert best is not None
        return torch.where(observed, x, best)
