"""How good predicted numbers are. Predictions and targets are (N,) or (N, D) of one shape; DataError otherwise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_samples, to_numpy
from pushforward.metrics.likelihood import mean_with_error


def rmse(predicted: Values, target: Values) -> Estimate:
    """The root mean squared error over all entries, ≥ 0, in the target's unit; the error is the delta method's over rows."""
    guess, truth = _checked(predicted, target)
    square = mean_with_error(np.square(guess - truth).mean(1))
    root = math.sqrt(square.value)
    return Estimate(root, square.standard_error / (2 * root) if root > 0 else 0.0)


def mae(predicted: Values, target: Values) -> Estimate:
    """The mean absolute error over all entries, ≥ 0, in the target's unit, with its standard error over rows."""
    guess, truth = _checked(predicted, target)
    return mean_with_error(np.abs(guess - truth).mean(1))


def r2(predicted: Values, target: Values) -> float:
    """The share of variance explained, 1 − Σ(y−ŷ)²/Σ(y−mean)², at most 1, averaged over columns; NaN for constant targets."""
    guess, truth = _checked(predicted, target)
    left = np.square(guess - truth).sum(0)
    whole = np.square(truth - truth.mean(0)).sum(0)
    if (np.ptp(truth, axis=0) == 0).any():
        return math.nan
    return float((1 - left / whole).mean())


def _checked(predicted: Values, target: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    raw = to_numpy(predicted, "predicted"), to_numpy(target, "target")
    if raw[0].shape != raw[1].shape:
        raise DataError(f"found predictions of shape {raw[0].shape} for targets of shape {raw[1].shape}: expected one shape")
    columns = [part[:, None] if part.ndim == 1 else part for part in raw]
    guess, truth = as_samples(columns[0], "predicted"), as_samples(columns[1], "target")
    return guess.astype(np.float64), truth.astype(np.float64)
