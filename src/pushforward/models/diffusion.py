"""Diffusion and flow matching: one model, in which a paper is a schedule, a prediction, a weighting and a sampler.

    y = preprocess.pull(x),    x_t = α(t) y + σ(t) ε,    P = a y + b ε           (paths/schedule, paths/prediction)
    loss = E w(t) |F_θ(x_t/s, t) − P|²                                         (paths/weighting)
    dx/dt = α' D + σ' ε̂ carries noise to data, D = E[y | x_t]                     (paths/denoiser, solvers/)
    log p(y) = log N(x_1/s; 0, 1) + ∫ tr ∂v/∂x dt

``preprocess`` makes every coordinate standard normal by itself, so that s² = α² + σ² is the variance of x_t and a network of
zeros that predicts v is the model of independent marginals. The flow is the same whatever schedule it is written in: densities
and codes are found along the model's own path where its velocity is finite at both ends, else along an arc of the circle
(``Angle``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.gather import all_rows, rank
from pushforward.core.model import Batch, Completes, Encodes, Interpolates, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Points, Schema, Vector
from pushforward.core.shapes import over, per_example, spherical
from pushforward.core.transform import Compose
from pushforward.guidance import completion
from pushforward.guidance.classifier_free import ALWAYS, guided, one_call, two_models
from pushforward.paths.coupling import costs, coupling_named
from pushforward.paths.denoiser import Denoise, Denoiser, spread, velocity_of
from pushforward.paths.posterior import end_bound, step_bound
from pushforward.paths.prediction import from_pair, prediction_named, to_pair
from pushforward.paths.schedule import EDM, SCHEDULES, VP, Angle, Schedule, Table, Warped
from pushforward.paths.weighting import sampling_named, weight, weighting_named
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.solvers.grids import Grid, grid
from pushforward.solvers.multistep import Watch, ddim_inverse
from pushforward.solvers.samplers import METHODS, Sampler, sampler_named, times_of
from pushforward.transforms.ode import ODE

_BOUND_SHARE = 1e-3  # of the variational bound in the loss that trains variances, as in Nichol & Dhariwal 2021


@dataclass(frozen=True)
class Training:
    """What is learned: ``prediction`` of the network, ``weighting`` of its error, distribution of ``times``, ``coupling`` of
    noise and data, ``drop`` rate of conditions; ``variance`` says whether the network also gives that of the posterior."""

    prediction: str = "v"
    weighting: str = "velocity"
    times: str = "uniform"
    coupling: str = "independent"
    drop: float = 0.1
    variance: bool = False


@dataclass(frozen=True)
class Sampling:
    """How to sample unless told otherwise: names of solvers/samplers and solvers/grids, and of a path where it is not the
    model's."""

    sampler: str = "heun"
    steps: int = 30
    grid: str = "uniform"
    path: str = ""


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


class Diffusion(Model, Samples, Scores, Encodes, Completes, Interpolates):
    """``net``(x, t, context) predicts on ``shape``, twice its channels where variances are learned."""

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
        training: Training = Training(),
        sampling: Sampling = Sampling(),
        scoring: Scoring = Scoring(),
    ) -> None:
        super().__init__(schema)
        self.preprocess, self.net, self.conditioner, self.schedule = preprocess, net, conditioner, schedule
        self.shape, self.learning, self.sampling, self.scoring = tuple(shape), training, sampling, scoring
        prediction_named(training.prediction)
        self._weighting, self._times = weighting_named(training.weighting), sampling_named(training.times)
        self._coupling = coupling_named(training.coupling)
        if _lost(schedule) and training.prediction in ("noise", "score"):
            raise ValueError(f"{training.prediction} says nothing of the data where there is no signal, at the end: predict v")
        if training.prediction == "velocity" and not schedule.regular:
            raise ValueError("the velocity of this schedule is infinite at an end: predict v or noise")
        if training.variance and not isinstance(schedule, Table):
            raise ValueError("variances are learned for a process of T steps: use a schedule that is a table")
        sampler_named(sampling.sampler)
        # the dimension in which variances follow what is predicted: that of features, which points have last
        self.halved = (2 if isinstance(schema.example, Points) else 1) if training.variance else 0
        self.exact = math.prod(shape) <= scoring.exact_up_to
        self.rowwise = training.coupling == "independent"
        bounded = preprocess.stochastic or scoring.bound > 0
        self.density_kind = "lower_bound" if bounded else "ode"
        self.weights_are_exact = self.exact and not scoring.bound

    def prepare(self, x: Tensor) -> None:
        self.preprocess.prepare(x)

    # training

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        y, _ = self.preprocess.pull(batch.x, None, batch.draws)
        y = y.to(self.dtype)
        t = self._times(self.schedule, batch.draws.stratified(dtype=torch.float64))
        noise = self._coupled(y, batch.draws.normal(*self.shape, dtype=y.dtype), batch)
        context = self.conditioner(batch.condition or None, len(y), self.dropped(batch.draws))
        return self.error(y, noise, t, context)

    def dropped(self, draws: Draws) -> Tensor | None:
        """(B,) which rows are trained under the null condition; None where there are no conditions."""
        return draws.uniform() < self.learning.drop if self.conditioner.columns else None

    def error(self, y: Tensor, noise: Tensor, t: Tensor, context: Context) -> dict[str, Tensor]:
        """The terms of the loss at times t (B,) between ``y`` and ``noise`` (B, *shape)."""
        name, schedule = self.learning.prediction, self.schedule
        alpha, sigma = (over(f(t).to(y.dtype), y) for f in (schedule.alpha, schedule.sigma))
        x_t = alpha * y + sigma * noise
        output = self.net(x_t / (alpha.square() + sigma.square()).sqrt(), schedule.clock(t).to(y.dtype), context).to(y.dtype)
        output, other = output.chunk(2, self.halved) if self.halved else (output, None)
        target = from_pair(name, y.double(), noise.double(), schedule, t).to(y.dtype)
        error = (output - target).square().flatten(1).mean(1)
        loss = weight(self._weighting, name, schedule, t).to(y.dtype) * error
        if other is None:
            return {"loss": loss}
        assert isinstance(schedule, Table)
        guess = to_pair(name, output.detach(), x_t, schedule, t)[0]
        before = (t * schedule.steps - 1).round() / schedule.steps
        bound = step_bound(schedule, before, t, y, x_t, guess, spread(other))
        return {"loss": loss + _BOUND_SHARE * schedule.steps * bound / math.prod(self.shape), "simple": loss.detach()}

    def _coupled(self, y: Tensor, noise: Tensor, batch: Batch) -> Tensor:
        """``noise`` in the order that the coupling gives it; over the rows of all processes."""
        if self.rowwise:
            return noise
        first, every = rank() * len(y), all_rows(noise)
        levels: list[Tensor] = []
        numbers: list[Tensor] = []
        for column in self.conditioner.columns if batch.condition else ():
            code = all_rows(batch.condition[column.name])
            if isinstance(column, Column) and column.discrete:
                levels.append(code)
            elif isinstance(column, Column) or isinstance(column.kind, Vector):
                mean, std = (torch.as_tensor(v, dtype=code.dtype, device=code.device) for v in (column.mean, column.std))
                numbers.append(((code - mean) / std).nan_to_num().view(len(code), -1))
            else:  # texts and images: no two are the same, and each keeps its noise
                levels.append(torch.arange(len(code), device=code.device))
        cost = costs(all_rows(y), every, torch.stack(levels, 1) if levels else None, torch.cat(numbers, 1) if numbers else None)
        return every[self._coupling(cost, slice(first, first + len(y)), batch.draws)]

    # the denoiser

    def _denoiser(self, context: Context) -> Denoiser:
        network = lambda x, clock: self.net(x, clock, context)
        return Denoiser(network, self.schedule, self.learning.prediction, self.halved)

    def denoiser(self, condition: Condition | None, n: int, drop: Tensor | None = None) -> Denoiser:
        """E[y | x_t] for ``n`` rows; None is the null condition, and that of rows whose ``drop`` is true."""
        return self._denoiser(self.conditioner(condition, n, drop))

    def _guided(
        self,
        condition: Condition | None,
        n: int,
        scale: float,
        interval: tuple[float, float],
        rescale: float,
        weak: Diffusion | None,
    ) -> Denoiser | Denoise:
        """The denoiser, guided where there is something to be guided by and away from."""
        plain = self.denoiser(condition, n)
        if scale == 1.0:
            return plain
        if weak is not None:
            return guided(plain, two_models(plain, weak.denoiser(condition, n)), scale, interval=interval, rescale=rescale)
        if condition is None or not self.conditioner.columns:
            return plain
        both = Context.cat([self.conditioner(condition, n), self.conditioner(None, n)])
        return guided(plain, one_call(self._denoiser(both)), scale, interval=interval, rescale=rescale)

    # sampling

    def path(self, sampler: Sampler, name: str = "") -> Schedule:
        """The path to sample along: that of the ``name``, else what suits the ``sampler``."""
        own = self.schedule
        if name:
            if name not in SCHEDULES:
                raise RecipeError(f"no path is called '{name}': choose one of {', '.join(SCHEDULES)}")
            chosen = SCHEDULES[name]()
            if sampler.kind == "flow" and not chosen.regular:
                raise RecipeError(f"velocities along '{name}' are infinite at an end: use rectified, polynomial, angle or edm")
            return chosen
        suits = {
            "own": True,
            "regular": own.regular,
            "signal": not _lost(own),
            "edm": isinstance(own, EDM),
        }[sampler.path]
        return own if suits else {"regular": Angle, "signal": VP, "edm": EDM}[sampler.path]()

    def sample(
        self,
        n: int,
        condition: Condition | None,
        draws: Draws,
        *,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = ALWAYS,
        guidance_rescale: float = 0.0,
        weak: Diffusion | None = None,
        steer: Callable[[Denoise], Denoise] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: str | Sequence[float] | None = None,
        path: str | None = None,
        noise: Tensor | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Tensor:
        """``n`` examples in exactly ``steps`` steps of a ``sampler`` over a ``grid`` (a name, or falling times) of a ``path``.

        ``guidance`` w: away from the null condition, or from the ``weak`` model, at levels σ/α in ``guidance_interval``, its
        spread brought back by ``guidance_rescale``. ``steer`` changes the denoiser (guidance/). ``noise`` (n, *shape) is where
        to start. ``watch``(i, state, estimate of the data) sees the way. ``options`` are the sampler's.
        """
        denoise = self._guided(condition, n, guidance, guidance_interval, guidance_rescale, weak)
        denoise = steer(denoise) if steer is not None else denoise
        start = draws.normal(*self.shape, dtype=self.dtype) if noise is None else noise.to(self.device, self.dtype)
        fresh = lambda: draws.normal(*self.shape, dtype=self.dtype)
        y = self.solve(denoise, start, fresh, steps=steps, sampler=sampler, grid=grid, path=path, watch=watch, **options)
        return self.preprocess.push(y)

    def grid(
        self, steps: int | None = None, sampler: str | None = None, spacing: Any = None, path: str | None = None
    ) -> tuple[Schedule, Grid]:
        """The path and the nodes of sampling so."""
        method = sampler_named(sampler or self.sampling.sampler)
        same = sampler in (None, self.sampling.sampler)
        chosen = self.path(method, path if path is not None else self.sampling.path if same else "")
        if spacing is not None and not isinstance(spacing, str):
            return chosen, Grid.of(chosen, spacing)
        default = self.sampling.grid if same else "karras" if isinstance(chosen, EDM) else "uniform"
        return chosen, grid(chosen, steps or self.sampling.steps, spacing or default)

    def solve(
        self,
        denoise: Denoiser | Denoise,
        start: Tensor,
        normal: Callable[[], Tensor],
        *,
        steps: int | None = None,
        sampler: str | None = None,
        grid: str | Sequence[float] | None = None,
        path: str | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Tensor:
        """From noise ``start`` (B, *shape) of variance 1 to y."""
        method = sampler_named(sampler or self.sampling.sampler, options)
        chosen, nodes = self.grid(steps, sampler, grid, path)
        x = math.hypot(nodes.alpha[0], nodes.sigma[0]) * start
        if method.kind == "flow":
            tableau = METHODS[sampler or self.sampling.sampler]
            velocity: Any = (
                denoise.velocity(chosen).expect(times_of(nodes, tableau), x)
                if isinstance(denoise, Denoiser)
                else velocity_of(denoise, chosen)
            )
            return method.solve(velocity, x, nodes, watch=watch, **options)
        if isinstance(denoise, Denoiser):
            denoise.expect(nodes.levels[:-1] if sampler != "edm" else [(1.0, s / a) for a, s in nodes.levels[:-1]], x)
            if self.learning.variance and (sampler or self.sampling.sampler) == "ddpm":
                denoise = denoise.with_variance  # type: ignore[assignment]
        arguments = (normal,) if method.kind == "stochastic" else ()
        return method.solve(denoise, x, nodes, *arguments, watch=watch, **options)

    # encoding and densities: the flow itself

    def flow(self, condition: Condition | None, n: int) -> tuple[ODE, Context]:
        """The flow as a transform, noise ↔ y, and its context."""
        own = self.schedule
        # only where no signal is left is what the flow ends in noise and nothing else
        straight = own if own.regular and (own.start, own.stop) == (0.0, 1.0) and _lost(own) else Angle()
        scoring = self.scoring
        # an adaptive solver finds by itself that flows change fastest near the data
        path = Warped(straight) if isinstance(scoring.solve, Fixed) else straight

        def field(t: Tensor, x: Tensor, context: Context | None) -> Tensor:
            return self._denoiser(context or Context()).velocity(path).at(t, x)

        trace = "exact" if self.exact else "hutchinson"
        ode = ODE(
            field, training=scoring.solve, evaluation=scoring.solve, trace=trace, probes=scoring.probes, noise=scoring.noise
        )
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

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        y, score = self.preprocess.pull(x, None, draws)
        y = y.to(self.dtype)
        if self.scoring.bound:
            return score - self._bound(y, condition, draws)
        ode, context = self.flow(condition, len(y))
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
        steps: int | None = None,
        repeats: int | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Ancestral steps with the observed part held, each done ``repeats`` times (guidance/completion); the more of them the
        nearer to the conditional. By default 4, and 10 of few numbers."""
        repeats = repeats or (10 if math.prod(self.shape) <= 64 else 4)
        filled = torch.where(observed, x, torch.zeros_like(x))
        y = self.preprocess.pull(filled, None, draws)[0].to(self.dtype)
        known = self.preprocess.spread(observed)
        denoise = self._guided(condition, len(y), guidance, ALWAYS, 0.0, None)
        _, nodes = self.grid(steps or self.completion_steps or self.sampling.steps, "ddpm")
        fresh = lambda: draws.normal(*self.shape, dtype=y.dtype)
        scale = math.hypot(nodes.alpha[0], nodes.sigma[0])
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


def _lost(schedule: Schedule) -> bool:
    """Whether there is no signal at the noisy end."""
    return float(schedule.alpha(torch.tensor(schedule.stop, dtype=torch.float64))) == 0
