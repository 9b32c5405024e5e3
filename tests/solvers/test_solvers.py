"""Solvers against the matrix exponential, divergences against the full Jacobian, schedules against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.core.errors import PushforwardError
from pushforward.core.random import Draws
from pushforward.paths.schedule import SCHEDULES
from pushforward.solvers import divergence, ode

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
    assert solution.evaluations == 1 + 6 * solution.steps


def test_adaptive_works_harder_for_less_error() -> None:
    y = torch.randn(4, 3, dtype=WIDE)
    costs = [ode.adaptive(linear, (y,), 0, 1, rtol=r, atol=r).steps for r in (1e-3, 1e-6, 1e-9)]
    assert costs[0] < costs[1] < costs[2] < 200


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


def test_explosions_end_in_a_message() -> None:
    with pytest.raises(PushforwardError, match=r"non-finite state at t = 1\b|took 1000 steps and stands at t = (0\.99|1\b)"):
        ode.adaptive(lambda t, s: (s[0].square(),), (torch.ones(1, 1, dtype=WIDE),), 0.0, 2.0)
    with pytest.raises(PushforwardError, match="non-finite state at t = 0"):
        ode.adaptive(lambda t, s: (s[0] * math.nan,), (torch.ones(1, 1, dtype=WIDE),), 0.0, 1.0)


def test_methods_without_error_estimate_cannot_adapt() -> None:
    with pytest.raises(ValueError, match="rk4 has no error estimate: use dopri5"):
        ode.adaptive(linear, (torch.ones(1, 3, dtype=WIDE),), 0.0, 1.0, method="rk4")


# divergences


def field(x: Tensor) -> Tensor:
    """A field that mixes all coordinates of (B, 2, 2)."""
    flat = x.flatten(1)
    return (torch.sin(flat @ MIX) * flat.roll(1, 1) + flat**3).view_as(x)


MIX = torch.randn(4, 4, dtype=WIDE, generator=torch.Generator().manual_seed(0))


def trace(x: Tensor) -> Tensor:
    jacobian = [torch.autograd.functional.jacobian(lambda v: field(v[None])[0], row).reshape(4, 4) for row in x]
    return torch.stack(jacobian).diagonal(dim1=1, dim2=2).sum(1)


def test_exact_divergence_is_the_trace_of_the_jacobian() -> None:
    x = torch.randn(6, 2, 2, dtype=WIDE)
    value, found = divergence.exact(field, x)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(found, trace(x))
    assert not found.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(divergence.exact(field, x)[1], trace(x))


def test_hutchinson_is_unbiased_exactly() -> None:
    x = torch.randn(1, 2, 2, dtype=WIDE)
    # the mean over all 2⁴ sign vectors is the expectation
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=WIDE)] * 4).view(16, 2, 2)
    value, found = divergence.hutchinson(field, x.expand(16, -1, -1), probes)
    torch.testing.assert_close(found.mean(), trace(x)[0])
    assert float(found.std()) > 0.1
    torch.testing.assert_close(value[0], field(x)[0])


def test_hutchinson_is_unbiased_with_drawn_signs() -> None:
    n = 4000
    x = torch.randn(1, 2, 2, dtype=WIDE)
    _, found = divergence.hutchinson(field, x.expand(n, -1, -1), Draws(0, 0, n).signs(2, 2, dtype=WIDE))
    assert float(found.mean()) == pytest.approx(float(trace(x)), abs=5 * float(found.std()) / n**0.5)


# schedules


@pytest.mark.parametrize("name", SCHEDULES)
def test_derivatives_of_schedules(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = torch.linspace(0.0, 1, 33, dtype=WIDE).requires_grad_()
    for value, slope in ((schedule.alpha, schedule.d_alpha), (schedule.sigma, schedule.d_sigma)):
        (wanted,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(slope(t).detach(), wanted)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_run_from_data_to_noise(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = torch.linspace(0, 1, 33, dtype=WIDE)
    ends = torch.stack([schedule.alpha(t), schedule.sigma(t)], 1)[[0, -1]]
    torch.testing.assert_close(ends, torch.eye(2, dtype=WIDE), atol=1e-12, rtol=0.0)
    assert (schedule.alpha(t).diff() < 0).all()
    assert (schedule.sigma(t).diff() > 0).all()
