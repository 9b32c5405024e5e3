"""Modes that are found and lost on the grid of 25 normals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pushforward.core.errors import DataError
from pushforward.metrics import mode_coverage

GRID = np.stack(np.meshgrid(np.arange(-4, 5, 2.0), np.arange(-4, 5, 2.0)), -1).reshape(-1, 2)


def draw(seed: int, n: int, modes: int = 25, share: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = GRID[rng.integers(modes, size=n)] + 0.05 * rng.standard_normal((n, 2))
    astray = rng.random(n) >= share
    x[astray] = GRID[0] + 1.0
    return x


def test_all_modes() -> None:
    got = mode_coverage(draw(0, 5000), GRID, 0.15)
    assert got.found.value == got.modes == 25
    # within three standard deviations in the plane: 1 − e^{−9/2}
    assert abs(got.quality.value - (1 - math.exp(-4.5))) < 5 * got.quality.standard_error
    assert 0 <= got.divergence.value < 3 * 24 / (2 * 5000)
    assert got.counts.sum() == round(got.quality.value * 5000)


def test_collapse() -> None:
    got = mode_coverage(draw(0, 4000, modes=5, share=0.6), GRID, 0.15)
    assert got.found.value == 5
    assert got.found.standard_error < 1e-6
    assert got.quality.value == pytest.approx(0.6 * (1 - math.exp(-4.5)), abs=0.04)
    assert got.divergence.value == pytest.approx(math.log(5), abs=0.01)
    alone = mode_coverage(GRID[3:4], GRID, 0.1)
    assert alone.divergence.value == pytest.approx(math.log(25))
    assert alone.counts.tolist() == [0, 0, 0, 1] + [0] * 21


def test_errors_match_repetition() -> None:
    runs = [mode_coverage(draw(s, 60, share=0.8), GRID, 0.15) for s in range(300)]
    for name, slack in (("found", 0.35), ("quality", 0.4), ("divergence", 0.35)):
        found = [getattr(r, name) for r in runs]
        assert np.mean([f.standard_error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=slack), name


def test_nothing_near() -> None:
    got = mode_coverage(draw(0, 50) + 100, GRID, 0.15)
    assert got.found.value == got.quality.value == 0
    assert math.isnan(got.divergence.value)


def test_bad_input() -> None:
    for args in ((GRID, GRID, 0.0), (GRID, GRID[:, :1], 1.0), (GRID[:0], GRID, 1.0), (GRID, GRID * np.nan, 1.0)):
        with pytest.raises(DataError):
            mode_coverage(*args)
