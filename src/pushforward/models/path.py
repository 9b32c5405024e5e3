"""What is learned along a Gaussian path, and how to sample from it: the floor under diffusion, transport and consistency.

    y = preprocess.pull(x),    x_t = α(t) y + σ(t) ε,    P = a y + b ε           (paths/schedule, paths/prediction)
    loss = E w(t) |F_θ(x_t/s, t) − P|²                                         (paths/weighting)
    dx/dt = α' D + σ' ε̂ carries ε to data, D = E[y | x_t]                         (paths/denoiser, solvers/)

ε is standard normal noise, or rows of other data (``Kept``). ``preprocess`` makes every coordinate standard normal by itself,
so that s² = α² + σ² is the variance of x_t and a network of zeros that predicts v is the model of independent marginals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.gather import all_rows, rank
from pushforward.core.model import Batch, Model, Samples
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Points, Schema, Vector
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.guidance.classifier_free import ALWAYS, guided, one_call, two_models
from pushforward.paths.coupling import costs, coupling_named
from pushforward.paths.denoiser import Denoise, Denoiser, spread, velocity_of
from pushforward.paths.posterior import step_bound
from pushforward.paths.prediction import from_pair, prediction_named, to_pair
from pushforward.paths.schedule import EDM, VP, Angle, Schedule
from pushforward.paths.schedules import SCHEDULES
from pushforward.paths.table import Table
from pushforward.paths.weighting import sampling_named, weight, weighting_named
from pushforward.solvers.grids import Grid, grid
from pushforward.solvers.multistep import Watch
from pushforward.solvers.samplers import METHODS, SAMPLERS, Sampler, sampler_named, times_of

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


TRAINING, SAMPLING = Training(), Sampling()


class Kept(nn.Module):
    """A source of ``rows`` examples that are kept with the model, (rows, *shape) as codes, each as likely as the others."""

    codes: Tensor

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(rows, *shape, dtype=dtype))

    def forward(self, draws: Draws) -> Tensor:
        return self.codes[draws.integers(len(self.codes))]


class PathModel(Model, Samples):
    """``net``(x, t, context) predicts on ``shape``, twice its channels where variances are learned.

    ``source``(draws) gives the examples that paths start from, as codes; None is standard normal noise. ``sampled_by`` are the
    kinds of samplers (solvers/samplers) that carry from there to the data.
    """

    sampled_by: ClassVar[tuple[str, ...]]

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
        source: Kept | None = None,
    ) -> None:
        super().__init__(schema)
        self.preprocess, self.net, self.conditioner, self.schedule = preprocess, net, conditioner, schedule
        self.shape, self.learning, self.sampling, self.source = tuple(shape), training, sampling, source
        prediction_named(training.prediction)
        self._weighting, self._times = weighting_named(training.weighting), sampling_named(training.times)
        self._coupling = coupling_named(training.coupling)
        if lost(schedule) and training.prediction in ("noise", "score"):
            raise ValueError(f"{training.prediction} says nothing of the data where there is no signal, at the end: predict v")
        if training.prediction == "velocity" and not schedule.regular:
            raise ValueError("the velocity of this schedule is infinite at an end: predict v or noise")
        if training.variance and not isinstance(schedule, Table):
            raise ValueError("variances are learned for a process of T steps: use a schedule that is a table")
        sampler_named(sampling.sampler)
        # the dimension in which variances follow what is predicted: that of features, which points have last
        self.halved = (2 if isinstance(schema.example, Points) else 1) if training.variance else 0
        self.rowwise = training.coupling == "independent"

    def prepare(self, x: Tensor) -> None:
        # of both ends, where there are two
        self.preprocess.prepare(x if self.source is None else torch.cat([x, self.source.codes.to(x)]))

    # training

    def starts(self, draws: Draws) -> Tensor:
        """Where paths start: ε, (B, *shape)."""
        if self.source is None:
            return draws.normal(*self.shape, dtype=self.dtype)
        return self.preprocess.pull(self.source(draws), None, draws)[0].to(self.dtype)

    def matched(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss of a batch, at random times between data and what they are coupled to."""
        y, _ = self.preprocess.pull(batch.x, None, batch.draws)
        y = y.to(self.dtype)
        t = self._times(self.schedule, batch.draws.stratified(dtype=torch.float64))
        noise = self._coupled(y, self.starts(batch.draws), batch)
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

    def denoiser_in(self, context: Context) -> Denoiser:
        """E[y | x_t] under a condition that is embedded already."""
        network = lambda x, clock: self.net(x, clock, context)
        return Denoiser(network, self.schedule, self.learning.prediction, self.halved)

    def denoiser(self, condition: Condition | None, n: int, drop: Tensor | None = None) -> Denoiser:
        """E[y | x_t] for ``n`` rows; None is the null condition, and that of rows whose ``drop`` is true."""
        return self.denoiser_in(self.conditioner(condition, n, drop))

    def _guided(
        self,
        condition: Condition | None,
        n: int,
        scale: float,
        interval: tuple[float, float],
        rescale: float,
        weak: PathModel | None,
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
        return guided(plain, one_call(self.denoiser_in(both)), scale, interval=interval, rescale=rescale)

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
            "signal": not lost(own),
            "edm": isinstance(own, EDM),
        }[sampler.path]
        return own if suits else {"regular": Angle, "signal": VP, "edm": EDM}[sampler.path]()

    def _method(self, sampler: str | None, options: Mapping[str, Any] | None = None) -> Sampler:
        """The sampler, None being the model's own. Raises RecipeError for one that does not suit the model."""
        found = sampler_named(sampler or self.sampling.sampler, options)
        if found.kind not in self.sampled_by:
            able = ", ".join(name for name, s in SAMPLERS.items() if s.kind in self.sampled_by)
            raise RecipeError(f"{sampler or self.sampling.sampler} is no sampler of this model: use {able}")
        return found

    def sample(
        self,
        n: int,
        condition: Condition | None,
        draws: Draws,
        *,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = ALWAYS,
        guidance_rescale: float = 0.0,
        weak: PathModel | None = None,
        steer: Callable[[Denoise], Denoise] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: str | Sequence[float] | None = None,
        path: str | None = None,
        start: Tensor | None = None,
        noise: Tensor | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Tensor:
        """``n`` examples in exactly ``steps`` steps of a ``sampler`` over a ``grid`` (a name, or falling times) of a ``path``.

        ``guidance`` w: away from the null condition, or from the ``weak`` model, at levels σ/α in ``guidance_interval``, its
        spread brought back by ``guidance_rescale``. ``steer`` changes the denoiser (guidance/). ``start`` (n, …) are codes of
        the source to start from, ``noise`` (n, *shape) is the same on the network's side. ``watch``(i, state, estimate of the
        data) sees the way. ``options`` are the sampler's.
        """
        denoise = self._guided(condition, n, guidance, guidance_interval, guidance_rescale, weak)
        denoise = steer(denoise) if steer is not None else denoise
        if start is not None:
            if self.source is None:
                raise RecipeError("start= (--start) is for models that carry other data: this one starts from noise")
            noise = self.preprocess.pull(start, None, draws)[0]
        first = self.starts(draws) if noise is None else noise.to(self.device, self.dtype)
        fresh = lambda: draws.normal(*self.shape, dtype=self.dtype)
        y = self.solve(denoise, first, fresh, steps=steps, sampler=sampler, grid=grid, path=path, watch=watch, **options)
        return self.preprocess.push(y)

    def grid(
        self, steps: int | None = None, sampler: str | None = None, spacing: Any = None, path: str | None = None
    ) -> tuple[Schedule, Grid]:
        """The path and the nodes of sampling so."""
        method = self._method(sampler)
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
        method = self._method(sampler, options)
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
        arguments = (normal,) if method.kind in ("stochastic", "jumps") else ()
        return method.solve(denoise, x, nodes, *arguments, watch=watch, **options)


def lost(schedule: Schedule) -> bool:
    """Whether there is no signal at the noisy end."""
    return float(schedule.alpha(torch.tensor(schedule.stop, dtype=torch.float64))) == 0
