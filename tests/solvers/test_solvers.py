"""Solvers against the matrix exponential."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.core.errors import PushforwardError
from pushforward.solvers import ode

WIDE = torch.float64
A = torch.tensor([[-0.6, 2.1, 0.3], [-1.7, 0.2, 0.4], [0.1, -0.5, -1.1]], dtype=WIDE)


def clock(t: Tensor) -> Tensor:
    """∫ (1 + 0.6 cos 3t) dt, the time of a linear system whose speed changes: exact solution expm(A (clock b − clock a))."""
    return t + 0.2 * torch.sin(3 * t)


def linear(t: Tensor, state: ode.State) -> ode.State:
    return tuple((1 + 0.6 * torch.cos(3 * t)) * (y @ A.T) for y in state)


def truth(y: Tensor, start: float, stop: float) -> Tensor:
    span = clock(torch.tensor(stop, dtype=WIDE)) - clock(torch.tensor(start, dtype=WIDE))
    return y @ torch.linalg.matrix_exp(A * span).T


@pytest.mark.parametrize("method", ode.METHODS)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_order_of_convergence(method: str, ends: tuple[float, float]) -> None:
    y = torch.randn(4, 3, dtype=WIDE)
    steps = [8, 16, 32] if method == "dopri5" else [32, 64, 128]
    errors = []
    for n in steps:
        (end,) = ode.fixed(linear, (y,), torch.linspace(*ends, n + 1, dtype=WIDE), method)
        errors.append(float((end - truth(y, *ends)).norm()))
    slope = math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])
    assert slope == pytest.approx(ode.METHODS[method].order, abs=0.3)


@pytest.mark.parametrize("method", ode.METHODS)
def test_tableaus_are_consistent(method: str) -> None:
    tableau = ode.METHODS[method]
    assert sum(tableau.b) == pytest.approx(1, abs=1e-14)
    for node, row in zip(tableau.c, tableau.a, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    # order conditions Σ b cᵏ = 1/(k + 1) of quadrature
    for k in range(tableau.order):
        assert sum(b * c**k for b, c in zip(tableau.b, tableau.c, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-13)
    if tableau.error is not None:
        # the embedded method is of one order less, so its difference annihilates polynomials of degree below that
        for k in range(tableau.order - 1):
            assert sum(e * c**k for e, c in zip(tableau.error, tableau.c, strict=True)) == pytest.approx(0, abs=1e-14)
        assert abs(sum(e * c ** (tableau.order - 1) for e, c in zip(tableau.error, tableau.c, strict=True))) > 1e-4


def test_a_grid_need_not_be_even_and_costs_what_it_says() -> None:
    calls = []

    def counted(t: Tensor, state: ode.State) -> ode.State:
        calls.append(float(t))
        return linear(t, state)

    y = torch.randn(2, 3, dtype=WIDE)
    grid = torch.linspace(0, 1, 41, dtype=WIDE) ** 1.5
    (end,) = ode.fixed(counted, (y,), grid, "rk4")
    assert len(calls) == 40 * 4
    assert max(calls) <= 1
    torch.testing.assert_close(end, truth(y, 0, 1), rtol=1e-5, atol=1e-6)


def test_states_are_tuples_that_move_together() -> None:
    y, z = torch.randn(2, 3, dtype=WIDE), torch.randn(5, 3, dtype=WIDE)
    together = ode.fixed(linear, (y, z), torch.linspace(0, 1, 9, dtype=WIDE), "heun")
    for one, start in zip(together, (y, z), strict=True):
        torch.testing.assert_close(one, ode.fixed(linear, (start,), torch.linspace(0, 1, 9, dtype=WIDE), "heun")[0])


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_adaptive_reaches_its_tolerance(tolerance: float, ends: tuple[float, float]) -> None:
    y = torch.randn(4, 3, dtype=WIDE)
    solution = ode.adaptive(linear, (y,), *ends, rtol=tolerance, atol=tolerance)
    error = float((solution.state[0] - truth(y, *ends)).abs().max())
    assert error < 10 * tolerance
    assert solution.evaluations == 2 + 6 * solution.steps


def test_adaptive_works_harder_for_less_error_and_no_harder() -> None:
    y = torch.randn(4, 3, dtype=WIDE)
    solutions = [ode.adaptive(linear, (y,), 0, 1, rtol=r, atol=r) for r in (1e-3, 1e-6, 1e-9)]
    costs = [s.steps for s in solutions]
    assert costs[0] < costs[1] < costs[2]
    # the error of a step is h⁵: a thousandth of the tolerance takes four times the steps
    assert 2.5 < costs[2] / costs[1] < 5.5
    errors = [float((s.state[0] - truth(y, 0, 1)).abs().max()) for s in solutions]
    assert errors[2] > 1e-3 * 1e-9, "far more work than was asked for"


def test_rejected_steps_are_counted_and_taken_back() -> None:
    bump = lambda t, s: ((1 + 300 * torch.exp(-((t - 0.6) ** 2) / 2e-4)) * s[0],)
    exact = math.exp(1 + 300 * math.sqrt(2e-4 * math.pi) * (math.erf(0.6 / 2e-4**0.5) + math.erf(0.4 / 2e-4**0.5)) / 2)
    solution = ode.adaptive(bump, (torch.ones(1, 1, dtype=WIDE),), 0.0, 1.0, rtol=1e-8, atol=1e-8)
    assert solution.rejected > 0
    assert float(solution.state[0]) == pytest.approx(exact, rel=1e-6)


# states between the steps


@pytest.mark.parametrize(("method", "order"), [("euler", 2), ("midpoint", 3), ("heun", 3), ("rk4", 4), ("dopri5", 5)])
def test_order_of_the_states_between(method: str, order: int) -> None:
    """The error within one step of size h falls as h to this power, wherever in the step."""
    tableau, y, start = ode.METHODS[method], torch.randn(4, 3, dtype=WIDE), 0.3
    for theta in (0.25, 0.63):
        errors, sizes = [], (0.2, 0.1, 0.05)
        for h in sizes:
            slopes: list[ode.State] = []
            for node, row in zip(tableau.c, tableau.a, strict=True):
                place = y + h * sum((a * k[0] for a, k in zip(row, slopes, strict=False)), torch.zeros_like(y))
                slopes.append(linear(torch.tensor(start + node * h, dtype=WIDE), (place,)))
            found = y + h * sum(b * k[0] for b, k in zip(tableau.between(theta), slopes, strict=True))
            errors.append(float((found - truth(y, start, start + theta * h)).norm()))
        assert math.log(errors[0] / errors[-1]) / math.log(4) == pytest.approx(order, abs=0.4)


@pytest.mark.parametrize("method", ode.METHODS)
def test_states_between_join_the_ends(method: str) -> None:
    tableau = ode.METHODS[method]
    assert tableau.between(0.0) == pytest.approx([0.0] * len(tableau.b))
    assert tableau.between(1.0) == pytest.approx(tableau.b, abs=1e-12)
    for theta in (0.1, 0.37, 0.8):  # Σ b(θ) cᵏ = θᵏ⁺¹/(k + 1)
        for k in range(max(1, tableau.order - 1)):
            total = sum(b * c**k for b, c in zip(tableau.between(theta), tableau.c, strict=True))
            assert total == pytest.approx(theta ** (k + 1) / (k + 1), abs=1e-13)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_states_at_asked_times_cost_nothing(ends: tuple[float, float]) -> None:
    y, start, stop = torch.randn(4, 3, dtype=WIDE), *ends
    times = [start + (stop - start) * u for u in (0.0, 0.0, 0.013, 0.2, 0.5, 0.77, 1.0)]
    plain = ode.adaptive(linear, (y, 2 * y), start, stop, rtol=1e-7, atol=1e-7)
    solution = ode.adaptive(linear, (y, 2 * y), start, stop, rtol=1e-7, atol=1e-7, at=times)
    assert (solution.evaluations, solution.steps) == (plain.evaluations, plain.steps)
    assert solution.states[0].shape == (7, 4, 3)
    for t, state, double in zip(times, *solution.states, strict=True):
        assert float((state - truth(y, start, t)).abs().max()) < 1e-5
        torch.testing.assert_close(double, 2 * state)
    assert torch.equal(solution.states[0][-1], solution.state[0])
    with pytest.raises(ValueError, match="in order"):
        ode.adaptive(linear, (y,), start, stop, at=(times[3], times[2]))


# integrals along the way


def energy(t: Tensor, state: ode.State) -> Tensor:
    """d/dt of t |y|² along the way."""
    (y,) = state
    return y.square().sum(1) + 2 * t * (y * linear(t, state)[0]).sum(1)


@pytest.mark.parametrize("method", ode.METHODS)
def test_order_of_integrals_along_the_way(method: str) -> None:
    y = torch.randn(4, 3, dtype=WIDE)
    exact = 1.5 * truth(y, 0, 1.5).square().sum(1)
    steps = [8, 16, 32] if method == "dopri5" else [32, 64, 128]
    errors = []
    for n in steps:
        solution = ode.follow(linear, (y,), torch.linspace(0, 1.5, n + 1, dtype=WIDE), method, integrand=energy)
        errors.append(float((solution.integral - exact).norm()))
        assert solution.evaluations == n * len(ode.METHODS[method].c)
    slope = math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])
    assert slope > ode.METHODS[method].order - 0.3


def test_gauss_rules_are_exact_for_polynomials() -> None:
    for points in (1, 2, 3, 4):
        rule = ode.METHODS["dopri5"].gauss[points]
        for k in range(2 * points):
            assert sum(weight * theta**k for theta, weight, _ in rule) == pytest.approx(1 / (k + 1), abs=1e-14)
        assert all(row == ode.METHODS["dopri5"].between(theta) for theta, _, row in rule)


def test_adaptive_counts_every_evaluation() -> None:
    calls = []

    def counted(t: Tensor, state: ode.State) -> ode.State:
        calls.append(t)
        return linear(t, state)

    solution = ode.adaptive(counted, (torch.randn(2, 3, dtype=WIDE),), 0, 1)
    assert len(calls) == solution.evaluations


def test_adaptive_in_float32() -> None:
    y = torch.randn(4, 3)
    solution = ode.adaptive(
        lambda t, s: ((1 + 0.6 * torch.cos(3 * t)) * (s[0] @ A.float().T),), (y,), 0.0, 1.0, rtol=1e-4, atol=1e-4
    )
    assert solution.state[0].dtype == torch.float32
    assert float((solution.state[0] - truth(y.double(), 0, 1)).abs().max()) < 1e-3


def test_stiff_fields_end_in_a_message() -> None:
    with pytest.raises(PushforwardError, match=r"took 20 steps and stands at t = .* of 1") as caught:
        ode.adaptive(lambda t, s: (-1e5 * s[0],), (torch.ones(1, 1, dtype=WIDE),), 0.0, 1.0, max_steps=20)
    assert "\n" not in str(caught.value)


def test_too_many_evaluations_end_in_a_message() -> None:
    with pytest.raises(PushforwardError, match=r"took 62 evaluations and stands at t = .* of 0\.5"):
        ode.adaptive(lambda t, s: (-1e5 * s[0],), (torch.ones(1, 1, dtype=WIDE),), 0.0, 0.5, max_evaluations=60)


def test_explosions_end_in_a_message() -> None:
    with pytest.raises(PushforwardError, match=r"vanish at t = 1 of 2: the solution grows without bound"):
        ode.adaptive(lambda t, s: (s[0].square(),), (torch.ones(1, 1, dtype=WIDE),), 0.0, 2.0)
    with pytest.raises(PushforwardError, match="non-finite state at t = 0"):
        ode.adaptive(lambda t, s: (s[0] * math.nan,), (torch.ones(1, 1, dtype=WIDE),), 0.0, 1.0)


def test_methods_without_error_estimate_cannot_adapt() -> None:
    with pytest.raises(ValueError, match="rk4 has no error estimate: use dopri5"):
        ode.adaptive(linear, (torch.ones(1, 3, dtype=WIDE),), 0.0, 1.0, method="rk4")
