"""How good predicted classes and class probabilities are.

Labels are whole numbers 0 … C−1, (N,). Probabilities are (N, C) with rows that sum to 1. DataError otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_labels, as_samples, proportion
from pushforward.metrics.likelihood import mean_with_error


def accuracy(predicted: Values, labels: Values) -> Estimate:
    """The share of ``predicted`` labels (N,) that equal ``labels`` (N,), in [0, 1], with the binomial error."""
    truth = as_labels(labels, "labels")
    guess = as_labels(predicted, "predicted", len(truth))
    return proportion(int((guess == truth).sum()), len(truth))


def top_k(probabilities: Values, labels: Values, k: int = 5) -> Estimate:
    """The share of rows whose label is among the ``k`` likeliest classes, in [0, 1]; of equal classes the first counts."""
    chances, truth = _checked(probabilities, labels)
    if k < 1:
        raise DataError(f"found k={k}: expected at least 1")
    own = chances[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(chances.shape[1])[None, :] < truth[:, None]
    rank = (chances > own).sum(1) + ((chances == own) & earlier).sum(1)
    return proportion(int((rank < k).sum()), len(truth))


def log_loss(probabilities: Values, labels: Values, clip: float = 1e-12) -> Estimate:
    """The mean of −log p(label), ≥ 0, in nats; probabilities below ``clip`` count as ``clip``, so it stays finite."""
    chances, truth = _checked(probabilities, labels)
    if not 0 < clip < 1:
        raise DataError(f"found clip={clip}: expected a number between 0 and 1")
    own = np.minimum(chances[np.arange(len(truth)), truth], 1.0)  # rounding may push a probability past 1
    return mean_with_error(-np.log(np.maximum(own, clip)))


def brier(probabilities: Values, labels: Values) -> Estimate:
    """The mean over rows of Σ_c (p_c − [c is the label])², in [0, 2]; a constant 1/C guess gives 1 − 1/C (Brier 1950)."""
    chances, truth = _checked(probabilities, labels)
    gaps = chances.copy()
    gaps[np.arange(len(truth)), truth] -= 1
    return mean_with_error(np.square(gaps).sum(1))


def calibration_error(probabilities: Values, labels: Values, bins: int = 15) -> float:
    """The expected calibration error Σ_b (n_b/N)·|accuracy_b − confidence_b|, in [0, 1]: Guo et al. 2017, arXiv:1706.04599.

    Rows go into ``bins`` equal bins of the likeliest class's probability, each open on the left and closed on the right.
    The value is biased upwards for few rows.
    """
    chances, truth = _checked(probabilities, labels)
    if bins < 1:
        raise DataError(f"found bins={bins}: expected at least 1")
    guess = chances.argmax(1)
    confidence = np.minimum(chances.max(1), 1.0)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=(guess == truth) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def confusion_matrix(predicted: Values, labels: Values, classes: int | None = None) -> NDArray[np.int64]:
    """Counts (C, C): row = true label, column = predicted label; C is ``classes`` or one more than the largest label."""
    truth = as_labels(labels, "labels")
    guess = as_labels(predicted, "predicted", len(truth))
    low, top = int(min(truth.min(), guess.min())), int(max(truth.max(), guess.max()))
    size = top + 1 if classes is None else classes
    if low < 0 or top >= size:
        raise DataError(f"found labels from {low} to {top}: expected 0 to {size - 1}")
    return np.bincount(truth * size + guess, minlength=size * size).reshape(size, size).astype(np.int64)


def _checked(probabilities: Values, labels: Values) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    chances = as_samples(probabilities, "probabilities").astype(np.float64)
    truth = as_labels(labels, "labels", len(chances))
    if truth.min() < 0 or truth.max() >= chances.shape[1]:
        raise DataError(f"found labels from {truth.min()} to {truth.max()}: expected 0 to {chances.shape[1] - 1}")
    # wide enough for softmax in half precision
    if chances.min() < 0 or np.abs(chances.sum(1) - 1).max() > 1e-2:
        raise DataError("found rows that are not probabilities: expected numbers ≥ 0 that sum to 1; apply softmax to logits")
    return chances, truth
