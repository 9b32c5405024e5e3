"""Is a density calibrated? Where it is right, the rank of a data row among samples of the model is uniform on [0, 1].

    rank of a row = P(log p(X) < log p(row)),  X ~ p        (the share of the model's own samples that are less likely)
    PIT of a number = F(x), the model's distribution function at it

Ranks that gather at 0 say that data lie where the model is thin (it is too narrow, or misplaced), ranks at 1 that it is
too wide; a hump in the middle is what a good model with the wrong shape can have too, so this finds faults but proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, generator, to_numpy
from pushforward.metrics.likelihood import mean_with_error


@dataclass(frozen=True)
class Calibration:
    """How uniform ranks (N,) are.

    ``ks`` is the largest gap between their distribution and the uniform one, in [0, 1], with ``p_value``; ``mean`` is ½ where
    calibrated. ``shares`` (bins,) are those of equal bins of [0, 1], for a picture, each 1/bins ± ``share_error`` where
    calibrated. ``samples`` counts the model's samples, 0 where none were needed.
    """

    ks: float
    p_value: float
    mean: Estimate
    shares: NDArray[np.float64]
    share_error: float
    ranks: NDArray[np.float64]
    samples: int


def pit_calibration(values: Values, bins: int = 20) -> Calibration:
    """Of the distribution function at each row, ``values`` (N,) in [0, 1], one column at a time. DataError for unfit values."""
    ranks = _numbers(values, "values")
    if ranks.min() < 0 or ranks.max() > 1:
        raise DataError(f"found values from {ranks.min():.4g} to {ranks.max():.4g}: expected probabilities in [0, 1]")
    return _summary(ranks, bins, 0)


def density_calibration(log_prob: Values, sample_log_prob: Values, bins: int = 20, seed: int = 0) -> Calibration:
    """Of the log densities that a model gives test rows, ``log_prob`` (N,), and its own samples, ``sample_log_prob`` (S,).

    Both in one unit, of one kind of density (two lower bounds will do); −∞ is allowed. Equal values take their places at
    random, with ``seed``, so that ranks of a calibrated model are uniform in any case. The p-value is that of the two-sample
    Kolmogorov–Smirnov test, which counts that samples are finitely many. DataError for NaN, +∞ or empty arrays.
    """
    rows, drawn = _numbers(log_prob, "log_prob"), np.sort(_numbers(sample_log_prob, "sample_log_prob"))
    below, upto = np.searchsorted(drawn, rows, "left"), np.searchsorted(drawn, rows, "right")
    ranks = (below + generator(seed, 1).random(len(rows)) * (upto - below + 1)) / (len(drawn) + 1)
    return _summary(ranks, bins, len(drawn))


def _summary(ranks: NDArray[np.float64], bins: int, samples: int) -> Calibration:
    from scipy.stats import kstwo, kstwobign

    if bins < 1:
        raise DataError(f"found bins={bins}: expected at least 1")
    n = len(ranks)
    ordered = np.sort(ranks)
    gap = float(max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max()))
    if samples:
        size = n * samples / (n + samples)
        p_value = float(kstwobign.sf(gap * np.sqrt(size)))
    else:
        size, p_value = n, float(kstwo.sf(gap, n))
    place = np.minimum((ranks * bins).astype(np.int64), bins - 1)
    shares = np.bincount(place, minlength=bins) / n
    spread = mean_with_error(ranks)
    # the samples' own error comes on top of the rows'
    mean = Estimate(spread.value, spread.standard_error * float(np.sqrt(n / size)))
    return Calibration(gap, p_value, mean, shares, float(np.sqrt((1 - 1 / bins) / bins / size)), ranks, samples)


def _numbers(values: Values, name: str) -> NDArray[np.float64]:
    array = to_numpy(values, name).astype(np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"found {name} of shape {array.shape}: expected a non-empty (N,) array")
    if np.isnan(array).any() or (array == np.inf).any():
        raise DataError(f"found NaN or +∞ in {name}: expected numbers, or −∞ for what the model calls impossible")
    return array
