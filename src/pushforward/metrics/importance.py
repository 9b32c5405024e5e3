"""What importance weights w_i = p̃(x_i)/q(x_i), x_i ~ q, say of an unnormalised density p̃ and of the proposal q.

    Z ≈ (1/N) Σ w_i,      effective sample size (Σw)²/Σw²

Both are only as good as the largest weights allow. Those follow a generalised Pareto distribution, whose shape k says how many
of their moments are finite: with k < ½ the variance is, above 0.7 no practical number of draws will do (Vehtari et al. 2015,
arXiv:1507.02646). All functions take log w (N,), where −∞ is a weight of zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, to_numpy
from pushforward.metrics.likelihood import effective_sample_size, log_mean_exp

_LEAST = 25  # draws below which a tail is not looked at


@dataclass(frozen=True)
class Importance:
    """The summary of N weights.

    ``log_normaliser`` is log Z in nats with its standard error, ``effective`` the effective sample size (1 … N; 0 where all
    weights are), ``k_hat`` the shape of the tail (NaN where there are too few draws), ``n`` the number of draws.
    """

    log_normaliser: Estimate
    effective: float
    k_hat: float
    n: int

    @property
    def efficiency(self) -> float:
        """Effective draws per draw, in [0, 1]; 1 where q is p."""
        return self.effective / self.n

    @property
    def trustworthy(self) -> bool:
        """Whether the weights' tail is light enough for the figures to mean what they say with this many draws."""
        return self.k_hat < threshold(self.n)

    def __str__(self) -> str:
        verdict = "" if self.trustworthy else ": not to be trusted, the tail of the weights is too heavy"
        return (
            f"log Z = {self.log_normaliser}, effective sample size {self.effective:.0f} of {self.n}, "
            f"Pareto k = {self.k_hat:.2f}{verdict}"
        )


def threshold(n: int) -> float:
    """The largest k that N draws cope with, min(1 − 1/log₁₀ N, 0.7) (Vehtari et al. 2024)."""
    return min(1 - 1 / math.log10(n), 0.7) if n > 10 else 0.0


def importance(log_weights: Values) -> Importance:
    """The summary of ``log_weights`` (N,). DataError for an empty array, one that is not (N,), and for NaN or +∞."""
    log_w = _checked(log_weights)
    return Importance(log_normaliser(log_w), float(effective_sample_size(log_w[:, None])[0]), pareto_k(log_w), len(log_w))


def log_normaliser(log_weights: Values) -> Estimate:
    """log of the mean weight, and its standard error sd(w)/(mean(w)·√N)."""
    value, error = log_mean_exp(_checked(log_weights)[:, None])
    return Estimate(float(value[0]), float(error[0]))


def pareto_k(log_weights: Values) -> float:
    """The shape k̂ of the largest weights; −∞ where they are equal, NaN for fewer than 25 draws or where most are zero."""
    log_w = _checked(log_weights)
    tail = _tail(log_w)
    if tail is None:
        return math.nan
    excess, _ = tail
    return generalised_pareto(excess)[0] if excess[-1] > 0 else -math.inf


def smoothed(log_weights: Values) -> tuple[NDArray[np.float64], float]:
    """log weights (N,) whose largest are replaced by the quantiles of the tail fitted to them, none above the largest, and k̂.

    Figures from smoothed weights vary less from run to run, at the price of a small bias (Vehtari et al. 2015, section 3).
    """
    log_w = _checked(log_weights).copy()
    tail = _tail(log_w)
    if tail is None or tail[0][-1] <= 0:
        return log_w, pareto_k(log_w)
    excess, cut = tail
    k, sigma = generalised_pareto(excess)
    count, top = len(excess), float(log_w.max())
    p = (np.arange(count) + 0.5) / count
    quantiles = sigma * -np.log1p(-p) if abs(k) < 1e-12 else sigma * np.expm1(-k * np.log1p(-p)) / k
    order = np.argsort(log_w, kind="stable")[-count:]
    log_w[order] = np.minimum(np.log(quantiles + math.exp(cut - top)) + top, top)
    return log_w, k


def generalised_pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Shape k and scale σ of F(y) = 1 − (1 + ky/σ)^(−1/k) fitted to ascending ``excess`` (M,) ≥ 0.

    By the mean of a quasi-posterior of b = −k/σ on a grid (Zhang & Stephens 2009); k is then drawn to ½ as by ten more
    observations (Vehtari et al. 2015, appendix), which steadies it where M is small.
    """
    count = len(excess)
    grid = 30 + int(math.sqrt(count))
    quarter = excess[int(count / 4 + 0.5) - 1]
    i = np.arange(1, grid + 1)
    b = 1 / excess[-1] + (1 - np.sqrt(grid / (i - 0.5))) / (3 * max(quarter, 1e-300))
    k = np.log1p(-b[:, None] * excess).mean(1)
    profile = count * (np.log(-b / k) - k - 1)
    weight = np.exp(profile - profile.max())
    mean = float((b * weight).sum() / weight.sum())
    shape = float(np.log1p(-mean * excess).mean())
    scale = -shape / mean
    return (count * shape + 10 * 0.5) / (count + 10), scale


def _tail(log_w: NDArray[np.float64]) -> tuple[NDArray[np.float64], float] | None:
    """How far the largest weights exceed the cut, ascending, in units of the largest; and the log of the cut."""
    n = len(log_w)
    count = int(min(0.2 * n, 3 * math.sqrt(n)))
    ordered = np.sort(log_w)
    if n < _LEAST or not np.isfinite(ordered[n - count - 1]):
        return None
    cut, top = float(ordered[n - count - 1]), float(ordered[-1])
    return np.exp(ordered[n - count :] - top) - math.exp(cut - top), cut


def _checked(log_weights: Values) -> NDArray[np.float64]:
    array = to_numpy(log_weights, "log_weights").astype(np.float64)
    if array.ndim != 1 or not len(array):
        raise DataError(f"found log_weights of shape {array.shape}: expected a non-empty (N,) array")
    if np.isnan(array).any() or (array == np.inf).any():
        raise DataError("log_weights hold NaN or +inf: expected finite numbers, or -inf for a weight of zero")
    return array
