"""Log densities: means, bounds and their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.metrics import effective_sample_size, log_mean_exp, mean_with_error, summary
from pushforward.metrics.likelihood import bits_per_dim


def test_summary() -> None:
    values = np.array([-1.0, -2.0, -4.0, -5.0])
    got = summary(torch.tensor(values), dims=3, kind="exact")
    assert got.nats_mean == -3
    assert got.standard_error == pytest.approx(np.std(values, ddof=1) / 2)
    assert got.bits_per_dim == pytest.approx(3 / (3 * math.log(2)))
    assert got.bits_per_dim_standard_error == pytest.approx(got.standard_error / (3 * math.log(2)))
    assert (got.kind, got.n, got.nonfinite) == ("exact", 4, 0)


@pytest.mark.parametrize("levels", [8, 17, 32, 256, 1000])
def test_bits_per_dimension_are_those_of_8_bits_whatever_the_depth(levels: int) -> None:
    """The same brightness, rounded to other depths: entropies of the levels differ by what the depth resolves, bits do not."""
    ends = np.linspace(0, 1, levels + 1)
    mass = np.diff(ends**2 * (3 - 2 * ends))  # brightness with the density f(v) = 6 v (1 - v) on [0, 1)
    # per 1/256 of the range the density is f/256, and E[-log2 f] = -log2 6 + 5/(3 ln 2)
    truth = 8 - math.log2(6) + 5 / 3 / math.log(2)
    dims = 3
    assert float(mass @ bits_per_dim(dims * np.log(mass), dims, levels)) == pytest.approx(truth, abs=0.03)
    found = summary([dims * math.log(mass[levels // 2])], dims, "exact", levels)
    assert found.bits_per_dim == pytest.approx(-math.log2(mass[levels // 2] * levels / 256))


def test_black_and_white_pixels_cost_what_sending_them_takes() -> None:
    assert bits_per_dim(np.array([4 * math.log(0.5)]), 4, 2).tolist() == pytest.approx([1.0])
    assert bits_per_dim(np.array([4 * math.log(0.5)]), 4).tolist() == pytest.approx([1.0])
    assert bits_per_dim(np.array([4 * math.log(1 / 256)]), 4, 256).tolist() == pytest.approx([8.0])


def test_nonfinite_values_are_not_hidden() -> None:
    got = summary([-1.0, -math.inf, math.inf], dims=1, kind="exact")
    assert got.nats_mean == -math.inf
    assert got.bits_per_dim == math.inf
    assert math.isnan(got.standard_error)
    assert got.nonfinite == 2
    assert math.isnan(summary([-math.inf, math.nan], 1, "exact").nats_mean)
    assert summary([0.0, math.inf], 1, "exact").nats_mean == math.inf


def test_mean_error_matches_repetition() -> None:
    rng = np.random.default_rng(0)
    runs = [mean_with_error(rng.exponential(size=50)) for _ in range(500)]
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(np.std([r.value for r in runs]), rel=0.12)
    assert math.isnan(mean_with_error([1.0]).standard_error)


@pytest.mark.parametrize("offset", [0.0, -1e4, 1e4])
def test_log_mean_exp_against_long_double(offset: float) -> None:
    weights = np.random.default_rng(0).normal(size=(40, 3)) * 3
    exact = np.exp(weights.astype(np.longdouble))
    value, error = log_mean_exp(weights + offset)
    assert value - offset == pytest.approx(np.log(exact.mean(0)).astype(float), abs=1e-9)
    assert error == pytest.approx((exact.std(0, ddof=1) / exact.mean(0) / np.sqrt(40)).astype(float), rel=1e-6)


def test_log_mean_exp_of_log_normal_weights() -> None:
    # E exp(σZ − σ²/2) = 1, so the bound is below 0 and rises with K
    sigma = 1.0
    weights = np.random.default_rng(1).normal(size=(64, 4000)) * sigma - sigma**2 / 2
    means = [log_mean_exp(weights[:k])[0].mean() for k in (1, 4, 16, 64)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(-0.5, abs=0.06)
    assert -0.03 < means[-1] < 0
    value, error = log_mean_exp(weights)
    assert error.mean() == pytest.approx(value.std(), rel=0.1)


def test_log_mean_exp_edges() -> None:
    inf = math.inf
    value, error = log_mean_exp(np.array([[-inf, -inf, inf, math.nan, 5.0], [-inf, 0.0, 0.0, 0.0, 5.0]]))
    assert value[:3] == pytest.approx([-inf, -math.log(2), inf])
    assert math.isnan(value[3])
    assert np.isnan(error[[0, 2, 3]]).all()
    assert error[1] == pytest.approx(1.0)
    assert (value[4], error[4]) == (5.0, 0.0)
    value, error = log_mean_exp(torch.zeros(1, 2))
    assert value.tolist() == [0, 0]
    assert np.isnan(error).all()


def test_effective_sample_size() -> None:
    inf = math.inf
    weights = np.array([[0.0, 0.0, -inf, math.nan, math.log(3)], [0.0, -inf, -inf, 0.0, 0.0]]) + 2000
    assert effective_sample_size(weights) == pytest.approx([2, 1, 0, math.nan, 16 / 10], nan_ok=True)


def test_bad_input() -> None:
    for call in (
        lambda: summary([], 1, "exact"),
        lambda: summary([[1.0]], 1, "exact"),
        lambda: summary([1.0], 0, "exact"),
        lambda: mean_with_error(np.zeros((2, 2))),
        lambda: log_mean_exp(np.zeros(3)),
        lambda: log_mean_exp(np.zeros((0, 3))),
        lambda: effective_sample_size(np.zeros(3)),
    ):
        with pytest.raises(DataError):
            call()
