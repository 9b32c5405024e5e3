"""Rows that share times: against closed forms, the matrix exponential, themselves alone and the steps they would have taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.core.errors import PushforwardError
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.solvers.dyadic import Shared, rounded, shared
from pushforward.solvers.rowwise import rowwise

WIDE = torch.float64
A = torch.tensor([[-0.6, 2.1, 0.3], [-1.7, 0.2, 0.4], [0.1, -0.5, -1.1]], dtype=WIDE)
BOTH = pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (-0.37, 2.9)], ids=["forward", "backward", "off the grid"])


def rates(n: int) -> Tensor:
    """From idle rows to fast ones, in no order."""
    return torch.linspace(0, 6, n, dtype=WIDE)[torch.randperm(n, generator=torch.Generator().manual_seed(1))]


def beforehand(times: Tensor) -> tuple[Tensor, ...]:
    """What the field below makes of times: the speed of its clock, and the times themselves."""
    return 1 + 0.6 * torch.cos(3 * times), times[:, None]


def turning(t: Shared, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """dy/dt = r (1 + 0.6 cos 3t) A y, each row with its own r: y(b) = expm(r A (clock b − clock a)) y(a)."""
    speed, times = t.known
    assert len(t.of) == len(y)
    assert torch.equal(times[:, 0], t.times)
    return (given[0] * speed[t.of])[:, None] * (y @ A.T.to(y))


def growth(t: Shared, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """d/dt of |y|² and of t y₁ along the way, (A, 2)."""
    slope = turning(t, y, given)
    return torch.stack([2 * (y * slope).sum(1), y[:, 0] + t.times[t.of] * slope[:, 0]], 1)


def truth(y: Tensor, rate: Tensor, start: float, stop: float) -> Tensor:
    clock = lambda t: t + 0.2 * math.sin(3 * t)
    maps = torch.linalg.matrix_exp(rate.double()[:, None, None] * A * (clock(stop) - clock(start)))
    return (maps @ y.double()[..., None])[..., 0]


def solved(y: Tensor, rate: Tensor, start: float, stop: float, tolerance: float, **how: Any) -> Any:
    return rowwise(turning, y, start, stop, given=(rate,), beforehand=beforehand, rtol=tolerance, atol=tolerance, **how)


@BOTH
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_every_row_reaches_the_tolerance(ends: tuple[float, float], tolerance: float) -> None:
    y, rate = torch.randn(40, 3, dtype=WIDE), rates(40) / (1 + (ends[1] > 1))
    solution = solved(y, rate, *ends, tolerance)
    exact = truth(y, rate, *ends)
    error = (solution.state[0] - exact).abs().amax(1) / (1 + exact.abs().amax(1))
    assert float(error.max()) < 30 * tolerance
    assert solution.evaluations == 2 + 6 * solution.steps


@BOTH
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_integrals_reach_the_tolerance(ends: tuple[float, float], tolerance: float) -> None:
    y, rate = torch.randn(40, 3, dtype=WIDE), rates(40) / (2 + 2 * (ends[1] > 1))
    start, stop = ends
    solution = solved(y, rate, start, stop, tolerance, integrand=growth)
    end = truth(y, rate, start, stop)
    exact = torch.stack([end.square().sum(1) - y.square().sum(1), stop * end[:, 0] - start * y[:, 0]], 1)
    assert float(((solution.integral - exact).abs() / (1 + exact.abs())).max()) < 100 * tolerance


def test_work_grows_with_the_fifth_root_of_the_tolerance() -> None:
    y, rate = torch.randn(20, 3, dtype=WIDE), torch.full((20,), 4.0, dtype=WIDE)
    few, many = (solved(y, rate, 0.0, 1.0, tolerance).steps for tolerance in (1e-5, 1e-10))
    assert 6 < many / few < 13  # 10 where the method is of order five


@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    y, rate = torch.randn(17, 3, dtype=dtype), rates(17).to(dtype)
    together = solved(y, rate, 0.0, 1.0, 1e-5, integrand=growth)
    near: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12} if dtype == WIDE else {"rtol": 1e-6, "atol": 1e-6}
    for some in (slice(3, 4), slice(5, 12)):
        apart = solved(y[some], rate[some], 0.0, 1.0, 1e-5, integrand=growth)
        torch.testing.assert_close(apart.state[0], together.state[0][some], **near)
        torch.testing.assert_close(apart.integral, together.integral[some], **near)


@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_many_rows_stand_at_few_times(dtype: torch.dtype) -> None:
    asked: list[int] = []

    def counted(times: Tensor) -> tuple[Tensor, ...]:
        asked.append(len(times))
        return beforehand(times)

    y = torch.randn(1000, 3, dtype=dtype)
    rate = 1 + 3 * torch.rand(1000, dtype=dtype)
    found = rowwise(turning, y, 0.0, 1.0, given=(rate,), beforehand=counted)
    alone = rowwise(
        lambda t, y, given: turning(Shared(t, torch.arange(len(y)), beforehand(t)), y, given), y, 0.0, 1.0, given=(rate,)
    )
    assert max(asked) < 6 * 200
    assert found.steps < 1.35 * alone.steps


def test_steps_end_on_the_grid_and_are_never_much_shorter() -> None:
    generator = torch.Generator().manual_seed(3)
    h = 10 ** (-5 * torch.rand(500, generator=generator, dtype=WIDE))
    t = torch.rand(500, generator=generator, dtype=WIDE)
    for way in (1.0, -1.0):
        step = rounded(t, way * h)
        assert bool((step * way >= 0.75 * h - 1e-15).all())
        assert bool((step * way <= h + 1e-15).all())
        grid = 2 ** h.log2().floor() / 4
        places = (t + step) / grid
        torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-9)
    assert torch.equal(rounded(t, torch.zeros_like(t)), torch.zeros_like(t))
    tiny = torch.full((3,), 1e-9)
    assert bool((rounded(torch.ones(3), tiny) > 0).all())  # at a precision that cannot tell t + h from t


@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_times_are_those_of_the_rows(dtype: torch.dtype) -> None:
    t, h = torch.tensor([0.5, 0.25, 0.5, 0.5], dtype=dtype), torch.tensor([-0.25, 0.25, -0.25, 0.125], dtype=dtype)
    nodes = torch.tensor([[0.0], [0.2], [1.0]], dtype=dtype)
    found = shared(lambda times: (times[:, None] * torch.ones(2, dtype=dtype),), t, h, nodes)
    for node, at in zip(nodes, found, strict=True):
        torch.testing.assert_close(at.times[at.of], t + node * h)
        assert len(at.times) == 3
        torch.testing.assert_close(at.known[0], at.times[:, None].expand(-1, 2))


def test_rejected_steps_always_become_shorter() -> None:
    """A kink that is met again and again, at a tolerance that asks for small steps there."""
    kink = lambda t, y, given: (t.times[t.of] > 0.7).to(y)[:, None] * torch.ones_like(y)
    y = torch.randn(5, 2, dtype=WIDE)
    found = rowwise(kink, y, 0.0, 1.0, beforehand=lambda t: (t,), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.state[0], y + 0.3, rtol=0, atol=1e-4)
    assert found.rejected


def test_no_rows_no_time_no_motion() -> None:
    run = lambda y, stop=1.0, **how: rowwise(lambda t, y, given: 0 * y, y, 0.0, stop, beforehand=lambda t: (t,), **how)
    assert run(torch.randn(5, 3), 0.0).steps == 0
    for dtype in (torch.float32, WIDE):
        assert run(torch.zeros(0, 3, dtype=dtype)).state[0].shape == (0, 3)
        y = torch.randn(5, 3, dtype=dtype)
        still = run(y, integrand=lambda t, y, given: 1 + t.times[t.of])
        assert torch.equal(still.state[0], y)
        torch.testing.assert_close(still.integral, torch.full((5,), 1.5, dtype=dtype))
        assert still.steps == 1


@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_hopeless_fields_end_in_a_message(dtype: torch.dtype) -> None:
    y = torch.ones(3, 1, dtype=dtype)
    run = lambda f, stop=1.0, **how: rowwise(f, y, 0.0, stop, beforehand=lambda t: (t,), **how)
    with pytest.raises(PushforwardError, match=r"took 20 steps and stands at t = .* of 1: the field is stiff"):
        run(lambda t, y, given: -1e5 * y, max_steps=20)
    with pytest.raises(PushforwardError, match=r"took 62 evaluations"):
        run(lambda t, y, given: -1e5 * y, max_evaluations=60)
    with pytest.raises(PushforwardError, match="non-finite state at t = 0:"):
        run(lambda t, y, given: y * math.nan)
    with pytest.raises(PushforwardError, match=r"(non-finite state|took 1000 steps and stands) at t = 0\.5"):
        run(lambda t, y, given: torch.where(t.times[t.of] > 0.5, math.nan, 1.0)[:, None] * y)
    with pytest.raises(PushforwardError, match=r"took 1000 steps and stands at t = (0\.9|1)|non-finite state at t = 1"):
        run(lambda t, y, given: y.square(), 2.0)


def test_a_fixed_number_of_steps_asks_at_plain_times() -> None:
    y = torch.randn(4, 2, dtype=WIDE)
    plain = lambda t, y, given: -y * (1 + t)
    found = Fixed("rk4", 8).rows(plain, y, 0.0, 1.0, beforehand=lambda t: (t,)).state[0]
    torch.testing.assert_close(found, y * math.exp(-1.5), rtol=1e-5, atol=1e-5)
    told = lambda t, y, given: -y * (1 + t.times[t.of])[:, None]
    found = Adaptive(1e-8).rows(told, y, 0.0, 1.0, beforehand=lambda t: (t,)).state[0]
    torch.testing.assert_close(found, y * math.exp(-1.5), rtol=1e-7, atol=1e-7)
