"""Trained diffusion and flow models made quick: students that need a step or two where their teachers need thirty.

Both kinds of student are a ``Diffusion`` on the rectified path x_t = (1 − t) y + t ε, in the teacher's coordinates y.

| model | what the student learns | source |
|---|---|---|
| ``Reflow`` | the velocity between pairs (y, ε) that the teacher's own flow connects | Liu et al. 2022, arXiv:2209.03003 |
| ``Consistency`` | D_θ(x_t, t), the end of the teacher's flow from x_t | Song et al. 2023, arXiv:2303.01469 |

Reflow's student is a flow again, with the same two ends and straighter paths at no higher cost of transport: it samples, scores
and encodes as any other. It is no longer the model of independent noise, and stochastic samplers and completion, which put
such noise back, are approximate. A consistency function is to be sampled as one: what its D says as a velocity is another flow.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Model, Turn
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.shapes import over
from pushforward.metrics import Estimate, mean_with_error
from pushforward.metrics.straightness import Straightness, straightness_of_rows
from pushforward.models.diffusion import Diffusion
from pushforward.paths.denoiser import PathVelocity
from pushforward.paths.schedule import Rectified

_CHECKED = 4  # steps of the teacher in evaluation
_FIRST = 62  # a quarter of the steps that are trained on the first grid


def _rectified(student: Diffusion) -> Diffusion:
    if type(student.schedule) is not Rectified:
        raise ValueError(f"found a student on the path {type(student.schedule).__name__}: expected Rectified")
    if student.learning.prediction not in ("v", "velocity") or student.learning.variance:
        raise ValueError(
            f"found a student that predicts {student.learning.prediction}: expected v or velocity, without variance"
        )
    return student


class Reflow(Model):
    """Fits ``student`` to pairs: x (B, 2D) are the coordinates y, which are not preprocessed again, and then their noise ε.

    Conditions are those of the student's schema, made ones given as well.
    """

    def __init__(self, student: Diffusion) -> None:
        size = math.prod(student.shape)
        super().__init__(Schema(Vector(2 * size), student.schema.conditions))
        self.student = _rectified(student)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        student, draws = self.student, batch.draws
        y, noise = (half.view(-1, *student.shape).to(student.dtype) for half in batch.x.chunk(2, 1))
        t = draws.stratified(dtype=torch.float64)
        return student.error(y, noise, t, student.conditioner(batch.condition or None, len(y), student.dropped(draws)))


class Consistency(Model):
    """Distils a copy of ``teacher`` into ``student``, whose D_θ(x, 0) is x whatever the network says:

        loss = √(|D_θ(x_t, t) − D_θ⁻(x_s, s)|²/D + c²) − c,    x_s = x_t − (t − s) (v(x_t, t) + v(x̃_s, s))/2

    θ⁻ is θ without gradient; (t, s) are neighbours of a grid of even intervals, v the teacher's velocity and x̃_s Euler's guess.
    A grid of few intervals is learned soon and one of many is exact: they double whenever the steps trained are four times as
    many, 2 at first, 4 from step 248, 8 from step 992, … unless ``intervals`` says how many. The distance, and θ⁻ without
    averaging, are those of Song & Dhariwal 2023, arXiv:2310.14189; ``c`` is per coordinate of deviation 1. The student's
    ``preprocess`` must be the teacher's.

    A student that agrees with itself need not agree with anything else, so that in evaluation the distance is that from
    D_θ(x_t, t) to where the teacher's flow ends.
    """

    turns = (Turn("model", ("student",)),)
    trained: Tensor

    def __init__(self, student: Diffusion, teacher: Diffusion, *, intervals: int | None = None, c: float = 0.03) -> None:
        super().__init__(student.schema)
        if (intervals is not None and intervals < 1) or not c > 0:
            raise ValueError(f"found {intervals} intervals and c = {c}: expected 1 or more, and a number above 0")
        self.student, self.teacher = _rectified(student), copy.deepcopy(teacher).requires_grad_(False)
        self.fixed, self.c = intervals, c
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    @property
    def intervals(self) -> int:
        """Those of the grid now."""
        return self.fixed or 2 << (max(int(self.trained) // _FIRST, 1).bit_length() - 1) // 2

    def after_step(self, turn: str) -> None:
        self.trained += 1

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        student, draws = self.student, batch.draws
        y = student.preprocess.pull(batch.x, None, draws)[0].to(student.dtype)
        t = draws.stratified(dtype=torch.float64)
        if self.training:
            n = self.intervals
            t, s = ((t * n).floor() + 1) / n, (t * n).floor() / n
        noise = draws.normal(*student.shape, dtype=y.dtype)
        alpha, sigma = (over(v.to(y.dtype), y) for v in (1 - t, t))
        x = alpha * y + sigma * noise
        told = (batch.condition or None, len(y), student.dropped(draws))
        denoiser, velocity = student.denoiser(*told), self.teacher.denoiser(*told).velocity(student.schedule)
        with torch.no_grad():
            if self.training:
                target = denoiser.pair(_heun(velocity, x, t, s), s)[0]
            else:
                target = x
                for k in range(_CHECKED):
                    target = _heun(velocity, target, t * (1 - k / _CHECKED), t * (1 - (k + 1) / _CHECKED))
        apart = (denoiser.pair(x, t)[0] - target).square().flatten(1).mean(1)
        return {"loss": (apart + self.c**2).sqrt() - self.c}


def _heun(velocity: PathVelocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A step of Heun's method from t to s (B,)."""
    step, slope = over((s - t).to(x.dtype), x), velocity.at(t, x)
    return x + 0.5 * step * (slope + velocity.at(s, x + step * slope))


def straightness(
    model: Diffusion, n: int, draws: Draws, steps: int = 50, *, condition: Condition | None = None
) -> Straightness:
    """Of the paths of the model's flow from ``n`` points of noise, in coordinates of variance 1 and in the time of the
    rectified path, whatever the schedule it was trained on."""
    noise = draws.normal(*model.shape, dtype=model.dtype)
    return Straightness.of(*straightness_of_rows(model.denoiser(condition, n).velocity(Rectified()), noise, steps))


@torch.no_grad()
def jump_cost(model: Diffusion, n: int, draws: Draws, *, condition: Condition | None = None) -> Estimate:
    """E |ε − D(ε, 1)|² per coordinate: the cost of transport of a consistency function in one step."""
    noise = draws.normal(*model.shape, dtype=model.dtype)
    apart = noise - model.denoiser(condition, n)(noise, 0.0, 1.0)
    return mean_with_error(apart.double().square().flatten(1).mean(1))
