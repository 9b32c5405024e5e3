"""Can a classifier tell two sets of samples apart?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from pushforward.core.errors import DataError
from pushforward.core.random import mix
from pushforward.metrics._arrays import Values, as_pair, generator, proportion, subsample


@dataclass(frozen=True)
class ClassifierTwoSample:
    """The outcome of a classifier two-sample test; 0.5 means indistinguishable, 1 means told apart every time.

    ``accuracy`` and ``auc`` are held out, in [0, 1]; ``standard_error`` is that of the accuracy; ``rows`` counts the
    held-out rows, half from each set.
    """

    accuracy: float
    standard_error: float
    auc: float
    rows: int


def classifier_two_sample(x: Values, y: Values, seed: int = 0, folds: int = 5, limit: int = 4000) -> ClassifierTwoSample:
    """Held-out accuracy of a classifier trained to tell x (N, D) from y (M, D): Lopez-Paz & Oquab 2017, arXiv:1610.06545.

    Both sets are cut at random to min(N, M, ``limit``) rows, at least 2·``folds``, and each row is judged once by a
    classifier that was trained on the other folds. The classifier averages a small neural network, which sees smooth
    dependence between columns, and boosted trees, which see atoms and gaps. Columns are standardised on the training folds.
    The error is the binomial one; folds share training rows, which makes it up to a fifth too small where the sets agree.
    A value clearly below 0.5 means that x and y share rows. DataError for unfit arrays, too few rows or folds < 2.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    left, right = as_pair(x, y)
    rows = min(len(left), len(right), limit)
    if folds < 2 or rows < 2 * folds:
        raise DataError(f"found {rows} usable rows a side for {folds} folds: expected folds ≥ 2 and 2 rows a side in each")
    values = np.concatenate([subsample(left, rows, seed, 1), subsample(right, rows, seed, 2)]).astype(np.float64)
    labels = np.repeat([0, 1], rows)
    rng = generator(seed, 3)
    fold = np.concatenate([rng.permutation(np.arange(rows) % folds) for _ in range(2)])
    hits, aucs = 0, []
    for k in range(folds):
        # shuffled, since early stopping and batches should see both sets alike
        train, test = rng.permutation(np.flatnonzero(fold != k)), np.flatnonzero(fold == k)
        mean, scale = values[train].mean(0), values[train].std(0)
        # the columns leave float64 only once centred, so a large offset costs no precision; constant ones stay 0
        codes = ((values - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
        state = mix(seed, k, 4) % (1 << 32)
        network = MLPClassifier(
            (128, 64),
            alpha=1e-2,
            batch_size=128 if len(train) > 200 else "auto",
            learning_rate_init=2e-3,
            max_iter=60,
            early_stopping=len(train) >= 100,
            random_state=state,
        )
        trees = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, max_bins=127, early_stopping=False, random_state=state
        )
        # one thread: the models are small, and threads that wait for each other on a busy machine cost far more than they save
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
            network.fit(codes[train], labels[train])
            trees.fit(codes[train], labels[train])
            score = network.predict_proba(codes[test])[:, 1] + trees.predict_proba(codes[test])[:, 1] - 1
        # a score of exactly 0 says nothing: give it to neither side more often than to the other
        guess = np.where(score == 0, rng.integers(0, 2, len(test)), score > 0)
        hits += int((guess == labels[test]).sum())
        aucs.append(float(roc_auc_score(labels[test], score)))
    estimate = proportion(hits, 2 * rows)
    return ClassifierTwoSample(estimate.value, estimate.standard_error, float(np.mean(aucs)), 2 * rows)
