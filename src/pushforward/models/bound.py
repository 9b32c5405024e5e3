"""Models with latent variables z, learned by a bound on log p(x) = log ∫ p(x | z) p(z) dz with the help of q(z | x).

    log w = log p(x | z) + log p(z) − log q(z | x),   z ~ q(z | x),      E w = p(x)
    log p(x) ≥ E log (1/K) Σ_k w_k ≥ … ≥ E log w                         (Burda et al. 2015, arXiv:1509.00519)
    E log w = E log p(x | z) − KL(q(z | x) ‖ p(z)) = −(distortion + rate)

p(x | z) is an explicit likelihood of the user's codes (models/elements), so the bounds are in the user's units. What is here is
what all such models share: their verbs, the weights, and the schedules of training,

    loss = distortion + β Σ_j max(λ, KL_j),    β rising from 0,  λ falling to 0

with KL_j the mean over the batch of what dimension j of the code carries, of which the first λ nats are free (Kingma et al.
2016, arXiv:1606.04934). Bounds that are reported, and the loss of validation, know neither schedule nor free bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.gather import all_rows
from pushforward.core.model import Completes, Encodes, Model, Prepares, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.core.shapes import per_example
from pushforward.models.elements import Elements

_NUMBERS = 4_000_000  # parameters of p(x | z) that are computed at a time
_ACTIVE = 0.01


@dataclass(frozen=True)
class Slope:
    """How training weighs the rate: ``beta`` β, reached after the share ``beta_warmup`` of training; ``free_bits`` λ in nats
    for each dimension of the code, fallen to 0 after the share ``free_until``, or kept where that is None."""

    beta: float = 1.0
    beta_warmup: float = 0.0
    free_bits: float = 0.0
    free_until: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("beta", self.beta), ("free_bits", self.free_bits)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, found {value}")
        if not 0 <= self.beta_warmup <= 1:
            raise ValueError(f"beta_warmup is a share of training in [0, 1], found {self.beta_warmup}")
        if self.free_until is not None and not 0 < self.free_until <= 1:
            raise ValueError(f"free_until is a share of training in (0, 1], or None, found {self.free_until}")

    def weight(self, done: Tensor) -> Tensor:
        """β when the share ``done`` of training is done."""
        return self.beta * (done / self.beta_warmup).clamp(max=1.0) if self.beta_warmup else self.beta * torch.ones_like(done)

    def free(self, done: Tensor) -> Tensor:
        """λ then."""
        left = torch.ones_like(done) if self.free_until is None else (1 - done / self.free_until).clamp(min=0.0)
        return self.free_bits * left


@dataclass(frozen=True)
class Inferred:
    """What q says of N examples: ``z`` (N, …), drawn from it, as the decoder sees it; ``log_ratio`` log p(z) − log q(z | x)
    (N,); ``rates`` (N, G), whose sum is the rate, or a draw of it, one for each dimension of the code where it splits so."""

    z: Tensor
    log_ratio: Tensor
    rates: Tensor


class Variational(Model, Samples, Scores, Encodes, Completes, ABC):
    """``look`` turns codes into the encoder's input, ``encoder``(input, context) sees that; ``decoder``(z) → (B, P).

    ``latent`` is the number of dimensions of the code; ``gibbs`` the rounds of completion.
    """

    density_kind = "lower_bound"
    done: Tensor

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
        slope: Slope | None = None,
        gibbs: int = 20,
    ) -> None:
        super().__init__(schema)
        self.elements, self.look, self.encoder, self.decoder = elements, look, encoder, decoder
        self.conditioner, self.latent, self.slope, self.gibbs = conditioner, latent, slope or Slope(), gibbs
        self.register_buffer("done", torch.ones(()), persistent=False)  # a model that nobody trains is trained

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)
        if isinstance(self.look, Prepares):
            self.look.prepare(x)

    def before_round(self, done: float) -> None:
        self.done.fill_(done)

    # what a family says

    @abstractmethod
    def see(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Codes (B, …) → all that q(z | x) is made of, each (B, …)."""

    @abstractmethod
    def noise(self, draws: Draws) -> Tensor:
        """The numbers (B, …) that make z of what the encoder saw."""

    @abstractmethod
    def infer(self, seen: tuple[Tensor, ...], noise: Tensor) -> Inferred:
        """z ~ q(z | x) for N rows of what was seen, each with its noise (N, …)."""

    @abstractmethod
    def signals(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """What q says of each dimension of the code, in units of the prior, (B, L, d): one number, or one for each class."""

    @abstractmethod
    def dream(self, draws: Draws, temperature: float = 1.0) -> Tensor:
        """z ~ p(z), one for each row of ``draws``."""

    # p(x | z)

    def parts(self, x: Tensor) -> Tensor:
        """Codes (B, …) → elements (B, E); of levels in the parameters' type, which is exact and takes half the memory."""
        e = self.elements.take_apart(x)
        return e.to(self.dtype) if isinstance(self.schema.example, Image) else e

    def params(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Parameters (B, P) of p(x | z)."""
        return self._decode(z, self.conditioner(condition, len(z)).vector)

    def _decode(self, z: Tensor, vector: Tensor | None) -> Tensor:
        z = z.flatten(1)
        params: Tensor = self.decoder(z if vector is None else torch.cat([z, vector], 1))
        return params

    def log_likelihood(self, z: Tensor, e: Tensor, vector: Tensor | None) -> Tensor:
        """log p(x | z) (B·K,) of elements e (B, E), the K rows of ``z`` (B·K, …) of each example one after the other."""
        repeats = len(z) // len(e)
        if repeats > 1 and vector is not None:
            vector = vector.repeat_interleave(repeats, 0)
        return self.elements.log_likelihood(self._decode(z, vector), e)

    # the bound

    def weigh(self, e: Tensor, seen: tuple[Tensor, ...], noise: Tensor, vector: Tensor | None) -> Tensor:
        """log w (B, K) of K draws, ``noise`` (B, K, …), for each of B examples, in one pass."""
        rows, repeats = noise.shape[:2]
        many = seen if repeats == 1 else tuple(s.repeat_interleave(repeats, 0) for s in seen)
        found = self.infer(many, noise.flatten(0, 1))
        return (self.log_likelihood(found.z, e, vector) + found.log_ratio).view(rows, repeats)

    def rate(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss pays for the ``rates`` (B, G), and the rate itself, each (B,)."""
        rate = rates.sum(1)
        if not self.training:
            return self.slope.beta * rate, rate
        paid = rates
        if self.slope.free_bits:
            free = self.slope.free(self.done).to(rates.dtype) * (self.latent / rates.shape[1])
            paid = torch.where(all_rows(rates.detach()).mean(0) > free, rates, free)
        return self.slope.weight(self.done).to(rates.dtype) * paid.sum(1), rate

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        vector, e = self.conditioner(condition, len(x)).vector, self.parts(x)
        return self.weigh(e, self.see(x, condition), self.noise(draws)[:, None], vector)[:, 0]

    def log_weights(self, x: Tensor, samples: int, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """``log_prob`` with ``draws.fork(k)``, k < ``samples``, (B, samples): the encoder looks once, the decoder in blocks."""
        draws = draws or Draws(0, 0, len(x), device=x.device)
        vector, e, seen = self.conditioner(condition, len(x)).vector, self.parts(x), self.see(x, condition)
        block = max(1, _NUMBERS // max(1, len(x) * len(self.elements.param_element)))
        found = []
        for first in range(0, samples, block):
            streams = [draws.fork(k) for k in range(first, min(first + block, samples))]
            found.append(self.weigh(e, seen, torch.stack([self.noise(stream) for stream in streams], 1), vector))
        return torch.cat(found, 1)

    def log_marginal(self, x: Tensor, samples: int, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """log (1/K) Σ_k w_k with K = ``samples``: on average a lower bound of log p(x), and log p(x) as K grows, (B,)."""
        return self.log_weights(x, samples, condition, draws).logsumexp(1) - math.log(samples)

    # the other verbs

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        """``n`` examples; ``temperature`` scales the spread of z about its centre."""
        return self.elements.sample(self.params(self.dream(draws, temperature), condition), draws)

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """``gibbs`` rounds of z ~ q(z | x), missing part ~ p(x | z) (Rezende et al. 2014, arXiv:1401.4082, appendix F)."""
        start = self.sample(len(x), condition, draws).to(x.dtype)
        x = torch.where(observed, x, start)
        for _ in range(self.gibbs):
            z = self.infer(self.see(x, condition), self.noise(draws)).z
            guess = self.elements.sample_present(self.params(z, condition), draws, observed)
            x = torch.where(observed, x, guess.to(x.dtype))
        return x


def normal_log_ratio(noise: Tensor, log_std: Tensor, z: Tensor) -> Tensor:
    """log N(z; 0, 1) − log N(z; μ, σ²) at z = μ + σ ε, summed over dimensions: (N,)."""
    return per_example(0.5 * (noise.square() - z.square()) + log_std)


def normal_rates(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each dimension."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def active_units(signals: Tensor) -> Tensor:
    """Which dimensions of the code say different things of different examples: those whose signals (N, L, d) have a variance
    above 0.01 (Burda et al. 2015). Bool (L,)."""
    return signals.double().var(0).sum(-1) > _ACTIVE


def warn_if_collapsed(active: int, latent: int) -> str | None:
    """A sentence for the report where the code, or most of it, says nothing (posterior collapse); None where it speaks."""
    cure = "try a beta below 1, beta_warmup=0.5 or free_bits=0.25, a smaller latent, or a weaker decoder"
    if active == 0:
        return f"the posterior collapsed: none of {latent} latent dimensions is used, and samples ignore the code; {cure}"
    if 2 * active < latent:
        return f"{active} of {latent} latent dimensions are used, the others collapsed: take a smaller latent, or {cure}"
    return None
