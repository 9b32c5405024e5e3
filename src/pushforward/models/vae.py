"""Variational autoencoders (Kingma & Welling 2013, arXiv:1312.6114).

    z ~ N(0, 1),  x ~ p(x | z);   q(z | x) = N(μ(x), σ²(x))
    log p(x) ≥ E_q log p(x | z) − β KL(q(z | x) ‖ N(0, 1))           the loss, KL in closed form
    log p(x) = log E_q w,  w = p(x | z) p(z) / q(z | x)   K draws: the tighter bound of Burda et al. 2015, arXiv:1509.00519

p(x | z) is an explicit likelihood of the user's codes (models/elements), so the bound is in the user's units.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.model import Batch, Completes, Encodes, Model, Prepares, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import per_example
from pushforward.models.elements import Elements


class VAE(Model, Samples, Scores, Encodes, Completes):
    """``look`` turns codes into the encoder's input; ``encoder``(input, context) → (B, 2L); ``decoder``(z, context) → (B, P).

    ``beta`` weighs the KL term of the loss (Higgins et al. 2017); the reported bounds always use β = 1.
    """

    density_kind = "lower_bound"

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        look: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        conditioner: Conditioner,
        *,
        latent: int,
        beta: float = 1.0,
        gibbs: int = 20,
    ) -> None:
        super().__init__(schema)
        self.elements, self.look, self.encoder, self.decoder = elements, look, encoder, decoder
        self.conditioner, self.latent, self.beta, self.gibbs = conditioner, latent, beta, gibbs

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)
        if isinstance(self.look, Prepares):
            self.look.prepare(x)

    def posterior(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """μ and log σ of q(z | x), each (B, L)."""
        mean, log_std = self.encoder(self.look(x), self.conditioner(condition, len(x))).to(self.dtype).chunk(2, 1)
        return mean, log_std.clamp(-7, 5)

    def params(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Parameters (B, P) of p(x | z)."""
        vector = self.conditioner(condition, len(z)).vector
        return self.decoder(z if vector is None else torch.cat([z, vector], 1)).to(self.dtype)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        mean, log_std = self.posterior(batch.x, condition)
        z = mean + log_std.exp() * batch.draws.normal(self.latent, dtype=mean.dtype)
        distortion = -self.elements.log_prob(self.params(z, condition), batch.x)
        rate = per_example(0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std)
        return {"loss": distortion + self.beta * rate, "distortion": distortion, "rate": rate}

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        mean, log_std = self.posterior(x, condition)
        noise = draws.normal(self.latent, dtype=mean.dtype)
        z = mean + log_std.exp() * noise
        log_prior_over_posterior = per_example(0.5 * (noise.square() - z.square()) + log_std)
        return self.elements.log_prob(self.params(z, condition), x) + log_prior_over_posterior

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        z = temperature * draws.normal(self.latent, dtype=self.dtype)
        return self.elements.sample(self.params(z, condition), draws)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The posterior mean, (B, L)."""
        return self.posterior(x, condition)[0]

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """``gibbs`` rounds of z ~ q(z | x), missing part ~ p(x | z) (Rezende et al. 2014, arXiv:1401.4082, appendix F)."""
        start = self.sample(len(x), condition, draws).to(x.dtype)
        x = torch.where(observed, x, start)
        for _ in range(self.gibbs):
            mean, log_std = self.posterior(x, condition)
            z = mean + log_std.exp() * draws.normal(self.latent, dtype=mean.dtype)
            guess = self.elements.sample_present(self.params(z, condition), draws, observed)
            x = torch.where(observed, x, guess.to(x.dtype))
        return x


def warn_if_collapsed(rate: float, latent: int) -> str | None:
    """A sentence for the report where the code carries almost nothing (posterior collapse)."""
    if math.isfinite(rate) and rate < 0.01 * latent:
        return f"the posterior collapsed: {rate:.3f} nats in {latent} latent dimensions; lower beta or make the decoder weaker"
    return None
