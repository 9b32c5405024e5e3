"""Which of a known set of modes do samples reach? For grids and rings of normals, where a collapsed generator shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import (
    Estimate,
    Values,
    as_samples,
    mean_row,
    proportion,
    row_blocks,
    same_width,
    squared_distances,
)


@dataclass(frozen=True)
class ModeCoverage:
    """``found`` modes of ``modes`` have a sample within the radius; ``quality`` is the share of samples within one.

    ``divergence`` is KL(share of each mode ‖ uniform) of those samples in nats, from 0 to log K; it is biased upwards by
    (K − 1)/2n. ``counts`` (K,) has the samples of each mode. The error of ``found`` says how it would vary from one set of
    samples to the next.
    """

    found: Estimate
    quality: Estimate
    divergence: Estimate
    counts: NDArray[np.int64]

    @property
    def modes(self) -> int:
        return len(self.counts)


def mode_coverage(samples: Values, centres: Values, radius: float) -> ModeCoverage:
    """Which of ``centres`` (K, D) ``samples`` (N, D) reach: a sample belongs to the nearest one, if that is within ``radius``.

    Three standard deviations of a mode are customary (Srivastava et al. 2017, arXiv:1705.07761). DataError for unfit arrays
    or a radius that is not positive.
    """
    x, middle = as_samples(samples, "samples"), as_samples(centres, "centres")
    same_width(x, middle, "samples", "centres")
    if not (radius > 0 and math.isfinite(radius)):
        raise DataError(f"found radius={radius}: expected a positive number in the columns' unit")
    offset, counts = mean_row(middle), np.zeros(len(middle), dtype=np.int64)
    for rows in row_blocks(len(x), max(len(middle), x.shape[1])):
        squares = squared_distances(x[rows] - offset, middle - offset)
        near = squares.argmin(1)
        good = squares[np.arange(len(near)), near] <= radius**2
        counts += np.bincount(near[good], minlength=len(middle))
    total = int(counts.sum())
    missed = (1 - counts / len(x)) ** len(x)
    found = Estimate(float((counts > 0).sum()), float(np.sqrt((missed * (1 - missed)).sum())))
    return ModeCoverage(found, proportion(total, len(x)), _divergence(counts, total), counts)


def _divergence(counts: NDArray[np.int64], total: int) -> Estimate:
    if total == 0:
        return Estimate(math.nan, math.nan)
    share = counts[counts > 0] / total
    surprise = np.log(share * len(counts))
    mean = float(share @ surprise)
    spread = float(share @ (surprise - mean) ** 2)
    return Estimate(max(mean, 0.0), math.sqrt(spread / total))
