"""Variational autoencoders whose code is N categorical variables of K classes each.

    c_i ~ Categorical(softmax a_i),  x ~ p(x | c);    q(c | x) = Π_i Categorical(softmax l_i(x))
    loss = E_q −log p(x | c) + β Σ_i KL(q(c_i | x) ‖ p(c_i)),      KL = Σ_k q_k (log q_k − log p_k)

The rate is exact. The gradient of the expectation to q is an estimate (algorithms/estimators), one of ``ESTIMATORS``: the
Gumbel-softmax, whose temperature τ falls exponentially from its first to its last value in the course of training (Jang et al.
2016, arXiv:1611.01144), its straight-through variant, or the score function with a running mean, or the other draws, as its
baseline. Whatever trains it, every bound that is reported, that of validation too, has discrete codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.algorithms.estimators import (
    Function,
    leave_one_out,
    log_mass,
    one_hot,
    relaxed,
    score_function,
    straight_through,
)
from pushforward.core.context import Condition, Conditioner
from pushforward.core.gather import all_rows
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.bound import Inferred, Slope, Variational
from pushforward.models.elements import Elements

_DECAY = 0.99  # of the running mean that is the baseline


class GumbelVAE(Variational):
    """``encoder``(input, context) → logits (B, N·K) of ``variables`` N of ``classes`` K; ``decoder``(one-hot) → (B, P).

    ``estimator`` is one of ``ESTIMATORS``, ``temperature`` τ at the beginning and at the end of training, ``samples`` the draws
    of leave-one-out.
    """

    spent: Tensor
    counted: Tensor

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        look: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        conditioner: Conditioner,
        *,
        variables: int,
        classes: int,
        estimator: str = "gumbel",
        temperature: tuple[float, float] = (1.0, 0.5),
        samples: int = 4,
        slope: Slope | None = None,
        gibbs: int = 20,
    ) -> None:
        super().__init__(schema, elements, look, encoder, decoder, conditioner, latent=variables, slope=slope, gibbs=gibbs)
        if variables < 1 or classes < 2:
            raise ValueError(f"found {variables} variables of {classes} classes: expected at least 1 of at least 2")
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator is one of {', '.join(ESTIMATORS)}, found {estimator!r}")
        if len(temperature) != 2 or not all(0 < t < math.inf for t in temperature):
            raise ValueError(f"temperature is two numbers above 0, at the beginning and at the end: found {temperature}")
        if samples < 2:
            raise ValueError(f"samples are the draws of leave-one-out, at least 2: found {samples}")
        self.variables, self.classes, self.samples = variables, classes, samples
        self.estimator, self.temperature = estimator, (float(temperature[0]), float(temperature[1]))
        self.prior = nn.Parameter(torch.zeros(variables, classes))
        # the distortion of past batches, each step weighing a hundredth less than the next, and the weight of all steps
        self.register_buffer("spent", torch.zeros(()))
        self.register_buffer("counted", torch.zeros(()))
        self._distortion: Tensor | None = None

    # q(c | x) and p(c)

    def see(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        logits = self.encoder(self.look(x), self.conditioner(condition, len(x))).to(self.dtype)
        return (logits.unflatten(1, (self.variables, self.classes)),)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The posterior probabilities, (B, N·K)."""
        return self.see(x, condition)[0].softmax(-1).flatten(1)

    def signals(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.see(x, condition)[0].softmax(-1)

    def noise(self, draws: Draws) -> Tensor:
        return draws.uniform(self.variables, self.classes, dtype=torch.float64)

    def dream(self, draws: Draws, temperature: float = 1.0) -> Tensor:
        """One-hot codes (n, N, K); a ``temperature`` below 1 prefers the likely ones, 0 takes the likeliest."""
        logits = (self.prior / max(temperature, 1e-6)).expand(len(draws), -1, -1)
        return one_hot(logits.double(), self.noise(draws)).to(self.dtype)

    def infer(self, seen: tuple[Tensor, ...], noise: Tensor) -> Inferred:
        (logits,) = seen
        z = one_hot(logits.double(), noise).to(logits.dtype)
        log_ratio = (log_mass(self.prior, z) - log_mass(logits, z)).sum(1)
        return Inferred(z, log_ratio, self._rates(logits))

    def _rates(self, logits: Tensor) -> Tensor:
        """KL(q ‖ p) of each variable, (B, N)."""
        log_q = logits.log_softmax(-1)
        return (log_q.exp() * (log_q - self.prior.log_softmax(-1))).sum(-1)

    # training

    def tau(self) -> Tensor:
        """The temperature now."""
        first, last = self.temperature
        return first * (last / first) ** self.done

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        (logits,), e = self.see(batch.x, condition), self.parts(batch.x)
        vector = self.conditioner(condition, len(batch.x)).vector

        def distortion_of(z: Tensor) -> Tensor:
            """One-hot or relaxed codes (…, B, N, K) → −log p(x | z) (…, B)."""
            many = z.flatten(0, -4).transpose(0, 1).flatten(0, 1) if z.dim() > 3 else z
            found = -self.log_likelihood(many, e, vector)
            return found if z.dim() == 3 else found.view(len(e), -1).T.reshape(z.shape[:-2])

        estimate = ESTIMATORS[self.estimator] if self.training else _discrete
        distortion = estimate(self, distortion_of, logits, batch.draws)
        if self.training:
            self._distortion = distortion.detach()
        paid, rate = self.rate(self._rates(logits))
        return {"loss": distortion + paid, "distortion": distortion, "rate": rate}

    @torch.no_grad()
    def after_step(self, turn: str) -> None:
        if self._distortion is not None:
            self.spent.mul_(_DECAY).add_(all_rows(self._distortion).mean())
            self.counted.mul_(_DECAY).add_(1.0)
            self._distortion = None

    def baseline(self) -> Tensor:
        """The running mean of the distortion; 0 before the first step."""
        return self.spent / self.counted.clamp(min=1.0)


def _uniform(draws: Draws, logits: Tensor, *first: int) -> Tensor:
    """Uniform numbers (\\*first, B, N, K), in the type of the logits (B, N, K)."""
    tail = (*first, *logits.shape[1:])
    return draws.uniform(*tail, dtype=torch.float64).to(logits.dtype).movedim(0, len(first))


def _discrete(model: GumbelVAE, f: Function, logits: Tensor, draws: Draws) -> Tensor:
    return f(model.infer((logits,), model.noise(draws)).z)


ESTIMATORS: dict[str, Callable[[Any, Function, Tensor, Draws], Tensor]] = {
    "gumbel": lambda m, f, logits, draws: relaxed(f, logits, _uniform(draws, logits), m.tau()),
    "straight-through": lambda m, f, logits, draws: straight_through(f, logits, _uniform(draws, logits), m.tau()),
    "reinforce": lambda m, f, logits, draws: score_function(f, logits, _uniform(draws, logits), m.baseline()),
    "leave-one-out": lambda m, f, logits, draws: leave_one_out(f, logits, _uniform(draws, logits, m.samples)),
}
