"""Diffusion and flow matching: one model, in which a paper is a schedule, a prediction, a weighting and a sampler.

What is learned and how it is sampled is models/path. From noise that is standard normal, the flow gives a density as well:

    log p(y) = log N(x_1/s; 0, 1) + ∫ tr ∂v/∂x dt

The flow is the same whatever schedule it is written in: densities and codes are found along the model's own path where its
velocity is finite at both ends, else along an arc of the circle (``Angle``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch, Completes, Encodes, Interpolates, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import over, per_example, spherical
from pushforward.core.transform import Compose
from pushforward.guidance import completion
from pushforward.guidance.classifier_free import ALWAYS
from pushforward.models.path import SAMPLING, TRAINING, PathModel, Sampling, Training, lost
from pushforward.paths.denoiser import PathField, spread
from pushforward.paths.posterior import end_bound, step_bound
from pushforward.paths.prediction import to_pair
from pushforward.paths.schedule import Angle, Schedule
from pushforward.paths.table import Table
from pushforward.paths.wrapped import Warped
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.solvers.multistep import ddim_inverse
from pushforward.transforms.ode import ODE

_FEW = 64  # numbers of an example up to which completion takes many chains for each


@dataclass(frozen=True)
class Scoring:
    """How to find densities and codes: ``solve`` the flow, with the exact trace up to ``exact_up_to`` coordinates and beyond
    that ``probes`` of ``noise``, signs or normal; or by the variational ``bound``, of so many of its terms a draw (0: by the
    flow)."""

    solve: Choice = Adaptive(1e-4)  # noqa: RUF009 (frozen)
    exact_up_to: int = 16
    probes: int = 1
    noise: str = "signs"
    bound: int = 0


def flow_of(model: PathModel, solve: Choice, **trace: Any) -> ODE:
    """The flow of a ``model`` as a transform, start ↔ y."""
    own = model.schedule
    # only where no signal is left is what the flow ends in noise and nothing else
    straight = own if own.regular and (own.start, own.stop) == (0.0, 1.0) and lost(own) else Angle()
    # an adaptive solver finds by itself that flows change fastest near the data
    path = Warped(straight) if isinstance(solve, Fixed) else straight
    field = PathField(model.denoiser_in, model.net, path)
    return ODE(field, training=solve, evaluation=solve, **trace)


class Diffusion(PathModel, Scores, Encodes, Completes, Interpolates):
    """A path between data and normal noise."""

    sampled_by = ("flow", "multistep", "stochastic")
    completion_steps: int = 0  # those of completing; 0 is those of sampling

    def __init__(
        self,
        schema: Schema,
        preprocess: Compose,
        net: nn.Module,
        conditioner: Conditioner,
        schedule: Schedule,
        shape: tuple[int, ...],
        *,
        training: Training = TRAINING,
        sampling: Sampling = SAMPLING,
        scoring: Scoring = Scoring(),
    ) -> None:
        super().__init__(schema, preprocess, net, conditioner, schedule, shape, training=training, sampling=sampling)
        self.scoring = scoring
        self.exact = math.prod(shape) <= scoring.exact_up_to
        bounded = preprocess.stochastic or scoring.bound > 0
        self.density_kind = "lower_bound" if bounded else "ode"
        self.weights_are_exact = self.exact and not scoring.bound

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return self.matched(batch)

    # encoding and densities: the flow itself

    def flow(
        self,
        condition: Condition | None,
        n: int,
        steps: int | None = None,
        tolerance: float | None = None,
        probes: int | None = None,
    ) -> tuple[ODE, Context]:
        """The flow as a transform, noise ↔ y, and its context; followed as ``scoring`` says unless told otherwise."""
        if steps is not None and tolerance is not None:
            raise RecipeError("steps are even ones and a tolerance chooses its own: give one of them")
        for name, value in (("steps", steps), ("tolerance", tolerance), ("probes", probes)):
            if value is not None and not value > 0:
                raise RecipeError(f"{name} must be above 0, found {value}")
        scoring = self.scoring
        solve = Fixed("heun", steps) if steps else Adaptive(tolerance) if tolerance else scoring.solve
        trace = "exact" if self.exact else "hutchinson"
        ode = flow_of(self, solve, trace=trace, probes=probes or scoring.probes, noise=scoring.noise)
        return ode, self.conditioner(condition, n)

    def encode(self, x: Tensor, condition: Condition | None = None, *, steps: int | None = None) -> Tensor:
        """The noise that the flow carries to x, (B, D); by DDIM backwards on the grid of sampling where ``steps`` are given."""
        y = self.preprocess.pull(x)[0].to(self.dtype)
        if steps is not None:
            _, nodes = self.grid(steps)
            scale = math.hypot(nodes.alpha[0], nodes.sigma[0])
            return ddim_inverse(self.denoiser(condition, len(y)), y, nodes).flatten(1) / scale
        ode, context = self.flow(condition, len(y))
        return ode.encode(y, context).flatten(1)

    def log_prob(
        self,
        x: Tensor,
        condition: Condition | None = None,
        draws: Draws | None = None,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        probes: int | None = None,
    ) -> Tensor:
        """By the flow, in even ``steps`` of Heun's method or to a ``tolerance``, with so many ``probes`` of a trace that is
        estimated; or by the variational bound, for a model that is scored so."""
        draws = draws or Draws(0, 0, len(x), device=x.device)
        y, score = self.preprocess.pull(x, None, draws)
        y = y.to(self.dtype)
        if self.scoring.bound:
            if (steps, tolerance, probes) != (None, None, None):
                raise RecipeError("this model is scored by its variational bound, which has no solver: leave out its options")
            return score - self._bound(y, condition, draws)
        ode, context = self.flow(condition, len(y), steps, tolerance, probes)
        z, volume = ode.pull(y, context, draws)
        return per_example(-0.5 * z.square() - 0.5 * math.log(2 * math.pi)) + volume + score

    def _bound(self, y: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """An unbiased estimate (B,) of the bound of −log p(y): ``scoring.bound`` of its T terms, one of each stretch."""
        schedule = self.schedule
        assert isinstance(schedule, Table)
        context = self.conditioner(condition, len(y))
        terms = min(self.scoring.bound, schedule.steps)
        total = end_bound(schedule, y)
        for k in range(terms):
            place = (k + draws.uniform(dtype=torch.float64)) / terms * schedule.steps
            t = (place.floor() + 1).clamp(max=schedule.steps) / schedule.steps
            noise = draws.normal(*self.shape, dtype=y.dtype)
            alpha, sigma = (over(f(t).to(y.dtype), y) for f in (schedule.alpha, schedule.sigma))
            x_t = alpha * y + sigma * noise
            s = (t * schedule.steps - 1).round() / schedule.steps
            output = self.net(x_t, schedule.clock(t).to(y.dtype), context).to(y.dtype)
            output, other = output.chunk(2, self.halved) if self.halved else (output, None)
            guess = to_pair(self.learning.prediction, output, x_t, schedule, t)[0]
            total = total + step_bound(schedule, s, t, y, x_t, guess, None if other is None else spread(other)) * (
                schedule.steps / terms
            )
        return total

    def interpolate(
        self, x0: Tensor, x1: Tensor, steps: int, condition: Condition | None = None, draws: Draws | None = None
    ) -> Tensor:
        """(B, steps, …): the codes of the ends are joined by an arc, as noise of about one length lies (White 2016,
        arXiv:1609.04468), and the flow carries it to data."""
        ode, context = self.flow(condition, len(x0))
        z0, z1 = (ode.encode(self.preprocess.pull(x, None, draws)[0].to(self.dtype), context) for x in (x0, x1))
        ways = [spherical(z0, z1, float(t)) for t in torch.linspace(0, 1, steps, dtype=torch.float64)]
        return torch.stack([self.preprocess.push(ode.push(z, context)) for z in ways], 1)

    # completion

    def complete(
        self,
        x: Tensor,
        observed: Tensor,
        condition: Condition | None,
        draws: Draws,
        *,
        method: str | None = None,
        steps: int | None = None,
        repeats: int = 4,
        particles: int = 16,
        guidance: float = 1.0,
    ) -> Tensor:
        """What is missing drawn given the rest, by a ``method`` of guidance/completion: particles, so many chains a row, in the
        limit exact, and by default of up to 64 numbers; repaint, ancestral steps each done ``repeats`` times; replace, each
        once; posterior, along the gradient of what is known, by the model's own sampler. ``steps`` are by default those of
        sampling, and of particles twice as many."""
        few = math.prod(self.shape) <= _FEW
        method = method or ("particles" if few else "repaint")
        if method not in completion.METHODS:
            raise RecipeError(f"method is {', '.join(completion.METHODS)}, found {method!r}")
        if repeats < 1 or particles < 1:
            raise RecipeError(f"found {repeats} repeats and {particles} particles: expected 1 or more")
        filled = torch.where(observed, x, torch.zeros_like(x))
        y = self.preprocess.pull(filled, None, draws)[0].to(self.dtype)
        known = self.preprocess.spread(observed)
        each = particles if method == "particles" else 1
        told = {name: code.repeat_interleave(each, 0) for name, code in condition.items()} if condition else condition
        denoise = self._guided(told, each * len(y), guidance, ALWAYS, 0.0, None)
        fresh = lambda: draws.normal(*self.shape, dtype=y.dtype)
        steps = steps or self.completion_steps or self.sampling.steps * (2 if method == "particles" else 1)
        if method == "posterior":
            steered = completion.posterior(denoise, lambda z: known * z, known * y)
            y = self.solve(steered, fresh(), fresh, steps=steps)
        else:
            _, nodes = self.grid(steps, "ddpm")
            scale = math.hypot(nodes.alpha[0], nodes.sigma[0])
            if method == "particles":
                start = scale * draws.normal(particles, *self.shape, dtype=y.dtype)
                y = completion.particles(denoise, start, y, known, nodes, draws)
            else:
                repeats = 1 if method == "replace" else repeats
                y = completion.repaint(denoise, scale * fresh(), y, known, nodes, fresh, repeats=repeats)
        return torch.where(observed, x, self.preprocess.push(y).to(x.dtype))

    def restore(
        self,
        measured: Tensor,
        measure: Callable[[Tensor], Tensor],
        condition: Condition | None,
        draws: Draws,
        *,
        noise: float = 0.0,
        strength: float = 1.0,
        steps: int | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Draws of x given that ``measure`` of it was ``measured`` (B, …), with normal noise of that deviation, by posterior
        sampling (guidance/completion). ``measure`` takes codes as floats and is to be differentiable."""
        of = lambda y: measure(self.preprocess.smooth(y))
        steer = lambda denoise: completion.posterior(denoise, of, measured.to(self.dtype), noise=noise, strength=strength)
        return self.sample(len(measured), condition, draws, steer=steer, steps=steps, sampler=sampler)
