"""The classifier two-sample test on pairs whose answer is known."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from pushforward.core.errors import DataError
from pushforward.metrics import classifier_two_sample, columns_two_sample, two_sample


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
        (x, x, {"classifier": "logistics"}),
    ):
        with pytest.raises(DataError):
            classifier_two_sample(a, b, **options)


@pytest.mark.parametrize("classifier", sorted(two_sample.CLASSIFIERS))
def test_each_classifier_tells_a_shift_and_only_that(classifier: str) -> None:
    x, y = normal(0, 300, 2), normal(1, 300, 2)
    # the best accuracy for a shift of 1.5 along one axis is Φ(0.75)
    best = stats.norm.cdf(0.75)
    apart = classifier_two_sample(x, y + np.array([1.5, 0]), folds=3, classifier=classifier)
    assert best - 0.07 < apart.accuracy < best + 0.05
    assert apart.p_value < 1e-9
    alike = classifier_two_sample(x, y, folds=3, classifier=classifier)
    assert alike.p_value > 0.01
    assert alike.p_value == pytest.approx(stats.norm.sf((alike.accuracy - 0.5) / np.sqrt(0.25 / 600)))


def test_logistic_sees_no_scale_but_trees_do() -> None:
    x, y = normal(0, 300, 2), 3 * normal(1, 300, 2)
    assert classifier_two_sample(x, y, folds=3, classifier="logistic").accuracy < 0.58
    assert classifier_two_sample(x, y, folds=3, classifier="trees").accuracy > 0.7


def test_boosted_trees_are_xgboosts_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def classifier(n_estimators: int, random_state: int, **rest: object) -> HistGradientBoostingClassifier:
        made.append(rest)
        return HistGradientBoostingClassifier(max_iter=n_estimators, random_state=random_state)

    module = ModuleType("xgboost")
    module.XGBClassifier = classifier  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xgboost", module)
    monkeypatch.setattr(two_sample, "find_spec", lambda name: object())
    x = normal(0, 40, 2)
    got = classifier_two_sample(x, x + 3, folds=2, classifier="boosted")
    assert len(made) == 2
    assert got.classifier == "xgboost"


def test_which_column_gives_the_samples_away() -> None:
    x, y = normal(0, 500, 5), normal(1, 500, 5)
    y[:, 1] += 1  # a shift
    y[:, 2] *= 4  # a scale
    x[:, 3] = np.where(x[:, 3] > 1, np.nan, x[:, 3])  # cells that are missing
    x[:, 4], y[:, 4] = np.sign(x[:, 4]), np.sign(y[:, 4] + 1.5)  # a category
    got = columns_two_sample(x, y, names=list("abcde"))
    assert abs(got["a"].accuracy - 0.5) < 4 * got["a"].standard_error
    assert got["b"].accuracy == pytest.approx(stats.norm.cdf(0.5), abs=0.05)
    edge = np.sqrt(2 * np.log(4) / (1 - 1 / 16))
    best = 0.5 * (stats.norm.cdf(edge) * 2 - 1) + (1 - stats.norm.cdf(edge / 4))
    assert got["c"].accuracy == pytest.approx(best, abs=0.05)
    assert got["d"].accuracy == pytest.approx(0.5 + 0.5 * stats.norm.sf(1), abs=0.05)
    assert got["e"].accuracy == pytest.approx(0.5 + 0.5 * (stats.norm.cdf(1.5) - 0.5), abs=0.05)
    assert list(got)[-1] == "a"
    assert [v.accuracy for v in got.values()] == sorted((v.accuracy for v in got.values()), reverse=True)
    assert set(columns_two_sample(x, y)) == set(range(5))


def test_columns_that_agree_are_not_accused() -> None:
    runs = [columns_two_sample(normal(2 * s, 200, 1), normal(2 * s + 1, 200, 1))[0] for s in range(100)]
    assert np.mean([r.accuracy for r in runs]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([r.p_value < 0.05 for r in runs]) < 0.15


def test_bad_columns() -> None:
    x = normal(0, 20, 2)
    for call in (
        lambda: columns_two_sample(x, x[:, :1]),
        lambda: columns_two_sample(x, x, names=["a"]),
        lambda: columns_two_sample(x * np.inf, x),
        lambda: columns_two_sample(x, x, folds=11),
    ):
        with pytest.raises(DataError):
            call()
