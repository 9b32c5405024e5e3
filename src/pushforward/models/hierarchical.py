"""Hierarchical variational autoencoders: a code of several levels, z_1 next to the data, z_n on top.

    bottom-up:   h_1 = encoder(x),  h_{l+1} = up_l(h_l)
    top-down:    s = s_n, a learned state;  for l = n … 1:
                 p(z_l | above) = N(μ_l, σ_l²) of s,    q(z_l | above, x) = N(μ_l + σ_l Δμ_l, (σ_l Δσ_l)²) of s and h_l
                 s ← s + A_l z_l,  s ← s + mix_l(s)
    p(x | z) = p(x | s)

The posterior goes the same way as the prior and corrects it (Sønderby et al. 2016, arXiv:1602.02282), by what is relative to it
(Vahdat & Kautz 2020, arXiv:2007.03898): in units of the prior z_l is u_l = (z_l − μ_l)/σ_l, N(0, 1) under the prior and
N(Δμ_l, Δσ_l²) under the posterior, so that KL_l = ½ (Δμ² + Δσ² − 1) − log Δσ whatever the prior is, and the posterior starts as
the prior.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.bound import Inferred, Slope, Variational, normal_log_ratio, normal_rates
from pushforward.models.elements import Elements


class Level(nn.Module):
    """One level of ``latent`` L numbers below a state of ``state`` S: ``prior``(s) → (N, 2L), ``posterior``(s, h) → (N, 2L),
    ``mix``(s) → (N, S), ``up``(h) → (N, S) where there is a level above."""

    def __init__(
        self, latent: int, state: int, prior: nn.Module, posterior: nn.Module, mix: nn.Module, up: nn.Module | None
    ) -> None:
        super().__init__()
        self.latent, self.prior, self.posterior, self.mix, self.up = latent, prior, posterior, mix, up
        # straight into the state: what has to pass a network first is too faint at the start for the decoder to take notice
        self.into = nn.Linear(latent, state)

    def step(self, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The state below, and z of ``u`` (N, L), which is in units of the prior."""
        mean, log_std = self.prior(s).chunk(2, 1)
        z = mean + log_std.clamp(-7, 5).exp() * u
        s = s + self.into(z)
        return s + self.mix(s), z

    def correction(self, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Δμ and log Δσ, each (N, L)."""
        mean, log_std = self.posterior(torch.cat([s, h], 1)).chunk(2, 1)
        return mean, log_std.clamp(-7, 2)


class Descent(NamedTuple):
    """What comes of the way down for N examples: the ``state`` that the decoder sees; ``log_ratio`` log p(z) − log q(z | x)
    (N,); and of all levels, from the one next to the data to the top, ``rates``, ``correction`` Δμ and ``z``, each (N, ΣL)."""

    state: Tensor
    log_ratio: Tensor
    rates: Tensor
    correction: Tensor
    z: Tensor


class HVAE(Variational):
    """``encoder``(input, context) → h_1 (B, S); ``levels`` from the data to the top; ``decoder``(s) → (B, P)."""

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        look: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        conditioner: Conditioner,
        levels: list[Level],
        *,
        state: int,
        slope: Slope | None = None,
        gibbs: int = 20,
    ) -> None:
        latent = sum(level.latent for level in levels)
        super().__init__(schema, elements, look, encoder, decoder, conditioner, latent=latent, slope=slope, gibbs=gibbs)
        self.levels = nn.ModuleList(levels)
        self.top = nn.Parameter(0.1 * torch.randn(state))

    def _levels(self) -> list[Level]:
        return [cast(Level, level) for level in self.levels]

    def see(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """h_1 … h_n."""
        h = self.encoder(self.look(x), self.conditioner(condition, len(x))).to(self.dtype)
        found = [h]
        for level in self._levels():
            if level.up is not None:
                h = h + level.up(h)
                found.append(h)
        return tuple(found)

    def noise(self, draws: Draws) -> Tensor:
        return draws.normal(self.latent, dtype=self.dtype)

    def _down(self, seen: tuple[Tensor, ...], noise: Tensor) -> Descent:
        s = self.top.expand(len(noise), -1)
        levels, log_ratio, parts = self._levels(), noise.new_zeros(len(noise)), []
        pieces = noise.split([level.latent for level in levels], 1)
        for level, h, epsilon in zip(reversed(levels), reversed(seen), reversed(pieces), strict=True):
            mean, log_std = level.correction(s, h)
            u = mean + log_std.exp() * epsilon
            log_ratio = log_ratio + normal_log_ratio(epsilon, log_std, u)
            s, z = level.step(s, u)
            parts.append((normal_rates(mean, log_std), mean, z))
        return Descent(s, log_ratio, *(torch.cat(part[::-1], 1) for part in zip(*parts, strict=True)))

    def infer(self, seen: tuple[Tensor, ...], noise: Tensor) -> Inferred:
        found = self._down(seen, noise)
        return Inferred(found.state, found.log_ratio, found.rates)

    def _means(self, x: Tensor, condition: Condition | None) -> Descent:
        seen = self.see(x, condition)
        return self._down(seen, seen[0].new_zeros(len(x), self.latent))

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The means of all levels, each given the means above it, from the one next to the data to the top: (B, ΣL)."""
        return self._means(x, condition).z

    def signals(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self._means(x, condition).correction[..., None]

    def dream(self, draws: Draws, temperature: float = 1.0) -> Tensor:
        noise = temperature * self.noise(draws)
        s, levels = self.top.expand(len(noise), -1), self._levels()
        for level, u in zip(reversed(levels), reversed(noise.split([level.latent for level in levels], 1)), strict=True):
            s, _ = level.step(s, u)
        return s

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        found = self.infer(self.see(batch.x, condition), self.noise(batch.draws))
        vector = self.conditioner(condition, len(batch.x)).vector
        distortion = -self.log_likelihood(found.z, self.parts(batch.x), vector)
        paid, rate = self.rate(found.rates)
        sizes, names = [level.latent for level in self._levels()], range(1, len(self.levels) + 1)
        each = {f"rate_{l}": r.sum(1) for l, r in zip(names, found.rates.split(sizes, 1), strict=True)}
        return {"loss": distortion + paid, "distortion": distortion, "rate": rate, **each}
