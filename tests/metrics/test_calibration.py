"""Ranks that must be uniform, and faults that must show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pushforward.core.errors import DataError
from pushforward.metrics import density_calibration, pit_calibration


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def log_p(x: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return stats.norm.logpdf(x, scale=scale).sum(1)


def test_pit_is_scipys_test() -> None:
    x = normal(0, 300) * 1.2
    got = pit_calibration(stats.norm.cdf(x), bins=10)
    truth = stats.kstest(x, "norm")
    assert got.ks == pytest.approx(truth.statistic)
    assert got.p_value == pytest.approx(truth.pvalue, rel=1e-6)
    assert got.shares == pytest.approx(np.histogram(stats.norm.cdf(x), 10, (0, 1))[0] / 300)
    assert pit_calibration([0.0, 1.0], bins=2).shares.tolist() == [0.5, 0.5]


def test_density_ranks_are_the_two_sample_test() -> None:
    rows, drawn = log_p(normal(0, 200, 3)), log_p(normal(1, 500, 3))
    got = density_calibration(rows, drawn)
    truth = stats.ks_2samp(rows, drawn, method="asymp")
    assert got.ks == pytest.approx(truth.statistic, abs=0.006)
    assert got.ranks == pytest.approx([(drawn < row).mean() for row in rows], abs=0.005)
    assert got.samples == 500


def test_p_values_and_mean_are_right_where_the_model_is() -> None:
    runs = [density_calibration(log_p(normal(2 * s, 100, 2)), log_p(normal(2 * s + 1, 80, 2)), bins=4) for s in range(300)]
    p_values = np.array([r.p_value for r in runs])
    assert 0.02 < (p_values < 0.05).mean() < 0.08
    means = np.array([r.mean.value for r in runs])
    assert abs(means.mean() - 0.5) < 4 * means.std() / np.sqrt(300)
    assert np.mean([r.mean.standard_error for r in runs]) == pytest.approx(means.std(), rel=0.12)
    shares = np.array([r.shares[0] for r in runs])
    assert runs[0].share_error == pytest.approx(shares.std(), rel=0.12)


def test_too_narrow_puts_ranks_at_zero_and_too_wide_at_one() -> None:
    rows = normal(0, 400, 3)
    narrow = density_calibration(log_p(rows, 0.6), log_p(0.6 * normal(1, 400, 3), 0.6))
    wide = density_calibration(log_p(rows, 1.7), log_p(1.7 * normal(1, 400, 3), 1.7))
    assert narrow.mean.value < 0.35
    assert wide.mean.value > 0.65
    assert narrow.shares[0] > 5 * narrow.share_error
    assert max(narrow.p_value, wide.p_value) < 1e-6


def test_ties_are_no_fault() -> None:
    # a uniform density gives every row the same log p
    got = density_calibration(np.zeros(500), np.zeros(50))
    assert got.p_value > 0.01
    assert abs(got.mean.value - 0.5) < 4 * got.mean.standard_error
    impossible = density_calibration(np.full(100, -np.inf), normal(0, 100))
    assert impossible.ranks.max() < 0.01 + 1e-9
    assert impossible.ks > 0.98


def test_ranks_are_uniform_with_two_samples_too() -> None:
    ranks = [density_calibration(normal(2 * s, 1), normal(2 * s + 1, 2), seed=s).ranks[0] for s in range(600)]
    assert stats.kstest(ranks, "uniform").pvalue > 0.01


def test_bad_input() -> None:
    for call in (
        lambda: pit_calibration([1.1]),
        lambda: pit_calibration([]),
        lambda: pit_calibration([0.5], bins=0),
        lambda: density_calibration([np.nan], [1.0]),
        lambda: density_calibration([1.0], [np.inf]),
        lambda: density_calibration([[1.0]], [1.0]),
    ):
        with pytest.raises(DataError):
            call()
