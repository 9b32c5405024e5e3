"""Sinkhorn's potentials against the conditions that define them, whatever ε and the weights."""

from __future__ import annotations

import pytest
import torch

from pushforward.algorithms import entropic_transport
from pushforward.algorithms.entropic_transport import sinkhorn_potentials, symmetric_potential


def problems(seed: int, count: int, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 5 * torch.rand(count, n, m, generator=generator, dtype=torch.float64)
    a, b = (torch.rand(count, k, generator=generator, dtype=torch.float64) + 0.1 for k in (n, m))
    return cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)


@pytest.mark.parametrize("epsilon", [1e4, 1.0, 0.05, 0.004])
def test_the_plan_has_both_marginals_and_the_dual_meets_the_primal(epsilon: float) -> None:
    cost, a, b = problems(0, 3, 13, 9)
    scale = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64) * epsilon
    found = sinkhorn_potentials(cost, a, b, scale, tolerance=1e-9, iterations=100_000)
    log_ratio = (found.f[:, :, None] + found.g[:, None, :] - cost) / scale[:, None, None]
    plan = a[:, :, None] * b[:, None, :] * log_ratio.exp()
    assert float(found.error.max()) <= 1e-9
    assert (plan.sum(2) - a).abs().sum(1) == pytest.approx(found.error, abs=1e-12)
    assert plan.sum(1) == pytest.approx(b, abs=1e-12)
    primal = (plan * cost).sum((1, 2)) + scale * (plan * log_ratio).sum((1, 2))
    dual = (a * found.f).sum(1) + (b * found.g).sum(1)
    assert dual == pytest.approx(primal, rel=1e-7)


def test_each_problem_is_solved_as_if_alone() -> None:
    cost, a, b = problems(1, 7, 8, 8)
    scale = torch.logspace(-2.5, 1, 7, dtype=torch.float64)  # they end after very different numbers of iterations
    together = sinkhorn_potentials(cost, a, b, scale, tolerance=1e-10, iterations=100_000)
    assert len(set(together.iterations.tolist())) > 3
    for i in range(7):
        alone = sinkhorn_potentials(cost[i : i + 1], a[i : i + 1], b[i : i + 1], scale[i : i + 1], 1e-10, 100_000)
        value = lambda p, at, i=i: float(a[i] @ p.f[at] + b[i] @ p.g[at])
        assert value(together, i) == pytest.approx(value(alone, 0), rel=1e-8)
        assert float(together.error[i]) <= 1e-10


def test_absorbing_often_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cost, a, b = problems(2, 2, 10, 12)
    scale = torch.full((2,), 0.02, dtype=torch.float64)
    seldom = sinkhorn_potentials(cost, a, b, scale, 1e-9, 100_000)
    monkeypatch.setattr(entropic_transport, "_GROWTH", 2.0)
    often = sinkhorn_potentials(cost, a, b, scale, 1e-9, 100_000)
    assert float(often.error.max()) <= 1e-9
    for one, other in ((seldom, often),):
        assert (a * one.f).sum(1) + (b * one.g).sum(1) == pytest.approx((a * other.f).sum(1) + (b * other.g).sum(1), rel=1e-7)


def test_over_relaxation_saves_most_of_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    cost, a, b = problems(3, 1, 40, 40)
    scale = torch.tensor([0.02], dtype=torch.float64)
    quick = sinkhorn_potentials(cost, a, b, scale, 1e-9, 100_000)
    monkeypatch.setattr(entropic_transport, "_NEAR", 0.0)
    plain = sinkhorn_potentials(cost, a, b, scale, 1e-9, 100_000)
    assert int(quick.iterations) * 3 < int(plain.iterations)
    assert float(quick.error) <= 1e-9


def test_iterations_end_where_they_are_told_to() -> None:
    cost, a, b = problems(4, 2, 20, 20)
    found = sinkhorn_potentials(cost, a, b, torch.full((2,), 1e-4, dtype=torch.float64), 1e-12, 50)
    assert int(found.iterations.max()) < 70
    assert float(found.error.min()) > 1e-12
    assert found.f.isfinite().all()
    assert found.g.isfinite().all()


@pytest.mark.parametrize("epsilon", [100.0, 0.3, 1e-4])
def test_a_set_with_itself_has_one_potential_in_a_few_steps(epsilon: float) -> None:
    points = torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cost = torch.cdist(points, points).square()
    _, a, _ = problems(5, 2, 25, 25)
    scale = torch.full((2,), epsilon, dtype=torch.float64)
    f, error = symmetric_potential(cost, a, scale, 1e-9, 40)
    plan = a[:, :, None] * a[:, None, :] * ((f[:, :, None] + f[:, None, :] - cost) / epsilon).exp()
    assert float(error.max()) <= 1e-9
    assert plan.sum(1) == pytest.approx(a, abs=1e-9)
    if epsilon > 0.1:
        found = sinkhorn_potentials(cost, a, a, scale, 1e-9, 100_000)
        assert 2 * (a * f).sum(1) == pytest.approx((a * (found.f + found.g)).sum(1), rel=1e-7)
