"""Can a classifier tell two sets of samples apart? All columns together, or each alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.random import mix
from pushforward.metrics._arrays import Floats, Values, as_pair, generator, proportion, same_width, subsample, to_numpy

_BINS = 64


@dataclass(frozen=True)
class ClassifierTwoSample:
    """The outcome of a classifier two-sample test; 0.5 means indistinguishable, 1 means told apart every time.

    ``accuracy`` and ``auc`` are held out, in [0, 1]; ``standard_error`` is that of the accuracy; ``rows`` counts the
    held-out rows, half from each set. ``classifier`` says which ones judged.
    """

    accuracy: float
    standard_error: float
    auc: float
    rows: int
    classifier: str = ""

    @property
    def p_value(self) -> float:
        """That of so high an accuracy or a higher one where the sets are of one distribution, by the normal approximation."""
        return 0.5 * math.erfc((self.accuracy - 0.5) * math.sqrt(2 * self.rows))


def _network(state: int, rows: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        (128, 64),
        alpha=1e-2,
        batch_size=128 if rows > 200 else "auto",
        learning_rate_init=2e-3,
        max_iter=60,
        early_stopping=rows >= 100,
        random_state=state,
    )


def _trees(state: int, rows: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, max_bins=127, early_stopping=False, random_state=state
    )


def _boosted(state: int, rows: int) -> Any:
    if find_spec("xgboost") is None:
        return _trees(state, rows)
    from xgboost import XGBClassifier

    shape = {"n_estimators": 60, "max_leaves": 15, "max_depth": 0, "grow_policy": "lossguide", "learning_rate": 0.1}
    return XGBClassifier(**shape, n_jobs=1, random_state=state)


def _logistic(state: int, rows: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300)


_Make = Callable[[int, int], Any]  # random state, training rows → a scikit-learn classifier
CLASSIFIERS: dict[str, tuple[_Make, ...]] = {
    "network and trees": (_network, _trees),
    "network": (_network,),
    "trees": (_trees,),
    "boosted": (_boosted,),
    "logistic": (_logistic,),
}
"""Where there are several their probabilities are averaged."""


def classifier_two_sample(
    x: Values, y: Values, seed: int = 0, folds: int = 5, limit: int = 4000, classifier: str = "network and trees"
) -> ClassifierTwoSample:
    """Held-out accuracy of a classifier trained to tell x (N, D) from y (M, D): Lopez-Paz & Oquab 2017, arXiv:1610.06545.

    Both sets are cut at random to min(N, M, ``limit``) rows, at least 2·``folds``, and each row is judged once by a
    classifier that was trained on the other folds. By default it averages a small neural network, which sees smooth
    dependence between columns, and boosted trees, which see atoms and gaps; ``trees`` alone takes a fifth of the time, and
    ``logistic`` sees shifts only. ``boosted`` trees are XGBoost's where that is installed. Columns are standardised on the
    training folds. The error is the binomial one; folds share training rows, which makes it up to a fifth too small where
    the sets agree. A value clearly below 0.5 means that x and y share rows. DataError for unfit arrays, too few rows, folds < 2
    or a classifier that is not in ``CLASSIFIERS``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    left, right = as_pair(x, y)
    if classifier not in CLASSIFIERS:
        raise DataError(f"found classifier {classifier!r}: {did_you_mean(classifier, CLASSIFIERS)}")
    values = np.concatenate(_cut(left, right, seed, folds, limit)).astype(np.float64)

    def scores(k: int, train: NDArray[np.int64], test: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        mean, scale = values[train].mean(0), values[train].std(0)
        # the columns leave float64 only once centred, so a large offset costs no precision; constant ones stay 0
        codes = ((values - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
        total = np.zeros(len(test))
        # one thread: the models are small, and threads that wait for each other on a busy machine cost far more than they save
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
            for make in CLASSIFIERS[classifier]:
                model = make(mix(seed, k, 4) % (1 << 32), len(train)).fit(codes[train], labels[train])
                total += model.predict_proba(codes[test])[:, 1] - 0.5
        return total

    name = classifier.replace("boosted", "xgboost" if find_spec("xgboost") else "trees")
    return _judged(len(values) // 2, seed, folds, name, scores)


def columns_two_sample(
    x: Values, y: Values, names: Sequence[Any] | None = None, seed: int = 0, folds: int = 5, limit: int = 4000
) -> dict[Any, ClassifierTwoSample]:
    """Which column gives the samples away? The test on each column of x (N, D) and y (M, D) alone, the clearest first.

    One column needs no network: the classifier is the more frequent side in each of at most 64 bins with equally many
    training rows, a value that is frequent in a bin of its own, and so are missing values (NaN). Categories come as
    codes. ``names`` (D,) are the keys, by default 0 … D−1. Of D columns that agree the first is D draws' largest: multiply
    its p-value by D. DataError as for ``classifier_two_sample``.
    """
    left, right = _rows(x, "x"), _rows(y, "y")
    same_width(left, right, "x", "y")
    keys = list(range(left.shape[1])) if names is None else list(names)
    if len(keys) != left.shape[1]:
        raise DataError(f"found {len(keys)} names for {left.shape[1]} columns: expected one for each")
    values = np.concatenate(_cut(left, right, seed, folds, limit))
    found = {}
    for key, column in zip(keys, values.T, strict=True):

        def scores(
            k: int,
            train: NDArray[np.int64],
            test: NDArray[np.int64],
            labels: NDArray[np.int64],
            column: NDArray[np.float64] = column,
        ) -> NDArray[np.float64]:
            known = np.sort(column[train][~np.isnan(column[train])])
            # a bin ends at, and has, each of these values; NaN sorts past the last
            ends = np.unique(known[np.linspace(0, len(known) - 1, _BINS).astype(np.int64)]) if len(known) else known
            place = np.where(np.isnan(column), len(ends) + 1, np.searchsorted(ends, column))
            ones = np.bincount(place[train], weights=labels[train], minlength=len(ends) + 2)
            every = np.bincount(place[train], minlength=len(ends) + 2)
            return ((ones + 1) / (every + 2) - 0.5)[place[test]]

        found[key] = _judged(len(values) // 2, seed, folds, "bins", scores)
    return dict(sorted(found.items(), key=lambda item: -item[1].accuracy))


def _cut(left: Floats, right: Floats, seed: int, folds: int, limit: int) -> tuple[Floats, Floats]:
    """Both sides, cut to equally many rows."""
    rows = min(len(left), len(right), limit)
    if folds < 2 or rows < 2 * folds:
        raise DataError(f"found {rows} usable rows a side for {folds} folds: expected folds ≥ 2 and 2 rows a side in each")
    return subsample(left, rows, seed, 1), subsample(right, rows, seed, 2)


def _judged(rows: int, seed: int, folds: int, name: str, scores: Callable[..., NDArray[np.float64]]) -> ClassifierTwoSample:
    """Cross-validation of ``scores(fold, train, test, labels)``, above 0 for the second set, of ``rows`` rows a side."""
    from scipy.stats import rankdata

    labels = np.repeat([0, 1], rows)
    rng = generator(seed, 3)
    fold = np.concatenate([rng.permutation(np.arange(rows) % folds) for _ in range(2)])
    hits, aucs = 0, []
    for k in range(folds):
        # shuffled, since early stopping and batches should see both sets alike
        train, test = rng.permutation(np.flatnonzero(fold != k)), np.flatnonzero(fold == k)
        score = scores(k, train, test, labels)
        # a score of exactly 0 says nothing: give it to neither side more often than to the other
        guess = np.where(score == 0, rng.integers(0, 2, len(test)), score > 0)
        hits += int((guess == labels[test]).sum())
        second = labels[test] == 1
        ones, zeros = int(second.sum()), int((~second).sum())
        aucs.append(float((rankdata(score)[second].sum() - ones * (ones + 1) / 2) / (ones * zeros)))
    estimate = proportion(hits, 2 * rows)
    return ClassifierTwoSample(estimate.value, estimate.standard_error, float(np.mean(aucs)), 2 * rows, name)


def _rows(values: Values, name: str) -> NDArray[np.float64]:
    array = to_numpy(values, name).astype(np.float64)
    if array.ndim != 2 or 0 in array.shape or np.isinf(array).any():
        raise DataError(f"found {name} of shape {array.shape}: expected numbers (rows, columns), finite or NaN, none empty")
    return array
