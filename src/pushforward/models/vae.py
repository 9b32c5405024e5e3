"""Variational autoencoders (Kingma & Welling 2013, arXiv:1312.6114).

    z ~ p(z),  x ~ p(x | z);   q(z | x): u = μ(x) + σ(x) ε,  z = u, or a flow's push(u; h(x))
    loss = E_q −log p(x | z) + β KL(q(z | x) ‖ p(z))                 the KL in closed form for a normal prior and posterior
    loss = −log (1/K) Σ_k w_k,  w_k = p(x | z_k) p(z_k) / q(z_k | x)   K > 1, with β on log p(z_k) − log q(z_k | x)
                                                                     (Burda et al. 2015, arXiv:1509.00519)

The gradient of the second to the encoder gets noisier as K grows, since q enters as the density of the draws too, which helps
nothing. With w̃ = w / Σ w, and q held fixed in log q(z | x), the doubly reparameterised gradient (Tucker et al. 2018,
arXiv:1810.04152)

    Σ_k w̃_k (1 − β (1 − w̃_k)) · ∂ log w_k/∂z_k · ∂z_k/∂φ

has the same mean; for K = 1 that is "sticking the landing" (Roeder et al. 2017, arXiv:1703.09194), without noise where
q(z | x) = p(z | x). See models/bound for what all such models share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.distribution import Normal
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import per_example
from pushforward.models.bound import Inferred, Slope, Variational, normal_log_ratio, normal_rates
from pushforward.models.elements import Elements
from pushforward.models.latent_prior import Density, EqualNormals, FlowPosterior, Prior, VampPrior


class VAE(Variational):
    """``encoder``(input, context) → (B, 2L), or (B, 2L + H) where a flow ``posterior`` is steered by H numbers.

    ``samples`` K and ``gradient`` (plain or dreg) are those of training. ``prior`` is N(0, 1) unless given.
    """

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
        prior: Prior | None = None,
        posterior: FlowPosterior | None = None,
        slope: Slope | None = None,
        samples: int = 1,
        gradient: str = "plain",
        gibbs: int = 20,
    ) -> None:
        super().__init__(schema, elements, look, encoder, decoder, conditioner, latent=latent, slope=slope, gibbs=gibbs)
        if samples < 1:
            raise ValueError(f"found samples={samples}: expected at least 1")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient is one of {', '.join(GRADIENTS)}, found {gradient!r}")
        if gradient == "dreg" and posterior is not None:
            raise ValueError("the dreg gradient needs log q(z | x) with its parameters held fixed: take posterior='normal'")
        if self.slope.free_bits and (samples > 1 or gradient == "dreg"):
            raise ValueError("free_bits are free of the rate, which only samples=1 with the plain gradient has apart")
        self.prior: Prior = prior if prior is not None else Normal((latent,))
        self.flow, self.samples, self.gradient = posterior, samples, gradient

    def prepare(self, x: Tensor) -> None:
        super().prepare(x)
        if isinstance(self.prior, VampPrior):
            self.prior.prepare(self.look(x))

    # q(z | x)

    def _head(self, seen: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        out = self.encoder(seen, self.conditioner(condition, len(seen))).to(self.dtype)
        mean, log_std, *steering = out.split([self.latent, self.latent, out.shape[1] - 2 * self.latent], 1)
        return mean, log_std.clamp(-7, 5), *steering

    def see(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        return self._head(self.look(x), condition)

    def posterior(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """μ and log σ of q(z | x), each (B, L); with a flow, of what it is fed."""
        mean, log_std, _ = self.see(x, condition)
        return mean, log_std

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The posterior mean, (B, L); with a flow, where it takes the mean that it is fed."""
        mean, _, steering = self.see(x, condition)
        return mean if self.flow is None else self.flow(mean, steering)[0]

    def signals(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.posterior(x, condition)[0][..., None]

    def noise(self, draws: Draws) -> Tensor:
        return draws.normal(self.latent, dtype=self.dtype)

    # p(z)

    def _density(self) -> Density:
        if isinstance(self.prior, VampPrior):
            mean, log_std, _ = self._head(self.prior.pseudo)
            return EqualNormals(mean, log_std)
        return self.prior

    def dream(self, draws: Draws, temperature: float = 1.0) -> Tensor:
        return self._density().sample(draws, self.dtype, temperature)

    # the bounds

    def infer(self, seen: tuple[Tensor, ...], noise: Tensor) -> Inferred:
        mean, log_std, steering = seen
        z = mean + log_std.exp() * noise
        if self.flow is None and isinstance(self.prior, Normal):
            return Inferred(z, normal_log_ratio(noise, log_std, z), normal_rates(mean, log_std))
        log_q = -_log_scale(noise, log_std)
        if self.flow is not None:
            z, score = self.flow(z, steering)
            log_q = log_q + score
        log_ratio = self._density().log_prob(z) - log_q
        return Inferred(z, log_ratio, -log_ratio[:, None])

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        seen, e = self.see(batch.x, condition), self.parts(batch.x)
        vector = self.conditioner(condition, len(batch.x)).vector
        if self.samples > 1 or self.gradient == "dreg":
            return self._weighted(seen, e, batch.draws.normal(self.samples, self.latent, dtype=self.dtype), vector)
        found = self.infer(seen, self.noise(batch.draws))
        distortion = -self.log_likelihood(found.z, e, vector)
        paid, rate = self.rate(found.rates)
        return {"loss": distortion + paid, "distortion": distortion, "rate": rate}

    def _weighted(self, seen: tuple[Tensor, ...], e: Tensor, noise: Tensor, vector: Tensor | None) -> dict[str, Tensor]:
        rows, repeats = noise.shape[:2]
        many = tuple(s.repeat_interleave(repeats, 0) for s in seen)
        beta = self.slope.weight(self.done).to(self.dtype) if self.training else self.done.new_tensor(self.slope.beta)
        z, log_ratio = GRADIENTS[self.gradient](self, many, noise.flatten(0, 1))
        log_likelihood = self.log_likelihood(z, e, vector)
        log_w = (log_likelihood + beta * log_ratio).view(rows, repeats)
        bound = log_w.logsumexp(1) - math.log(repeats)
        if self.gradient == "dreg" and z.requires_grad:
            share = log_w.detach().softmax(1)
            z.register_hook(lambda g: g * (1 - beta * (1 - share)).reshape(-1, 1))
        terms = {"distortion": -log_likelihood, "rate": -log_ratio}
        return {"loss": -bound, **{name: value.detach().view(rows, repeats).mean(1) for name, value in terms.items()}}

    def _plain(self, seen: tuple[Tensor, ...], noise: Tensor) -> tuple[Tensor, Tensor]:
        found = self.infer(seen, noise)
        return found.z, found.log_ratio

    def _held(self, seen: tuple[Tensor, ...], noise: Tensor) -> tuple[Tensor, Tensor]:
        """z, and log p(z) − log q(z | x) with the parameters of q in it held fixed."""
        mean, log_std, _ = seen
        z = mean + log_std.exp() * noise
        # the hook of the loss belongs to z alone: what depends on it starts here
        standard = (z - mean.detach()) * (-log_std.detach()).exp()
        return z, self._density().log_prob(z) + _log_scale(standard, log_std.detach())


def _log_scale(noise: Tensor, log_std: Tensor) -> Tensor:
    """−log N(μ + σ ε; μ, σ²), (N,)."""
    return per_example(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi))


GRADIENTS: dict[str, Callable[[Any, tuple[Tensor, ...], Tensor], tuple[Tensor, Tensor]]] = {
    "plain": VAE._plain,
    "dreg": VAE._held,
}
