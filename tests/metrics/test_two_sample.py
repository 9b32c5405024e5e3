"""The classifier two-sample test on pairs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pushforward.core.errors import DataError
from pushforward.metrics import classifier_two_sample


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_same_distribution_is_a_coin_toss() -> None:
    got = classifier_two_sample(normal(0, 400, 4), normal(1, 900, 4), folds=3)
    assert got.rows == 800
    assert abs(got.accuracy - 0.5) < 4 * got.standard_error
    assert got.standard_error == pytest.approx(0.5 / np.sqrt(800), rel=0.05)
    assert abs(got.auc - 0.5) < 0.1


def test_far_apart_is_certain() -> None:
    got = classifier_two_sample(normal(0, 200, 3), normal(1, 200, 3) + 4, folds=2)
    assert got.accuracy > 0.97
    assert got.auc > 0.99
    assert 0 < got.standard_error < 0.02


def test_notices_dependence_between_equal_marginals() -> None:
    z = normal(0, 800, 2)
    x = np.stack([z[:, 0], 0.95 * z[:, 0] + np.sqrt(1 - 0.95**2) * z[:, 1]], 1)
    got = classifier_two_sample(x, normal(1, 800, 2), folds=3)
    # the best any classifier can do here is about 0.8
    assert 0.72 < got.accuracy < 0.88


def test_notices_rounding() -> None:
    x = np.round(normal(0, 300, 2) * 4) / 4
    assert classifier_two_sample(x, normal(1, 300, 2)).accuracy > 0.8


def test_tiny_and_constant_sets() -> None:
    got = classifier_two_sample(np.ones((4, 2)), np.ones((4, 2)), folds=2)
    assert 0 <= got.accuracy <= 1
    assert got.auc == 0.5


def test_seed_decides_and_units_do_not() -> None:
    x, y = normal(0, 100, 2), normal(1, 100, 2) + 1
    first = classifier_two_sample(x, y, seed=5, folds=2)
    assert classifier_two_sample(x, y, seed=5, folds=2) == first
    assert classifier_two_sample(x * 1024, y * 1024, seed=5, folds=2) == first


def test_bad_input() -> None:
    x = normal(0, 20, 2)
    for a, b, options in (
        (x[:, 0], x, {}),
        (x[:0], x, {}),
        (x * np.nan, x, {}),
        (x[:, :1], x, {}),
        (x, x[:3], {"folds": 2}),
        (x, x, {"folds": 1}),
        (x, x, {"limit": 3}),
    ):
        with pytest.raises(DataError):
            classifier_two_sample(a, b, **options)
