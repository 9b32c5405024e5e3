"""Consistency models: a network that jumps from any point of a path to its end, and so samples in one step or two.

    D_θ(x, 0) = x whatever the network says,    x_t = (1 − t) y + t ε,    x_s = x_t − (t − s) v_θ⁻(x_t, t)
    loss = |v_θ(x_t, t) − (ε − y)|² + √(|D_θ(x_t, t) − D_θ⁻(x_s, s)|²/D + c²) − c

θ⁻ is θ without gradient and (t, s) are neighbours of a grid of even intervals: what is said at t is learned from what is said
a step further along the flow (Song et al. 2023, arXiv:2303.01469). The step is that of a trained model (models/straighten), or
without one of a velocity that the network learns beside the jump, as the second half of its channels (Boffi et al. 2025,
arXiv:2505.18825). The same y and ε at s in the place of the step, as in that first paper, would do as well with ever more
intervals, but few of them blur: on fashion-mnist, 700 steps, one jump had a Fréchet distance of 72 so, of 50 with the flow.

A grid of few intervals is learned soon and one of many is exact: they double whenever the steps trained are four times as many,
2 at first, 4 from step 248, 8 from step 992, … unless ``intervals`` says how many. The distance, and θ⁻ without averaging, are
those of Song & Dhariwal 2023, arXiv:2310.14189; ``c`` is per coordinate of deviation 1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Points, Schema
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.models.path import SAMPLING, TRAINING, PathModel, Sampling, Training
from pushforward.paths.prediction import from_pair, to_pair
from pushforward.paths.schedule import Rectified
from pushforward.paths.weighting import weight

_FIRST = 62  # a quarter of the steps that are trained on the first grid


class ConsistencyModel(PathModel):
    """A ``net`` of twice the channels of ``shape``, v or velocity of the jump and of the flow on the rectified path; it is
    sampled by jumps alone.

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
        self.halved = 2 if isinstance(schema.example, Points) else 1  # jumps, and then the flow
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
        context = self.conditioner(batch.condition or None, len(y), self.dropped(draws))
        x = over((1 - t).to(y.dtype), y) * y + over(t.to(y.dtype), y) * noise
        jump, flow = self._said(x, t, context)
        with torch.no_grad():
            start, ahead = to_pair(self.learning.prediction, flow, x, self.schedule, t)
            x_s = x - over((t - s).to(y.dtype), y) * (ahead - start)
            end = self._end(self._said(x_s, s, context)[0], x_s, s)
        target = from_pair(self.learning.prediction, y.double(), noise.double(), self.schedule, t).to(y.dtype)
        weights = weight(self._weighting, self.learning.prediction, self.schedule, t).to(y.dtype)
        loss = weights * (flow - target).square().flatten(1).mean(1)
        apart = self.apart(self._end(jump, x, t), end)
        return {"loss": loss + apart, "flow": loss.detach(), "jump": apart.detach()}

    def _said(self, x: Tensor, t: Tensor, context: Context) -> tuple[Tensor, ...]:
        """What the network says of the jump and of the flow, each (B, *shape), at times t (B,)."""
        scale = ((1 - t).square() + t.square()).rsqrt().to(x.dtype)
        return self.net(over(scale, x) * x, t.to(x.dtype), context).to(x.dtype).chunk(2, self.halved)

    def _end(self, jump: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return to_pair(self.learning.prediction, jump, x, self.schedule, t)[0]
