"""From one set of data to another: flow matching whose paths start from examples instead of noise.

    x_t = α(t) y + σ(t) y',   y of the data, y' of the source, coupled at random or by optimal transport
    dx/dt = E[α' y + σ' y' | x_t]                    (Tong et al. 2023, arXiv:2302.00482; Liu et al. 2022, arXiv:2209.03003)

The flow carries the one distribution to the other, and with optimal transport every example to one that is near: cells a day
later, a summer's picture in winter. Nothing needs to be paired. A source that is known by its examples has no density, and so
has what it is carried to; encoding is the way back.
"""

from __future__ import annotations

from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.model import Batch, Encodes
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.diffusion import flow_of
from pushforward.models.path import SAMPLING, TRAINING, Kept, PathModel, Sampling, Training, lost
from pushforward.paths.schedule import Schedule
from pushforward.solvers.choice import Adaptive, Choice

_SOLVE = Adaptive(1e-4)


class Transport(PathModel, Encodes):
    """A path between data and the examples that ``source`` keeps; ``solve`` says how to go back."""

    sampled_by = ("flow", "multistep")

    def __init__(
        self,
        schema: Schema,
        preprocess: Compose,
        net: nn.Module,
        conditioner: Conditioner,
        schedule: Schedule,
        shape: tuple[int, ...],
        source: Kept,
        *,
        training: Training = TRAINING,
        sampling: Sampling = SAMPLING,
        solve: Choice = _SOLVE,
    ) -> None:
        if not (schedule.regular and lost(schedule)):
            raise ValueError(f"paths between data are whole at both ends, found {type(schedule).__name__}")
        super().__init__(
            schema, preprocess, net, conditioner, schedule, shape, training=training, sampling=sampling, source=source
        )
        self.backwards = solve

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return self.matched(batch)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Where in the source the flow carries x from, (B, D) in the coordinates of the preprocessing."""
        y = self.preprocess.pull(x)[0].to(self.dtype)
        return flow_of(self, self.backwards).encode(y, self.conditioner(condition, len(y))).flatten(1)
