"""Classification and regression metrics against hand-made cases and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as truth

from pushforward.core.errors import DataError
from pushforward.metrics import accuracy, brier, calibration_error, confusion_matrix, log_loss, mae, r2, rmse, top_k


def case(seed: int, n: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), n), np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_against_scikit_learn(seed: int) -> None:
    p, y = case(seed)
    guess = p.argmax(1)
    assert accuracy(guess, y).value == pytest.approx(truth.accuracy_score(y, guess))
    assert log_loss(p, y).value == pytest.approx(truth.log_loss(y, p))
    assert brier(p, y).value == pytest.approx(np.square(p - np.eye(4)[y]).sum(1).mean())
    assert top_k(p, y, 2).value == pytest.approx(truth.top_k_accuracy_score(y, p, k=2))
    assert top_k(p, y, 1).value == accuracy(guess, y).value
    assert top_k(p, y, 4).value == 1
    assert (confusion_matrix(guess, y, 4) == truth.confusion_matrix(y, guess, labels=range(4))).all()
    order = np.random.default_rng(seed).permutation(len(y))
    for metric in (log_loss, brier, top_k):
        assert metric(p[order], y[order]).value == pytest.approx(metric(torch.tensor(p), torch.tensor(y)).value)
    assert calibration_error(p[order], y[order]) == pytest.approx(calibration_error(p, y))


def test_calibration_by_hand() -> None:
    # four rows at 0.9 of which three are right, two at 0.6 of which none is
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    y = np.array([0, 0, 0, 1, 0, 0])
    assert calibration_error(p, y) == pytest.approx((4 * 0.15 + 2 * 0.6) / 6)
    # in one bin over- and underconfidence cancel
    assert calibration_error(p, y, bins=1) == pytest.approx(abs(3 - 4.8) / 6)
    assert calibration_error(np.eye(3), np.arange(3)) == 0


def test_sure_and_wrong_stays_finite() -> None:
    assert log_loss(np.eye(2), [1, 0]).value == pytest.approx(-math.log(1e-12))
    assert log_loss(np.eye(2), [0, 1]).value == 0
    assert brier(np.eye(2), [1, 0]).value == 2


def test_ties_give_chance_not_certainty() -> None:
    p, y = np.full((4, 4), 0.25), np.arange(4)
    assert top_k(p, y, 1).value == 0.25
    assert top_k(p, y, 3).value == 0.75


def test_errors_match_repetition() -> None:
    rng = np.random.default_rng(0)
    runs = [accuracy(rng.random(100) < 0.8, np.ones(100, bool)) for _ in range(400)]
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(np.std([r.value for r in runs]), rel=0.15)
    runs = [rmse(rng.standard_normal((100, 2)), np.zeros((100, 2))) for _ in range(400)]
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(np.std([r.value for r in runs]), rel=0.15)


@pytest.mark.parametrize("shape", [(30,), (30, 3)])
def test_regression(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal(shape)
    guess = target + rng.standard_normal(shape) * 0.3
    assert rmse(guess, target).value == pytest.approx(math.sqrt(truth.mean_squared_error(target, guess)))
    assert mae(guess, target).value == pytest.approx(truth.mean_absolute_error(target, guess))
    assert r2(torch.tensor(guess), target) == pytest.approx(truth.r2_score(target, guess))
    assert (rmse(target, target).value, rmse(target, target).standard_error) == (0, 0)
    assert math.isnan(r2(guess, np.full(shape, 0.1)))


def test_bad_input() -> None:
    p, y = case(0)
    for call in (
        lambda: accuracy(y, y[:3]),
        lambda: accuracy([], []),
        lambda: accuracy([0.5], [0]),
        lambda: log_loss(p * 2, y),
        lambda: log_loss(p, y + 1),
        lambda: log_loss(p, y, clip=0),
        lambda: brier(p - 0.5, y),
        lambda: calibration_error(p[:, 0], y),
        lambda: calibration_error(p, y, bins=0),
        lambda: top_k(p, y, 0),
        lambda: confusion_matrix(y, y, classes=2),
        lambda: confusion_matrix([-1], [0]),
        lambda: rmse([1.0], [1.0, 2.0]),
        lambda: mae([math.nan], [1.0]),
        lambda: r2([], []),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert "\n" not in str(caught.value)
