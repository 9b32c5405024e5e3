"""Precision, recall, density and coverage by their definitions, and where their expectation is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from pushforward.core.errors import DataError
from pushforward.metrics import _arrays, neighbourhoods


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(4, 12), st.integers(1, 3))
def test_definitions_row_by_row(seed: int, n: int, m: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 2)) + 50, rng.standard_normal((m, 2)) * 1.5 + 50.5
    radius = lambda z: [sorted(np.linalg.norm(z - z[i], axis=1))[k] for i in range(len(z))]
    rx, ry, gaps = radius(x), radius(y), cdist(x, y)
    got = neighbourhoods(x, y, k)
    inside = [[gaps[i, j] <= rx[i] for i in range(n)] for j in range(m)]
    assert got.precision.value == pytest.approx(np.mean([any(row) for row in inside]))
    assert got.density.value == pytest.approx(np.mean([sum(row) / k for row in inside]))
    assert got.coverage.value == pytest.approx(np.mean([any(inside[j][i] for j in range(m)) for i in range(n)]))
    assert got.recall.value == pytest.approx(np.mean([any(gaps[i, j] <= ry[j] for j in range(m)) for i in range(n)]))


def test_known_expectations_of_equal_distributions() -> None:
    got = neighbourhoods(normal(0, 1500, 3), normal(1, 1500, 3), k=3)
    assert abs(got.density.value - 1) < 5 * got.density.standard_error
    # among the k + 1 nearest of 2N − 1 points a real row has none that is generated with probability 2^{−k}
    assert abs(got.coverage.value - (1 - 2**-3)) < 5 * got.coverage.standard_error


def test_what_each_figure_notices() -> None:
    real = np.concatenate([normal(0, 300, 2), normal(1, 300, 2) + 20])
    half = normal(2, 600, 2)
    dropped = neighbourhoods(real, half)
    assert dropped.precision.value > 0.95
    assert dropped.recall.value < 0.6
    assert dropped.coverage.value < 0.55
    outside = np.concatenate([half[:300], normal(3, 300, 2) - 40])
    invented = neighbourhoods(half, outside)
    assert invented.precision.value < 0.6
    assert invented.density.value < 0.75
    assert invented.recall.value > 0.95


def test_errors_match_repetition_of_the_judged_rows() -> None:
    real = normal(0, 200, 2)
    runs = [neighbourhoods(real, 2 * normal(s + 1, 200, 2)) for s in range(100)]
    for name in ("precision", "density"):
        found = [getattr(r, name) for r in runs]
        spread = np.std([f.value for f in found], ddof=1)
        assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 40, 3), normal(1, 30, 3)
    whole = neighbourhoods(x, y)
    monkeypatch.setattr(_arrays, "BLOCK_ENTRIES", 90)
    assert neighbourhoods(x, y) == whole


def test_bad_input() -> None:
    x = normal(0, 6, 2)
    for call in (
        lambda: neighbourhoods(x, x, k=0),
        lambda: neighbourhoods(x, x, k=6),
        lambda: neighbourhoods(x, x[:, :1]),
        lambda: neighbourhoods(x * np.nan, x),
    ):
        with pytest.raises(DataError):
            call()
