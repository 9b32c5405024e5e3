"""The tree's two-sample test: its moments by enumeration of all divisions, its size and its power by repetition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from pushforward.algorithms.minimum_spanning_tree import euclidean_tree
from pushforward.core.errors import DataError
from pushforward.metrics import friedman_rafsky


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("n", "m"), [(4, 5), (3, 6)])
def test_moments_are_those_of_all_divisions(n: int, m: int) -> None:
    points = normal(n, n + m, 2)
    one, other = euclidean_tree(points).edges.T
    counts = []
    for chosen in itertools.combinations(range(n + m), n):
        label = np.isin(np.arange(n + m), chosen)
        counts.append((label[one] != label[other]).sum())
    got = friedman_rafsky(points[:n], points[n:], permutations=4000)
    assert got.crossing == counts[0]
    assert got.expected == pytest.approx(np.mean(counts))
    assert got.z == pytest.approx((counts[0] - np.mean(counts)) / np.std(counts))
    assert got.permutation_p_value == pytest.approx(np.mean(np.array(counts) <= counts[0]), abs=0.04)
    assert got.divergence.standard_error == pytest.approx(np.std(counts) * (n + m) / (2 * n * m))


def test_p_values_are_uniform_where_the_sets_agree() -> None:
    runs = [friedman_rafsky(normal(2 * s, 40, 3), normal(2 * s + 1, 60, 3), permutations=200) for s in range(150)]
    assert stats.kstest([r.z for r in runs], "norm").pvalue > 0.01
    by_normal, by_division = np.array([[r.p_value, r.permutation_p_value] for r in runs]).T
    assert np.corrcoef(by_normal, by_division)[0, 1] > 0.98


def test_far_apart_one_edge_crosses() -> None:
    got = friedman_rafsky(normal(0, 50, 2), normal(1, 50, 2) + 100)
    assert got.crossing == 1
    assert got.z < -6
    assert got.p_value < 1e-9
    assert got.permutation_p_value == pytest.approx(1 / 501)
    assert got.divergence.value == pytest.approx(1 - 100 / 5000)


def test_divergence_is_henze_and_penroses() -> None:
    # between N(0, 1) and N(1.5, 1) with equal sizes: 1 − 2 ∫ p q / (p + q)
    grid = np.linspace(-10, 12, 20001)
    p, q = stats.norm.pdf(grid), stats.norm.pdf(grid, 1.5)
    truth = 1 - 2 * integrate.trapezoid(p * q / (p + q), grid)
    got = friedman_rafsky(normal(0, 3000, 1), normal(1, 3000, 1) + 1.5)
    assert abs(got.divergence.value - truth) < 4 * got.divergence.standard_error


def test_ties_favour_nobody() -> None:
    # equal rows are joined in their order: without a shuffle a set would be joined to itself first
    rng = np.random.default_rng(0)
    zs = [friedman_rafsky(*rng.integers(0, 2, (2, 40, 2)), permutations=1, seed=s).z for s in range(100)]
    assert abs(np.mean(zs)) < 0.4
    stuck = friedman_rafsky(np.zeros((9, 2)), np.zeros((9, 2)))  # a star, of which as many edges cross in every division
    assert stuck.crossing == 9
    assert np.isnan(stuck.z)
    assert stuck.permutation_p_value == 1


def test_limit_is_stated() -> None:
    got = friedman_rafsky(normal(0, 90, 2), normal(1, 30, 2), limit=40)
    assert got.rows == 70


def test_bad_input() -> None:
    x = normal(0, 6, 2)
    for call in (
        lambda: friedman_rafsky(x[:1], x),
        lambda: friedman_rafsky(x, x[:, :1]),
        lambda: friedman_rafsky(x, x, limit=1),
        lambda: friedman_rafsky(x, x, permutations=0),
    ):
        with pytest.raises(DataError):
            call()
