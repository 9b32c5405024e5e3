"""Consistency models: a network that jumps from any point of a path to its end, and so samples in one step or two.

    D_θ(x, 0) = x whatever the network says,    x_t = (1 − t) y + t ε
    loss = √(|D_θ(x_t, t) − D_θ⁻(x_s, s)|²/D + c²) − c                          (Song et al. 2023, arXiv:2303.01469)

θ⁻ is θ without gradient and (t, s) are neighbours of a grid of even intervals. Where a step of a trained flow leads from x_t to
x_s, the network learns where that flow ends: distillation (models/straighten). Without a teacher x_s is the point of the same
y and ε, whose mean over all of them is that step; what the loss adds to it vanishes as intervals get short.

A grid of few intervals is learned soon and one of many is exact: they double whenever the steps trained are four times as many,
2 at first, 4 from step 248, 8 from step 992, … unless ``intervals`` says how many. The distance, and θ⁻ without averaging, are
those of Song & Dhariwal 2023, arXiv:2310.14189; ``c`` is per coordinate of deviation 1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.models.path import SAMPLING, TRAINING, PathModel, Sampling, Training
from pushforward.paths.schedule import Rectified

_FIRST = 62  # a quarter of the steps that are trained on the first grid


class ConsistencyModel(PathModel):
    """A ``net`` that predicts v or the velocity on the rectified path, and is sampled by jumps alone.

    Its loss says how well it agrees with itself on the grid of the moment, which says nothing of how far it has come.
    """

    comparable: ClassVar[bool] = False
    sampled_by = ("jumps",)
    trained: Tensor

    def __init__(
        self,
        schema: Schema,
        preprocess: Compose,
        net: nn.Module,
        conditioner: Conditioner,
        shape: tuple[int, ...],
        *,
        training: Training = TRAINING,
        sampling: Sampling = SAMPLING,
        intervals: int | None = None,
        c: float = 0.03,
    ) -> None:
        if training.prediction not in ("v", "velocity") or training.variance:
            raise ValueError(f"a consistency model predicts v or velocity, found {training.prediction}")
        if (intervals is not None and intervals < 1) or not c > 0:
            raise ValueError(f"found {intervals} intervals and c = {c}: expected 1 or more, and a number above 0")
        super().__init__(schema, preprocess, net, conditioner, Rectified(), shape, training=training, sampling=sampling)
        self.fixed, self.c = intervals, c
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    @property
    def intervals(self) -> int:
        """Those of the grid now."""
        return self.fixed or 2 << (max(int(self.trained) // _FIRST, 1).bit_length() - 1) // 2

    def after_step(self, turn: str) -> None:
        self.trained += 1

    def neighbours(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Times t and s < t (B,) of the grid."""
        n, place = self.intervals, draws.stratified(dtype=torch.float64)
        return ((place * n).floor() + 1) / n, (place * n).floor() / n

    def apart(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance (B,) of the loss."""
        return ((a - b).square().flatten(1).mean(1) + self.c**2).sqrt() - self.c

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        draws = batch.draws
        y = self.preprocess.pull(batch.x, None, draws)[0].to(self.dtype)
        t, s = self.neighbours(draws)
        noise = draws.normal(*self.shape, dtype=y.dtype)
        denoiser = self.denoiser(batch.condition or None, len(y), self.dropped(draws))
        at = lambda time: over((1 - time).to(y.dtype), y) * y + over(time.to(y.dtype), y) * noise
        with torch.no_grad():
            end = denoiser.pair(at(s), s)[0]
        return {"loss": self.apart(denoiser.pair(at(t), t)[0], end)}
