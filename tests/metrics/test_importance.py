"""Weights whose normaliser, effective size and tail are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pushforward.core.errors import DataError
from pushforward.metrics.importance import (
    generalised_pareto,
    importance,
    log_normaliser,
    pareto_k,
    smoothed,
    threshold,
)


def gaussians(n: int, sigma: float, seed: int = 0) -> np.ndarray:
    """log w of p̃ = 7 N(0, σ²) from q = N(0, 1): E w² = ∫ p²/q is finite for σ² < 2."""
    x = np.random.default_rng(seed).normal(size=n)
    return math.log(7) + stats.norm(0, sigma).logpdf(x) - stats.norm.logpdf(x)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0, 1.2])
def test_gaussian_targets(sigma: float) -> None:
    n = 100_000
    found = importance(gaussians(n, sigma))
    assert found.log_normaliser.value == pytest.approx(math.log(7), abs=5 * found.log_normaliser.standard_error + 1e-9)
    # E w² / (E w)² = 1 / (σ √(2 − σ²))
    second = 1 / (sigma * math.sqrt(2 - sigma**2))
    assert found.efficiency == pytest.approx(1 / second, rel=0.03)
    assert found.log_normaliser.standard_error == pytest.approx(math.sqrt((second - 1) / n), rel=0.1, abs=1e-9)
    assert found.trustworthy
    assert "not to be trusted" not in str(found)


def test_the_standard_error_is_that_of_repetitions() -> None:
    found = [importance(gaussians(2000, 0.6, seed)).log_normaliser for seed in range(200)]
    spread = np.std([e.value for e in found], ddof=1)
    assert float(np.mean([e.standard_error for e in found])) == pytest.approx(spread, rel=0.15)


def test_a_perfect_proposal_has_equal_weights() -> None:
    found = importance(torch.full((500,), -3.0))
    assert found.log_normaliser.value == pytest.approx(-3)
    assert found.log_normaliser.standard_error == pytest.approx(0, abs=1e-12)
    assert found.efficiency == pytest.approx(1)
    assert found.k_hat == -math.inf
    assert found.trustworthy


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.6, 1.2])
def test_the_tail_shape_is_that_of_the_distribution(k: float) -> None:
    y = np.sort(stats.genpareto(k, scale=2.5).rvs(4000, random_state=3))
    shape, scale = generalised_pareto(y)
    assert shape == pytest.approx(k, abs=0.06)
    assert scale == pytest.approx(2.5, rel=0.08)
    # few observations are drawn to a half
    assert abs(generalised_pareto(y[::200])[0] - 0.5) < abs(generalised_pareto(y[::4])[0] - 0.5) + 0.2


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_the_tail_of_weights_is_found(k: float) -> None:
    # Pareto weights have 1/k finite moments
    w = np.random.default_rng(5).pareto(1 / k, 200_000) + 1
    assert pareto_k(np.log(w)) == pytest.approx(k, abs=0.08)
    assert pareto_k(np.log(w) + 300) == pytest.approx(pareto_k(np.log(w)), abs=1e-6)
    assert importance(np.log(w)).trustworthy == (k < 0.7)


def test_a_proposal_that_is_too_narrow_is_not_trusted() -> None:
    found = importance(gaussians(20_000, 4.0))
    assert found.k_hat > 0.7
    assert not found.trustworthy
    assert "not to be trusted" in str(found)
    assert found.efficiency < 0.2


def test_smoothing_keeps_order_and_the_bulk_and_steadies_the_estimate() -> None:
    raw = gaussians(4000, 1.5)
    even, k = smoothed(raw)
    assert k == pytest.approx(pareto_k(raw))
    count = int(3 * math.sqrt(4000))
    order = np.argsort(raw)
    np.testing.assert_array_equal(even[order[:-count]], raw[order[:-count]])
    assert (np.diff(even[order[-count:]]) >= 0).all()
    assert even.max() <= raw.max()
    assert not np.array_equal(even, raw)
    plain, steady = ([log_normaliser(f(gaussians(1000, 1.7, s))).value for s in range(150)] for f in (lambda w: w, _even))
    assert np.std(steady) < np.std(plain)
    truth = math.log(7)
    assert abs(np.mean(steady) - truth) < abs(np.mean(plain) - truth) + 0.1


def _even(log_w: np.ndarray) -> np.ndarray:
    return smoothed(log_w)[0]


def test_zero_weights_and_few_draws() -> None:
    log_w = np.where(np.arange(1000) % 2 == 0, 0.0, -np.inf)
    found = importance(log_w)
    assert found.log_normaliser.value == pytest.approx(math.log(0.5))
    assert found.effective == pytest.approx(500)
    nothing = importance(np.full(100, -np.inf))
    assert nothing.log_normaliser.value == -math.inf
    assert nothing.effective == 0
    assert not nothing.trustworthy
    few = importance(np.zeros(5))
    assert math.isnan(few.k_hat)
    assert not few.trustworthy
    assert threshold(100) == pytest.approx(0.5)
    assert threshold(10**6) == 0.7


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), np.zeros(0), np.array([0.0, np.nan]), np.array([0.0, np.inf])])
def test_bad_weights_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="log_weights"):
        importance(bad)
