"""Trained diffusion and flow models made quick: students that need a step or two where their teachers need thirty.

Both kinds of student live on the rectified path x_t = (1 − t) y + t ε, in the teacher's coordinates y.

| model | what the student learns | source |
|---|---|---|
| ``Reflow`` | the velocity between pairs (y, ε) that the teacher's own flow connects | Liu et al. 2022, arXiv:2209.03003 |
| ``Consistency`` | D_θ(x_t, t), the end of the teacher's flow from x_t | Song et al. 2023, arXiv:2303.01469 |

Reflow's student is a ``Diffusion``, a flow with the same two ends and straighter paths at no higher cost of transport: it
samples, scores and encodes as any other. It is no longer the model of independent noise, and stochastic samplers and
completion, which put such noise back, are approximate. The other is a ``ConsistencyModel``, which samples and nothing else:
what its D says as a velocity is another flow.
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
from pushforward.models.consistency import ConsistencyModel
from pushforward.models.diffusion import Diffusion
from pushforward.models.path import PathModel
from pushforward.paths.denoiser import PathVelocity
from pushforward.paths.schedule import Rectified

_CHECKED = 4  # steps of the teacher in evaluation


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
    """Distils a copy of ``teacher`` into ``student``, with points x_s that the teacher's flow leads to:

        x_s = x_t − (t − s) (v(x_t, t) + v(x̃_s, s))/2

    v is its velocity and x̃_s Euler's guess. The student's ``preprocess`` must be the teacher's. A student that agrees with
    itself need not agree with anything else, so that in evaluation the distance is that from D_θ(x_t, t) to where the teacher's
    flow ends.
    """

    turns = (Turn("model", ("student",)),)

    def __init__(self, student: ConsistencyModel, teacher: Diffusion) -> None:
        super().__init__(student.schema)
        self.student, self.teacher = student, copy.deepcopy(teacher).requires_grad_(False)

    def after_step(self, turn: str) -> None:
        self.student.after_step(turn)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        student, draws = self.student, batch.draws
        y = student.preprocess.pull(batch.x, None, draws)[0].to(student.dtype)
        t, s = student.neighbours(draws) if self.training else (draws.stratified(dtype=torch.float64), None)
        noise = draws.normal(*student.shape, dtype=y.dtype)
        alpha, sigma = (over(v.to(y.dtype), y) for v in (1 - t, t))
        x = alpha * y + sigma * noise
        told = (batch.condition or None, len(y), student.dropped(draws))
        denoiser, velocity = student.denoiser(*told), self.teacher.denoiser(*told).velocity(student.schedule)
        with torch.no_grad():
            if s is not None:
                target = denoiser.pair(_heun(velocity, x, t, s), s)[0]
            else:
                target = x
                for k in range(_CHECKED):
                    target = _heun(velocity, target, t * (1 - k / _CHECKED), t * (1 - (k + 1) / _CHECKED))
        return {"loss": student.apart(denoiser.pair(x, t)[0], target)}


def _heun(velocity: PathVelocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A step of Heun's method from t to s (B,)."""
    step, slope = over((s - t).to(x.dtype), x), velocity.at(t, x)
    return x + 0.5 * step * (slope + velocity.at(s, x + step * slope))


def straightness(
    model: PathModel, n: int, draws: Draws, steps: int = 50, *, condition: Condition | None = None
) -> Straightness:
    """Of the paths of the model's flow from ``n`` points of noise, in coordinates of variance 1 and in the time of the
    rectified path, whatever the schedule it was trained on."""
    noise = draws.normal(*model.shape, dtype=model.dtype)
    return Straightness.of(*straightness_of_rows(model.denoiser(condition, n).velocity(Rectified()), noise, steps))


@torch.no_grad()
def jump_cost(model: PathModel, n: int, draws: Draws, *, condition: Condition | None = None) -> Estimate:
    """E |ε − D(ε, 1)|² per coordinate: the cost of transport of a consistency function in one step."""
    noise = draws.normal(*model.shape, dtype=model.dtype)
    apart = noise - model.denoiser(condition, n)(noise, 0.0, 1.0)
    return mean_with_error(apart.double().square().flatten(1).mean(1))
