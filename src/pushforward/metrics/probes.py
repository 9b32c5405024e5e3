"""What codes, the representations of examples, are good for.

Codes are finite numbers (N, D), labels whole numbers (N,); DataError otherwise.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import (
    Estimate,
    Floats,
    Values,
    as_labels,
    as_samples,
    generator,
    mean_row,
    proportion,
    row_blocks,
    same_width,
    squared_distances,
    triangular,
)

_TEMPERATURE = 0.07
_PENALTIES = (1.0, 0.03, 0.001)
"""Ridge penalties beside the mean loss over rows, so that their best value depends little on how many rows there are."""


def linear_probe(
    train_codes: Values, train_labels: Values, test_codes: Values, test_labels: Values, seed: int = 0, max_iter: int = 300
) -> Estimate:
    """Test accuracy, in [0, 1], of multinomial logistic regression on codes (Alain & Bengio 2016, arXiv:1610.01644).

    Codes are standardised with the training rows. The ridge penalty is the best of three on a fifth of the training rows,
    the stronger one where they tie; the model is then fitted to all of them. A label never seen in training counts as
    missed. The error is the binomial one over test rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    codes, labels, queries, truth = _checked(train_codes, train_labels, test_codes, test_labels)
    mean, scale = codes.mean(0, dtype=np.float64), codes.std(0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1)
    codes, queries = (codes - mean) / scale, (queries - mean) / scale

    def fit(rows: NDArray[np.int64], penalty: float, x: NDArray[np.float64]) -> NDArray[np.int64]:
        if len(np.unique(labels[rows])) < 2:
            return np.full(len(x), labels[rows][0])
        model = LogisticRegression(C=1 / (penalty * len(rows)), max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly fitted probe is a fair probe
            return np.asarray(model.fit(codes[rows], labels[rows]).predict(x))

    order = generator(seed, 1).permutation(len(codes))
    held = len(order) // 5
    best = _PENALTIES[0]
    if held:
        scores = [float((fit(order[held:], p, codes[order[:held]]) == labels[order[:held]]).mean()) for p in _PENALTIES]
        best = _PENALTIES[int(np.argmax(scores))]
    guess = fit(np.arange(len(codes)), best, queries)
    return proportion(int((guess == truth).sum()), len(truth))


def knn_accuracy(
    train_codes: Values,
    train_labels: Values,
    test_codes: Values,
    test_labels: Values,
    k: int = 20,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Estimate:
    """Test accuracy, in [0, 1], of a vote of the ``k`` nearest training codes (all of them where there are fewer).

    ``cosine`` weighs a vote by exp(similarity/0.07) as in Wu et al. 2018, arXiv:1805.01978; ``euclidean`` counts votes and
    gives a tie to the nearer neighbours. The error is the binomial one over test rows.
    """
    codes, labels, queries, truth = _checked(train_codes, train_labels, test_codes, test_labels)
    if k < 1:
        raise DataError(f"found k={k}: expected at least 1")
    if metric not in ("cosine", "euclidean"):
        raise DataError(f"found metric {metric!r}: expected 'cosine' or 'euclidean'")
    classes, place = np.unique(labels, return_inverse=True)
    k = min(k, len(codes))
    if metric == "cosine":
        codes, queries = _unit(codes), _unit(queries)
    else:
        centre = mean_row(codes)
        codes, queries = codes - centre, queries - centre
    hits = 0
    for rows in row_blocks(len(queries), max(len(codes), queries.shape[1], len(classes))):
        if metric == "cosine":
            gaps = 1 - queries[rows] @ codes.T
        else:
            gaps = squared_distances(queries[rows].astype(np.float64), codes.astype(np.float64))
        near = np.argpartition(gaps, k - 1, axis=1)[:, :k]
        far = np.take_along_axis(gaps, near, 1)
        if metric == "cosine":
            # less the best similarity, which scales every vote alike
            weights = np.exp((far.min(1, keepdims=True) - far) / _TEMPERATURE)
        else:
            rank = far.argsort(1, kind="stable").argsort(1, kind="stable")
            weights = 1 - rank * (0.5 / k**2)  # together less than one vote: only ties are decided by it
        row = np.arange(len(near))[:, None]
        flat = (row * len(classes) + place[near]).ravel()
        votes = np.bincount(flat, weights=weights.ravel(), minlength=len(near) * len(classes)).reshape(len(near), -1)
        hits += int((classes[votes.argmax(1)] == truth[rows]).sum())
    return proportion(hits, len(truth))


def effective_rank(codes: Values) -> float:
    """How many directions centred codes (N, D) really use: exp of the entropy of their normalised singular values.

    Between 1 and min(N−1, D); equal spread in r directions gives r, near 1 means collapse onto a line, and codes that are
    all alike give 0. Roy & Vetterli 2007; used on codes by Garrido et al. 2023, arXiv:2210.02885.
    """
    array = as_samples(codes, "codes", minimum=2)
    if (array == array[0]).all():  # the rounded mean would leave dust
        return 0.0
    spread = np.linalg.svd(triangular(array), compute_uv=False)
    share = spread / spread.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def _unit(x: Floats) -> NDArray[np.float64]:
    """Rows scaled to length 1; rows of zeros stay, and are equally far from all."""
    rows = x.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _checked(
    train_codes: Values, train_labels: Values, test_codes: Values, test_labels: Values
) -> tuple[Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
    codes, queries = as_samples(train_codes, "train_codes"), as_samples(test_codes, "test_codes")
    same_width(codes, queries, "train_codes", "test_codes")
    labels = as_labels(train_labels, "train_labels", len(codes))
    return codes, labels, queries, as_labels(test_labels, "test_labels", len(queries))
