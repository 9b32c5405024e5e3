"""Flow matching beside torchcfm, value by value. Its time runs from noise at 0 to data at 1, ours the other way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchcfm import conditional_flow_matching as peer

from gaussians import WIDE
from pushforward.core.context import Conditioner, Context
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.diffusion import Diffusion
from pushforward.models.path import Training
from pushforward.paths.prediction import from_pair
from pushforward.paths.schedule import Angle, Rectified, Schedule

PATHS = [(peer.ConditionalFlowMatcher, Rectified()), (peer.VariancePreservingConditionalFlowMatcher, Angle())]


@pytest.mark.parametrize(("matcher", "schedule"), PATHS)
def test_places_and_targets(matcher: type, schedule: Schedule) -> None:
    data, noise, t = torch.randn(30, 4, dtype=WIDE), torch.randn(30, 4, dtype=WIDE), torch.rand(30, dtype=WIDE)
    _, place, flow = matcher(sigma=0.0).sample_location_and_conditional_flow(noise, data, t=t)
    ours = 1 - t
    torch.testing.assert_close(schedule.alpha(ours)[:, None] * data + schedule.sigma(ours)[:, None] * noise, place)
    torch.testing.assert_close(-from_pair("velocity", data, noise, schedule, ours), flow)


class Field(nn.Module):
    """A velocity v(x, t) as the network that a model asks: x on the circle, times the clock."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.weight = schedule, nn.Parameter(torch.ones((), dtype=WIDE))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        s = (self.schedule.alpha(t) ** 2 + self.schedule.sigma(t) ** 2).sqrt()[:, None]
        self.seen.append((x * s, t))
        return self.weight * field(x * s, t)


def field(x: Tensor, t: Tensor) -> Tensor:
    return (1.3 * x).sin() + t[:, None] * x.flip(1)


@pytest.mark.parametrize(("matcher", "schedule"), PATHS)
def test_the_objective_of_the_same_rows_times_and_noise(matcher: type, schedule: Schedule) -> None:
    net = Field(schedule)
    training = Training(prediction="velocity", weighting="velocity")
    model = Diffusion(Schema(Vector(4)), Compose([]), net, Conditioner(()), schedule, (4,), training=training).double()
    x = torch.randn(50, 4, dtype=WIDE)
    found = model(Batch(x, Draws(3, 0, 50)))["loss"]
    place, t = net.seen[0]
    noise = (place - schedule.alpha(t)[:, None] * x) / schedule.sigma(t)[:, None]
    _, theirs, flow = matcher(sigma=0.0).sample_location_and_conditional_flow(noise, x, t=1 - t)
    torch.testing.assert_close(theirs, place)
    torch.testing.assert_close(found, (-field(theirs, t) - flow).square().mean(1))
