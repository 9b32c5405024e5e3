"""Numbers made of log densities: mean and error, bits per dimension, bounds from several draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, to_numpy


@dataclass(frozen=True)
class Likelihood:
    """The mean log density of a data set.

    ``nats_mean`` is in nats per example, ``bits_per_dim`` as the function of that name, each with its standard error.
    ``kind`` says what the numbers are (``exact``, ``ode``, ``lower_bound``), ``n`` counts examples and ``nonfinite`` those
    whose log density is infinite or NaN. With any NaN the mean is NaN, else with any −∞ it is −∞; the errors are NaN then.
    """

    nats_mean: float
    standard_error: float
    bits_per_dim: float
    bits_per_dim_standard_error: float
    kind: str
    n: int
    nonfinite: int


def eight_bit_offset(levels: int | None) -> float:
    """The bits a pixel of ``levels`` L gets in the 8-bit convention beside its own: 8 − log₂ L; none for L = 2 or no levels.

    A grey pixel is a brightness, rounded to one of L cells of the same range, and p(x) is the mass of a cell. In units of the
    256th part of the range, those of an 8-bit pixel, the density is p · (L/256)ᴰ whatever the depth, so that a picture kept
    at 5 bits and at 8 costs about the same: log₂ L bits for what its depth resolves and 8 − log₂ L for what it does not.
    Black-and-white pixels are no rounded brightness (nothing between the two levels is meant), and their bits stay what it
    takes to send them.
    """
    return 0.0 if levels is None or levels == 2 else 8 - math.log2(levels)


def bits_per_dim(log_prob: Values, dims: int, levels: int | None = None) -> NDArray[np.float64]:
    """−log₂ p per dimension of log densities in nats (N,), for examples of ``dims`` dimensions.

    ``levels`` are those of pixels, whose bits are given in the 8-bit convention (:func:`eight_bit_offset`).
    """
    return -np.asarray(log_prob, dtype=np.float64) / (dims * math.log(2)) + eight_bit_offset(levels)


def mean_with_error(values: Values) -> Estimate:
    """The mean of independent values (N,), N ≥ 1, and its standard error s/√N; NaN for N = 1 or non-finite values.

    DataError for an empty array or one that is not (N,).
    """
    array = _vector(values, "values")
    if np.isnan(array).any():
        return Estimate(math.nan, math.nan)
    if not np.isfinite(array).all():
        # data the model calls impossible must not vanish behind a +∞
        return Estimate(-math.inf if (array == -np.inf).any() else math.inf, math.nan)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return Estimate(float(array.mean()), error)


def summary(log_prob: Values, dims: int, kind: str, levels: int | None = None) -> Likelihood:
    """The mean of ``log_prob`` (N,), in nats, over examples of ``dims`` dimensions, as a :class:`Likelihood`.

    ``kind`` is carried along; ``levels`` are those of pixels, as for :func:`bits_per_dim`. DataError for an empty array, one
    that is not (N,), or dims < 1.
    """
    array = _vector(log_prob, "log_prob")
    if dims < 1:
        raise DataError(f"found dims={dims}: expected the number of dimensions of one example, at least 1")
    mean = mean_with_error(array)
    unit = dims * math.log(2)
    return Likelihood(
        nats_mean=mean.value,
        standard_error=mean.standard_error,
        bits_per_dim=float(bits_per_dim(np.array(mean.value), dims, levels)),
        bits_per_dim_standard_error=mean.standard_error / unit,
        kind=kind,
        n=len(array),
        nonfinite=int((~np.isfinite(array)).sum()),
    )


def log_mean_exp(log_weights: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log of the mean of exp(``log_weights``) over K draws, (K, N) → value (N,) and standard error (N,), in nats.

    With weights of mean p(x) the value is in expectation a lower bound on log p(x) that rises with K (Burda et al. 2016,
    arXiv:1509.00519). The error is the delta method's, sd(w)/(mean(w)·√K): NaN for K = 1, and too small where a few draws
    hold all the weight (see effective_sample_size). A column of only −∞ gives −∞; NaN and +∞ pass through.
    DataError for an empty array or one that is not (K, N).
    """
    array = _weights(log_weights)
    draws = len(array)
    top = array.max(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.exp(array - np.where(np.isfinite(top), top, 0.0))
        mean = scaled.mean(0)
        value = np.where(np.isfinite(top), np.log(mean) + top, top)
        if draws == 1:
            return value, np.full(array.shape[1], np.nan)
        error = scaled.std(0, ddof=1) / (mean * math.sqrt(draws))
    return value, np.where(np.isfinite(top), error, np.nan)


def effective_sample_size(log_weights: Values) -> NDArray[np.float64]:
    """(Σw)²/Σw² of importance weights over K draws, (K, N) → (N,), between 1 and K; 0 where every weight is 0 (Kong 1992).

    NaN where a weight is NaN or infinite. DataError for an empty array or one that is not (K, N).
    """
    array = _weights(log_weights)
    top = array.max(0)
    scaled = np.exp(np.where(np.isfinite(top), array - np.where(np.isfinite(top), top, 0.0), np.nan))
    sizes = scaled.sum(0) ** 2 / np.square(scaled).sum(0)
    return np.where(top == -np.inf, 0.0, sizes)


def _vector(values: Values, name: str) -> NDArray[np.float64]:
    array = to_numpy(values, name)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"found {name} of shape {array.shape}: expected a non-empty (N,) array")
    return array.astype(np.float64)


def _weights(values: Values) -> NDArray[np.float64]:
    array = to_numpy(values, "log_weights")
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"found log_weights of shape {array.shape}: expected a non-empty (draws, N) array")
    return array.astype(np.float64)
