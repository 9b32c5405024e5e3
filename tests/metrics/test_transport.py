"""Entropic transport against POT in the log domain, closed forms and exact transport."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.metrics import Estimate, sinkhorn, sinkhorn_divergence, wasserstein_exact

ot = pytest.importorskip("ot")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("p", "epsilon"), [(2, 0.5), (2, 0.02), (1, 0.05), (2, 0.005)])
def test_plan_is_pots_in_the_log_domain(p: float, epsilon: float) -> None:
    x, y = normal(0, 30, 3), normal(1, 24, 3) + 1
    cost = np.linalg.norm(x[:, None] - y[None], axis=2) ** p
    a, b = np.full(30, 1 / 30), np.full(24, 1 / 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ot.sinkhorn(a, b, cost, epsilon * cost.mean(), method="sinkhorn_log", stopThr=1e-10, numItermax=20_000)
    got = sinkhorn(x, y, epsilon, p=p, tolerance=1e-9, iterations=50_000)
    assert bool(got.converged)
    assert np.abs(got.plan() - plan).sum() < 1e-6
    assert float(got.cost) == pytest.approx((plan * cost).sum(), rel=1e-6)
    known = plan[plan > 0]
    entropy = (known * np.log(known * 30 * 24)).sum()
    assert float(got.value) == pytest.approx((plan * cost).sum() + epsilon * cost.mean() * entropy, rel=1e-6)


def test_small_epsilon_neither_under_nor_overflows() -> None:
    x, y = normal(0, 60, 2) * 10, normal(1, 60, 2) * 10 + 500
    exact = wasserstein_exact(x, y) ** 2
    got = sinkhorn(x, y, 1e-5, tolerance=1e-5, iterations=50_000)
    # the plain kernel exp(−C/ε) is zero in every entry
    assert np.exp(-(500**2) / float(got.epsilon)) == 0
    assert bool(got.converged)
    assert exact <= float(got.cost) * (1 + 1e-4)
    assert float(got.cost) == pytest.approx(exact, rel=1e-4)


def test_large_epsilon_is_the_independent_plan() -> None:
    x, y = normal(0, 9, 2), normal(1, 7, 2)
    got = sinkhorn(x, y, 1e6, relative=False)
    assert got.plan() == pytest.approx(np.full((9, 7), 1 / 63), rel=1e-4)


def test_between_normals_it_is_the_closed_form() -> None:
    # one dimension, Janati et al. 2020, arXiv:2006.02572: with σ² = ε/2 and d = √(4 s² t² + σ⁴),
    # OT_ε = (a − b)² + s² + t² − d + σ² (1 − log 2σ² + log(d + σ²))
    s, t, shift, epsilon, n = 1.0, 2.0, 3.0, 1.5, 1500
    sigma2 = epsilon / 2
    d = math.sqrt(4 * s**2 * t**2 + sigma2**2)
    truth = shift**2 + s**2 + t**2 - d + sigma2 * (1 - math.log(2 * sigma2) + math.log(d + sigma2))
    got = sinkhorn(s * normal(0, n, 1), t * normal(1, n, 1) + shift, epsilon, relative=False)
    assert abs(float(got.value) - truth) < 4 * float(got.standard_error) < 0.15 * truth


def test_standard_errors_match_repetition() -> None:
    runs = [sinkhorn(normal(2 * s, 60, 2), normal(2 * s + 1, 50, 2) + 1, 1.0, relative=False) for s in range(120)]
    spread = np.std([float(r.value) for r in runs], ddof=1)
    assert np.mean([float(r.standard_error) for r in runs]) == pytest.approx(spread, rel=0.25)
    both = [sinkhorn_divergence(normal(2 * s, 60, 2), normal(2 * s + 1, 50, 2) + 1, 1.0, relative=False) for s in range(120)]
    spread = np.std([r.value for r in both], ddof=1)
    assert np.mean([r.standard_error for r in both]) == pytest.approx(spread, rel=0.25)


def test_pairs_at_once_are_each_pair_alone() -> None:
    x, y = normal(0, 5, 12, 3), normal(1, 5, 9, 3) + np.arange(5)[:, None, None]
    together, apart = sinkhorn(torch.tensor(x), y), [sinkhorn(a, b) for a, b in zip(x, y, strict=True)]
    assert together.value == pytest.approx([float(a.value) for a in apart], rel=1e-5)
    assert together.plan().shape == (5, 12, 9)
    assert together.plan()[3] == pytest.approx(apart[3].plan(), abs=1e-7)
    divergences = sinkhorn_divergence(x, y)
    assert isinstance(divergences, list)
    assert [d.value for d in divergences] == pytest.approx(
        [sinkhorn_divergence(a, b).value for a, b in zip(x, y, strict=True)], rel=1e-4
    )


def test_divergence_of_equal_and_shifted_sets() -> None:
    x = normal(0, 40, 2)
    same = sinkhorn_divergence(x, x[::-1])
    assert isinstance(same, Estimate)
    assert same.value == pytest.approx(0, abs=1e-5)
    # a shift moves every plan alike: S_ε(x, x + s) = |s|² for squared distances, whatever ε
    for epsilon in (0.3, 3.0):
        shifted = sinkhorn_divergence(x, x + np.array([3.0, 4.0]), epsilon, relative=False, tolerance=1e-7)
        assert shifted.value == pytest.approx(25, rel=1e-6)


def test_divergence_tends_to_the_exact_distance() -> None:
    x, y = normal(0, 50, 2), normal(1, 50, 2) * 2 + 1
    small = sinkhorn_divergence(x, y, 0.002, tolerance=1e-6, iterations=100_000)
    assert small.value == pytest.approx(wasserstein_exact(x, y) ** 2, rel=0.02)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_is_pots(p: int) -> None:
    for n, m in ((60, 60), (40, 25)):
        x, y = normal(n, n, 3), normal(m + 1, m, 3) + 0.5
        cost = np.linalg.norm(x[:, None] - y[None], axis=2) ** p
        truth = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost) ** (1 / p)
        assert wasserstein_exact(x, y, p) == pytest.approx(truth, rel=1e-7)


def test_bad_input() -> None:
    x = normal(0, 6, 2)
    for call in (
        lambda: sinkhorn(x, x[:, :1]),
        lambda: sinkhorn(x[None], x),
        lambda: sinkhorn(x[None], np.stack([x, x])),
        lambda: sinkhorn(x * np.nan, x),
        lambda: sinkhorn(x, x, epsilon=0.0),
        lambda: sinkhorn(x, x, tolerance=-1.0),
        lambda: sinkhorn(np.ones((3, 2)), np.ones((4, 2))),
        lambda: sinkhorn(np.ones((7000, 1)), x[:, :1]),
        lambda: sinkhorn_divergence(x, x + 5, epsilon=1e-6, iterations=10),
    ):
        with pytest.raises(DataError):
            call()
