"""Flows between two sets of data against the closed form between two normals, and the objective written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Schema, Vector
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.models.path import Kept, Sampling, Training
from pushforward.models.transport import Transport
from pushforward.paths.prediction import from_pair
from pushforward.paths.schedule import EDM, VP, Angle, Polynomial, Rectified, Schedule
from pushforward.solvers.choice import Adaptive

WIDE = torch.float64
# data of mean m and deviation s, the source of mean n and deviation r, in each of two coordinates
M, S = torch.tensor([2.0, -1.0], dtype=WIDE), torch.tensor([0.5, 1.5], dtype=WIDE)
N, R = torch.tensor([-3.0, 0.5], dtype=WIDE), torch.tensor([1.2, 0.3], dtype=WIDE)


class Exact(nn.Module):
    """v of independent normals y ~ N(m, s²) and y' ~ N(n, r²): both given x_t are linear in it."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.unused = schedule, nn.Parameter(torch.zeros((), dtype=WIDE))

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        t = clock.double()
        alpha, sigma = (over(f(t), x) for f in (self.schedule.alpha, self.schedule.sigma))
        place = x * (alpha.square() + sigma.square()).sqrt()
        rest = (place - alpha * M - sigma * N) / (alpha.square() * S.square() + sigma.square() * R.square())
        y, other = M + alpha * S.square() * rest, N + sigma * R.square() * rest
        return from_pair("v", y, other, self.schedule, t) + 0 * self.unused


def build(net: nn.Module, schedule: Schedule | None = None, rows: Tensor | None = None, **how: Any) -> Transport:
    rows = N + R * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=WIDE) if rows is None else rows
    source = Kept(len(rows), (2,), WIDE)
    source.codes.copy_(rows)
    columns = how.pop("conditions", ())
    schedule = schedule or Rectified()
    how.setdefault("sampling", Sampling("rk4", 50))
    schema = Schema(Vector(2), columns)
    return Transport(
        schema, Compose([]), net, Conditioner(columns, 4), schedule, (2,), source, solve=Adaptive(1e-8), **how
    ).double()


@pytest.mark.parametrize("schedule", [Rectified(), Polynomial(2.0), Angle()], ids=["rectified", "polynomial", "angle"])
@pytest.mark.parametrize("sampler", ["heun", "dpm++2m", "ddim"])
def test_normals_are_carried_to_one_another(schedule: Schedule, sampler: str) -> None:
    """A flow in one dimension keeps the order, so that between normals it is m + s (x − n)/r, whichever path it takes."""
    model = build(Exact(schedule), schedule).eval()
    start = N + R * torch.randn(50, 2, dtype=WIDE)
    steps = 4000 if sampler == "ddim" else 400
    with torch.no_grad():
        end = model.sample(50, None, Draws(0, 0, 50), start=start, sampler=sampler, steps=steps)
    torch.testing.assert_close(end, M + S * (start - N) / R, atol=5e-3, rtol=1e-3)


def test_encoding_is_the_way_back() -> None:
    model = build(Exact(Rectified())).eval()
    x = M + S * torch.randn(50, 2, dtype=WIDE)
    with torch.no_grad():
        code = model.encode(x)
        torch.testing.assert_close(code, N + R * (x - M) / S, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.sample(50, None, Draws(0, 0, 50), start=code, steps=100), x, atol=1e-5, rtol=1e-5)


def test_samples_start_from_rows_that_are_kept_each_as_often() -> None:
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=WIDE)
    model = build(Exact(Rectified()), rows=rows)
    begun = model.starts(Draws(3, 0, 9000))
    values, counts = begun.unique(dim=0, return_counts=True)
    assert torch.equal(values, rows)
    assert ((counts - 3000).abs() < 5 * 45).all()
    assert torch.equal(model.starts(Draws(3, 100, 200, 9000)), begun[100:200])
    with torch.no_grad():
        drawn = model.sample(9000, None, Draws(3, 0, 9000), steps=5)
    assert len(drawn.unique(dim=0)) == 3


def test_the_loss_is_the_velocity_between_pairs() -> None:
    """A net of zeros says v = 0: with the weight of the velocity, what it errs is y' − y less what v = 0 makes of x_t."""
    model = build(_Zero(), training=Training("velocity"))
    x, draws = M + S * torch.randn(5000, 2, dtype=WIDE), Draws(5, 0, 5000)
    loss = model(Batch(x, draws))["loss"].detach()
    again = Draws(5, 0, 5000)
    again.stratified(dtype=WIDE)
    torch.testing.assert_close(loss, (model.starts(again) - x).square().mean(1))


class _Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=WIDE))

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        return 0 * x + 0 * self.unused


@pytest.mark.parametrize("told", [False, True])
def test_optimal_transport_pairs_what_is_near(told: bool) -> None:
    """In all, and under conditions within each: a pair keeps the condition that its source row was dealt with."""
    column = Column("side", ColumnKind.CATEGORY, categories=("a", "b"))
    how: dict[str, Any] = {"conditions": (column,)} if told else {}
    seen: list[tuple[Tensor, Tensor]] = []
    for coupling in ("independent", "ot"):
        model = build(_Zero(), training=Training("velocity", coupling=coupling), **how)
        condition = {"side": (torch.arange(256) % 2).double()} if told else {}
        x = M + S * torch.randn(256, 2, generator=torch.Generator().manual_seed(1), dtype=WIDE)
        seen.append(model(Batch(x, Draws(5, 0, 256), condition))["loss"].detach())  # type: ignore[arg-type]
    apart, near = (float(loss.mean()) for loss in seen)
    # E |y' − y|² of independent normals, and of the best plan, ((m − n)² + (s − r)²), per coordinate
    assert apart == pytest.approx(float(((M - N).square() + S.square() + R.square()).mean()), rel=0.1)
    assert near == pytest.approx(float(((M - N).square() + (S - R).square()).mean()), rel=0.1)


def test_what_puts_noise_back_is_refused() -> None:
    model = build(Exact(Rectified()))
    for name in ("ddpm", "edm", "euler-maruyama", "pc", "dpm++sde", "consistency"):
        with pytest.raises(RecipeError, match=f"{re_escaped(name)} is no sampler of this model: use euler"):
            model.sample(2, None, Draws(0, 0, 2), sampler=name)
    for schedule in (VP(), EDM()):
        with pytest.raises(ValueError, match="whole at both ends"):
            build(Exact(schedule), schedule)


def re_escaped(name: str) -> str:
    import re

    return re.escape(name)
