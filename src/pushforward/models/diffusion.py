"""Diffusion and flow matching along one Gaussian path, learned as a velocity.

    x_t = α(t) y + σ(t) ε,        v = α'(t) y + σ'(t) ε,        y = preprocess.pull(x)
    loss = E |v_θ(x_t, t) − v|²      (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747)
    dx/dt = v_θ(x, t) carries noise at t = 1 to data at t = 0
    log p(y) = log N(x_1; 0, 1) + ∫_0^1 tr ∂v_θ/∂x dt

The network corrects the velocity that would be right if the data were standard normal, which ``preprocess`` makes true of
each coordinate: v_θ = (αα' + σσ')/s² · x + |ασ' − α'σ|/s · F_θ(x/s, t), s² = α² + σ². A network of zeros is then the model of
independent marginals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.model import Batch, Completes, Encodes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import over, per_example
from pushforward.core.transform import Compose
from pushforward.paths.schedule import Schedule
from pushforward.solvers import divergence, ode


class Diffusion(Model, Samples, Scores, Encodes, Completes):
    """``net``(x, t, context) corrects the velocity on ``shape``; ``drop`` is the rate of condition dropout.

    ``steps`` are the default solver steps for sampling; ``score_steps`` those for densities, by ``method``. The divergence
    is exact up to ``exact_up_to`` coordinates and beyond that estimated with one Rademacher probe a draw.
    """

    def __init__(
        self,
        schema: Schema,
        preprocess: Compose,
        net: nn.Module,
        conditioner: Conditioner,
        schedule: Schedule,
        shape: tuple[int, ...],
        *,
        drop: float = 0.1,
        steps: int = 30,
        score_steps: int = 20,
        method: str = "heun",
        exact_up_to: int = 16,
    ) -> None:
        super().__init__(schema)
        self.preprocess, self.net, self.conditioner, self.schedule = preprocess, net, conditioner, schedule
        self.shape, self.drop, self.steps, self.score_steps, self.method = tuple(shape), drop, steps, score_steps, method
        self.exact = math.prod(shape) <= exact_up_to
        self.density_kind = "lower_bound" if preprocess.stochastic else "ode"
        self.weights_are_exact = self.exact

    def prepare(self, x: Tensor) -> None:
        self.preprocess.prepare(x)

    def velocity(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        """v_θ(x (B, …), t (B,)), (B, …)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        d_alpha, d_sigma = self.schedule.d_alpha(t), self.schedule.d_sigma(t)
        s2 = alpha.square() + sigma.square()
        s = s2.sqrt()
        # Var[v | x_t] = (ασ' − α'σ)²/s² for standard normal data: the correction has that scale
        scale = (alpha * d_sigma - d_alpha * sigma).abs() / s
        linear = (alpha * d_alpha + sigma * d_sigma) / s2
        correction = self.net(x / over(s, x), t, context).to(x.dtype)
        return over(linear, x) * x + over(scale, x) * correction

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        y, _ = self.preprocess.pull(batch.x, None, batch.draws)
        y = y.to(self.dtype)
        t = batch.draws.stratified(dtype=y.dtype)
        noise = batch.draws.normal(*self.shape, dtype=y.dtype)
        dropped = batch.draws.uniform()[..., None].flatten() < self.drop if self.conditioner.columns else None
        context = self.conditioner(batch.condition or None, len(y), dropped)
        x_t = over(self.schedule.alpha(t), y) * y + over(self.schedule.sigma(t), y) * noise
        target = over(self.schedule.d_alpha(t), y) * y + over(self.schedule.d_sigma(t), y) * noise
        error = (self.velocity(x_t, t, context) - target).square()
        return {"loss": error.flatten(1).mean(1)}

    def _field(self, condition: Condition | None, n: int, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        """v(x, t) with classifier-free guidance v_∅ + w (v_c − v_∅) (Ho & Salimans 2022, arXiv:2207.12598)."""
        context = self.conditioner(condition, n)
        if guidance == 1.0 or condition is None or not self.conditioner.columns:
            return lambda x, t: self.velocity(x, t.expand(len(x)), context)
        null = self.conditioner(None, n)
        both = Context(vector=torch.cat([context.vector, null.vector]))  # type: ignore[list-item]

        def guided(x: Tensor, t: Tensor) -> Tensor:
            conditional, free = self.velocity(torch.cat([x, x]), t.expand(2 * len(x)), both).chunk(2)
            return free + guidance * (conditional - free)

        return guided

    def sample(
        self,
        n: int,
        condition: Condition | None,
        draws: Draws,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
        method: str | None = None,
        **options: Any,
    ) -> Tensor:
        """``n`` examples in exactly ``steps`` steps of ``method`` (euler, midpoint, heun, rk4)."""
        field = self._field(condition, n, guidance)
        noise = draws.normal(*self.shape, dtype=self.dtype)
        times = torch.linspace(1, 0, (steps or self.steps) + 1, dtype=noise.dtype, device=noise.device)
        (y,) = ode.fixed(lambda t, state: (field(state[0], t),), (noise,), times, method or self.method)
        return self.preprocess.push(y)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The noise at t = 1 that the flow carries to x, (B, D)."""
        y = self.preprocess.pull(x)[0].to(self.dtype)
        field = self._field(condition, len(y), 1.0)
        times = torch.linspace(0, 1, self.score_steps + 1, dtype=y.dtype, device=y.device)
        (noise,) = ode.fixed(lambda t, state: (field(state[0], t),), (y,), times, self.method)
        return noise.flatten(1)

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        y, score = self.preprocess.pull(x, None, draws)
        y = y.to(self.dtype)
        field = self._field(condition, len(y), 1.0)
        probe = None if self.exact else draws.signs(*self.shape, dtype=y.dtype)

        def augmented(t: Tensor, state: ode.State) -> ode.State:
            at = lambda x: field(x, t)
            v, trace = divergence.exact(at, state[0]) if probe is None else divergence.hutchinson(at, state[0], probe)
            return v, trace

        start = (y, torch.zeros(len(y), dtype=y.dtype, device=y.device))
        times = self._score_times(y)
        noise, integral = ode.fixed(augmented, start, times, self.method)
        base = per_example(-0.5 * noise.square() - 0.5 * math.log(2 * math.pi))
        return base + integral + score

    def _score_times(self, y: Tensor) -> Tensor:
        """A grid that is finer near the data, where the field changes fastest."""
        line = torch.linspace(0, 1, self.score_steps + 1, dtype=y.dtype, device=y.device)
        return line.pow(1.5)

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Ancestral sampling with the observed part held to its own noisy path; every step is taken back and repeated, four
        times in all, so that what is drawn comes to agree with what is held (Lugmayr et al. 2022, arXiv:2201.09865)."""
        filled = torch.where(observed, x, torch.zeros_like(x))
        y = self.preprocess.pull(filled, None, draws)[0].to(self.dtype)
        known = self.preprocess.spread(observed)
        field = self._field(condition, len(y), 1.0)
        times = torch.linspace(1, 0, self.steps + 1, dtype=y.dtype, device=y.device)
        fresh = lambda: draws.normal(*self.shape, dtype=y.dtype)
        state = fresh()
        for t, s in itertools.pairwise(times):
            alpha_t, sigma_t = self.schedule.alpha(t), self.schedule.sigma(t)
            alpha_s, sigma_s = self.schedule.alpha(s), self.schedule.sigma(s)
            d_alpha, d_sigma = self.schedule.d_alpha(t), self.schedule.d_sigma(t)
            share = alpha_t / alpha_s  # x_t = share · x_s + noise of variance `added`
            added = (sigma_t.square() - (share * sigma_s).square()).clamp(min=0)
            # the noise that an ancestral step renews: the variance of q(x_s | x_t, y) (Ho et al. 2020, arXiv:2006.11239)
            renewed = (sigma_s / sigma_t).square() * added
            for again in (True, True, True, False):
                state = torch.where(known, alpha_t * y + sigma_t * fresh(), state)
                v = field(state, t)
                # solve x_t = αy + σε, v = α'y + σ'ε for the data and the noise
                data = (d_sigma * state - sigma_t * v) / (alpha_t * d_sigma - sigma_t * d_alpha)
                data = torch.where(known, y, data)
                noise = (state - alpha_t * data) / sigma_t
                state = alpha_s * data + (sigma_s.square() - renewed).clamp(min=0).sqrt() * noise + renewed.sqrt() * fresh()
                if again:
                    state = share * state + added.sqrt() * fresh()
        return torch.where(observed, x, self.preprocess.push(state).to(x.dtype))
