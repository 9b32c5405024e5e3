"""Distances against closed forms, scipy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import sqrtm

from pushforward.core.errors import DataError
from pushforward.metrics import _arrays, energy_distance, frechet_gaussian, kid, mmd, sliced_wasserstein, wasserstein_exact

SYMMETRIC = {
    "sliced": lambda x, y: sliced_wasserstein(x, y, projections=8).value,
    "energy": lambda x, y: energy_distance(x, y).value,
    "mmd": lambda x, y: mmd(x, y, seed=3).value,
    "frechet": frechet_gaussian,
    "exact": wasserstein_exact,
}
sizes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 10**6))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 60), (7, 5), (1, 9), (13, 100)])
def test_sliced_in_one_dimension_is_scipys(n: int, m: int) -> None:
    x, y = normal(n, n, 1), normal(m + 1, m, 1) * 2 + 1
    got = sliced_wasserstein(x, y, p=1)
    assert got.value == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)
    assert got.standard_error == 0


def test_sliced_unequal_sizes_agree_with_repeated_rows() -> None:
    x, y = normal(0, 6, 3), normal(1, 4, 3)
    whole = sliced_wasserstein(np.repeat(x, 2, 0), np.repeat(y, 3, 0), p=2)
    assert sliced_wasserstein(x, y, p=2).value == pytest.approx(whole.value, rel=1e-12)


def test_sliced_of_a_shift() -> None:
    x, shift = normal(0, 50, 5), np.arange(5.0)
    got = sliced_wasserstein(x, x + shift, projections=4000)
    assert abs(got.value - math.sqrt(shift @ shift / 5)) < 4 * got.standard_error < 0.2


def test_sliced_error_matches_repetition() -> None:
    x, y = normal(0, 30, 4), normal(1, 30, 4) + np.arange(4)
    runs = [sliced_wasserstein(x, y, projections=64, seed=s) for s in range(200)]
    spread = np.std([run.value for run in runs], ddof=1)
    assert np.mean([run.standard_error for run in runs]) == pytest.approx(spread, rel=0.2)


def test_energy_in_one_dimension_is_scipys_squared_less_its_bias() -> None:
    x, y = normal(0, 50, 1), normal(1, 70, 1) + 1
    inner = [np.abs(v - v.T).sum() / len(v) for v in (x, y)]
    bias = inner[0] / (len(x) - 1) - inner[0] / len(x) + inner[1] / (len(y) - 1) - inner[1] / len(y)
    assert energy_distance(x, y).value == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]) ** 2 - bias, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "shift"), [(40, 40, 0.0), (30, 60, 0.0), (40, 40, 1.0)])
def test_energy_is_unbiased_and_its_error_true(n: int, m: int, shift: float) -> None:
    # |Z| with Z ~ N(s, v) has mean 2·sd·φ(s/sd) + s·(2Φ(s/sd) − 1)
    sd = math.sqrt(2)
    folded = 2 * sd * stats.norm.pdf(shift / sd) + shift * (2 * stats.norm.cdf(shift / sd) - 1)
    truth = 2 * folded - 2 * (2 / math.sqrt(math.pi))
    runs = [energy_distance(normal(2 * s, n, 1), normal(2 * s + 1, m, 1) + shift) for s in range(600)]
    values, errors = [r.value for r in runs], [r.standard_error for r in runs]
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(len(runs))
    # where the distributions agree the error cannot fall below its floor, so it is right in the middle, too large on average
    assert np.median(errors) == pytest.approx(np.std(values), rel=0.1)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1 if shift else 0.35)


def test_mmd_closed_form_and_error() -> None:
    h, dims, shift = 1.3, 2, 1.0
    base = (h**2 / (h**2 + 2)) ** (dims / 2)
    truth = 2 * base * (1 - math.exp(-dims * shift**2 / (2 * (h**2 + 2))))
    runs = [mmd(normal(2 * s, 40, dims), normal(2 * s + 1, 50, dims) + shift, bandwidth=h) for s in range(300)]
    values = [r.value for r in runs]
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(len(runs))
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(np.std(values), rel=0.15)


def test_kid_by_its_definition_and_its_error() -> None:
    x, y = normal(0, 9, 4), normal(1, 7, 4) + 0.5
    k = lambda a, b: (a @ b.T / 4 + 1) ** 3
    off = lambda a: (k(a, a).sum() - np.trace(k(a, a))) / (len(a) * (len(a) - 1))
    assert kid(x, y).value == pytest.approx(off(x) + off(y) - 2 * k(x, y).mean())
    # E of (x·y/D + 1)³ for independent normals with means a, b and D = 1: 1 + 3ab + 3(1 + a²)(1 + b²) + (a³ + 3a)(b³ + 3b)
    moment = lambda a, b: 1 + 3 * a * b + 3 * (1 + a**2) * (1 + b**2) + (a**3 + 3 * a) * (b**3 + 3 * b)
    truth = moment(0, 0) + moment(0.7, 0.7) - 2 * moment(0, 0.7)
    runs = [kid(normal(2 * s, 60, 1), normal(2 * s + 1, 80, 1) + 0.7) for s in range(400)]
    values = [r.value for r in runs]
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(len(runs))
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(np.std(values), rel=0.2)
    assert kid(x, y, degree=1).value != kid(x, y).value


def test_mmd_median_of_coinciding_points() -> None:
    assert mmd(np.zeros((5, 2)), np.zeros((4, 2))).value == 0
    assert mmd(np.zeros((5, 2)), np.ones((2, 2))).value > 0.5


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 31, 3), normal(1, 23, 3)
    whole = [energy_distance(x, y), kid(x, y), sliced_wasserstein(x, y, 9), frechet_gaussian(x, y)]
    monkeypatch.setattr(_arrays, "BLOCK_ENTRIES", 40)
    parts = [energy_distance(x, y), kid(x, y), sliced_wasserstein(x, y, 9), frechet_gaussian(x, y)]
    for a, b in zip(whole[:3], parts[:3], strict=True):
        assert (a.value, a.standard_error) == pytest.approx((b.value, b.standard_error), rel=1e-9)
    assert whole[3] == pytest.approx(parts[3], rel=1e-9)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_exact_against_all_permutations(p: int) -> None:
    x, y = normal(0, 5, 3), normal(1, 5, 3)
    gaps = np.linalg.norm(x[:, None] - y[None], axis=2) ** p
    best = min(gaps[np.arange(5), list(order)].mean() for order in itertools.permutations(range(5)))
    assert wasserstein_exact(x, y, p) == pytest.approx(best ** (1 / p), rel=1e-9)
    # repeating rows changes no distribution, and unequal sizes take the linear programme
    assert wasserstein_exact(x, np.repeat(y, 2, 0), p) == pytest.approx(best ** (1 / p), rel=1e-6)


def test_frechet_closed_form() -> None:
    x, y = normal(0, 60, 4), normal(1, 50, 4) @ normal(2, 4, 4) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    truth = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_gaussian(x, y) == pytest.approx(truth, rel=1e-8)
    assert frechet_gaussian(x, x * 3 + 2) == pytest.approx(np.sum((2 + 2 * x.mean(0)) ** 2) + 4 * np.trace(a), rel=1e-9)


def test_frechet_with_fewer_rows_than_columns() -> None:
    x, y = normal(0, 5, 12), normal(1, 9, 12) * 2
    a, b = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    truth = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b) - 2 * roots
    assert frechet_gaussian(x, y) == pytest.approx(truth, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(sizes, st.sampled_from(sorted(SYMMETRIC)))
def test_invariances(case: tuple[int, int, int, int], name: str) -> None:
    n, m, width, seed = case
    distance = SYMMETRIC[name]
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, width)), rng.standard_normal((m, width)) * 2 + 1
    value = distance(x, y)
    assert distance(y, x) == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert distance(rng.permutation(x), rng.permutation(y)) == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert distance(x + 100, y + 100) == pytest.approx(value, rel=1e-6, abs=1e-9)
    if name in ("sliced", "frechet", "exact"):
        assert distance(x, rng.permutation(x)) == pytest.approx(0, abs=1e-9)
        assert value >= 0
    else:
        assert distance(x, x) <= 1e-12


def test_torch_numpy_and_float32_agree() -> None:
    x, y = normal(0, 20, 3).astype(np.float32), normal(1, 20, 3).astype(np.float32)
    for distance in SYMMETRIC.values():
        value = distance(x.astype(np.float64), y.astype(np.float64))
        assert distance(torch.tensor(x, requires_grad=True), torch.tensor(y)) == pytest.approx(value, rel=1e-5)
    assert energy_distance(torch.tensor(x).bfloat16(), y).value == pytest.approx(energy_distance(x, y).value, abs=0.02)


@pytest.mark.parametrize("distance", SYMMETRIC.values(), ids=SYMMETRIC)
@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((0, 2)), "at least"),
        (np.zeros(4), "expected \\(rows, columns\\)"),
        (np.array([[0, 1], [np.nan, 1]]), "x, row 1"),
        (np.array([[0, 1], [np.inf, 1]]), "non-finite"),
        (np.zeros((4, 3)), "3 columns in x and 2 in y"),
        (np.array([["a", "b"]]), "real numbers"),
        ([[1.0], [1.0, 2.0]], "unequal length"),
    ],
)
def test_bad_input(distance, x, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        distance(x, np.ones((4, 2)))
    assert "\n" not in str(caught.value)


def test_bad_settings() -> None:
    x = np.ones((4, 2))
    for call in (
        lambda: sliced_wasserstein(x, x, projections=1),
        lambda: sliced_wasserstein(x, x, p=0.5),
        lambda: wasserstein_exact(x, x, p=math.inf),
        lambda: wasserstein_exact(np.ones((3000, 1)), np.ones((3000, 1))),
        lambda: wasserstein_exact(np.ones((300, 1)), np.ones((301, 1))),
        lambda: mmd(x, x, bandwidth=0.0),
        lambda: mmd(x, x, bandwidth="mean"),
        lambda: energy_distance(x[:1], x),
        lambda: kid(x, x, degree=0),
    ):
        with pytest.raises(DataError):
            call()
