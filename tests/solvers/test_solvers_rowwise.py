"""Rows with steps of their own, against closed forms, the matrix exponential and themselves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.core.errors import PushforwardError
from pushforward.solvers.rowwise import rowwise

WIDE = torch.float64
A = torch.tensor([[-0.6, 2.1, 0.3], [-1.7, 0.2, 0.4], [0.1, -0.5, -1.1]], dtype=WIDE)
BOTH = pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])


def rates(n: int) -> Tensor:
    """From idle rows to fast ones, in no order."""
    return torch.linspace(0, 12, n, dtype=WIDE)[torch.randperm(n, generator=torch.Generator().manual_seed(1))]


def turning(t: Tensor, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """dy/dt = r (1 + 0.6 cos 3t) A y, each row with its own r: y(b) = expm(r A (clock b − clock a)) y(a)."""
    return (given[0] * (1 + 0.6 * torch.cos(3 * t)))[:, None] * (y @ A.T.to(y))


def truth(y: Tensor, rate: Tensor, start: float, stop: float) -> Tensor:
    clock = lambda t: t + 0.2 * math.sin(3 * t)
    maps = torch.linalg.matrix_exp(rate.double()[:, None, None] * A * (clock(stop) - clock(start)))
    return (maps @ y.double()[..., None])[..., 0]


def growth(t: Tensor, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """d/dt of |y|² and of t y₁ along the way, (A, 2)."""
    slope = turning(t, y, given)
    return torch.stack([2 * (y * slope).sum(1), y[:, 0] + t * slope[:, 0]], 1)


@BOTH
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_every_row_reaches_the_tolerance(ends: tuple[float, float], tolerance: float) -> None:
    y, rate = torch.randn(40, 3, dtype=WIDE), rates(40)
    solution = rowwise(turning, y, *ends, given=(rate,), rtol=tolerance, atol=tolerance)
    exact = truth(y, rate, *ends)
    error = (solution.state[0] - exact).abs().amax(1) / (1 + exact.abs().amax(1))
    assert float(error.max()) < 30 * tolerance
    assert solution.integral is None
    assert solution.evaluations == 2 + 6 * solution.steps


@BOTH
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_integrals_reach_the_tolerance(ends: tuple[float, float], tolerance: float) -> None:
    y, rate = torch.randn(40, 3, dtype=WIDE), rates(40) / 4
    start, stop = ends
    solution = rowwise(turning, y, start, stop, given=(rate,), integrand=growth, rtol=tolerance, atol=tolerance)
    end = truth(y, rate, start, stop)
    exact = torch.stack([end.square().sum(1) - y.square().sum(1), stop * end[:, 0] - start * y[:, 0]], 1)
    assert solution.integral is not None
    assert float(((solution.integral - exact).abs() / (1 + exact.abs())).max()) < 30 * tolerance


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    y, rate = torch.randn(17, 3, dtype=WIDE), rates(17)
    together = rowwise(turning, y, 0.0, 1.0, given=(rate,), integrand=growth)
    for some in (slice(3, 4), slice(5, 12)):
        apart = rowwise(turning, y[some], 0.0, 1.0, given=(rate[some],), integrand=growth)
        torch.testing.assert_close(apart.state[0], together.state[0][some], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(apart.integral, together.integral[some], rtol=1e-12, atol=1e-12)


def test_rows_that_are_done_cost_nothing_more() -> None:
    asked = []

    def counted(t: Tensor, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        asked.append(len(y))
        return turning(t, y, given)

    rate = torch.full((64,), 0.5, dtype=WIDE)
    rate[10] = 40.0
    rowwise(counted, torch.randn(64, 3, dtype=WIDE), 0.0, 1.0, given=(rate,))
    assert asked[0] == 64
    assert asked[-1] == 1
    assert sum(n > 1 for n in asked) < len(asked) / 2


def test_extreme_rows_beside_ordinary_ones_in_float32() -> None:
    y = torch.randn(6, 3)
    y[1], y[4] = 1e30, -1e4
    bounded = lambda t, y, given: torch.tanh(y.roll(1, 1) + t[:, None])
    solution = rowwise(bounded, y, 0.0, 1.0, integrand=lambda t, y, given: 1 - torch.tanh(y[:, 0]).square())
    assert solution.state[0].dtype == torch.float32
    assert solution.state[0].isfinite().all()
    assert solution.integral.isfinite().all()
    assert solution.integral.shape == (6,)
    back = rowwise(bounded, solution.state[0], 1.0, 0.0).state[0]
    assert float(((back - y) / (1 + y.abs())).abs().max()) < 1e-4


def test_no_rows_no_time_no_motion() -> None:
    empty = rowwise(lambda t, y, given: y, torch.zeros(0, 3), 0.0, 1.0)
    assert empty.state[0].shape == (0, 3)
    y = torch.randn(5, 3)
    assert torch.equal(rowwise(lambda t, y, given: y, y, 0.5, 0.5).state[0], y)
    still = rowwise(lambda t, y, given: torch.zeros_like(y), y, 0.0, 1.0, integrand=lambda t, y, given: 1 + t)
    assert torch.equal(still.state[0], y)
    torch.testing.assert_close(still.integral, torch.full((5,), 1.5))
    assert still.steps == 1


def test_rows_of_any_shape() -> None:
    y = torch.randn(3, 2, 2, dtype=WIDE)
    solution = rowwise(lambda t, y, given: -y, y, 0.0, 1.0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.state[0], y * math.exp(-1), rtol=1e-8, atol=1e-8)


def test_hopeless_fields_end_in_a_message() -> None:
    y = torch.ones(3, 1, dtype=WIDE)
    with pytest.raises(PushforwardError, match=r"took 20 steps and stands at t = .* of 1: the field is stiff"):
        rowwise(lambda t, y, given: -1e5 * y, y, 0.0, 1.0, max_steps=20)
    with pytest.raises(PushforwardError, match=r"took 62 evaluations"):
        rowwise(lambda t, y, given: -1e5 * y, y, 0.0, 1.0, max_evaluations=60)
    with pytest.raises(PushforwardError, match="non-finite state at t = 0:"):
        rowwise(lambda t, y, given: y * math.nan, y, 0.0, 1.0)
    with pytest.raises(PushforwardError, match=r"non-finite state at t = 0\.5"):
        rowwise(lambda t, y, given: torch.where(t > 0.5, math.nan, t)[:, None] * y, y, 0.0, 1.0)
    with pytest.raises(PushforwardError, match=r"took 1000 steps and stands at t = (0\.9|1)"):
        rowwise(lambda t, y, given: y.square(), y, 0.0, 2.0)
    with pytest.raises(ValueError, match="no error estimate"):
        rowwise(lambda t, y, given: y, y, 0.0, 1.0, method="rk4")
