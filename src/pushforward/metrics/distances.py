"""Distances between two sets of samples.

Each function takes x (N, D) and y (M, D), finite numbers, in numpy or torch, and raises DataError otherwise.
Distances are Euclidean in the units of the columns: bring columns to a common scale first where units differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import (
    Estimate,
    Floats,
    Values,
    as_pair,
    generator,
    mean_row,
    row_blocks,
    square_block,
    subsample,
    triangular,
)

Kernel = Callable[[Tensor, Tensor], Tensor]  # rows (B, D), all rows (M, D) → a new block (B, M)

_EXACT_ROWS = 2048
_EXACT_PLAN = 40_000


def _power(p: float) -> None:
    if not p >= 1 or not np.isfinite(p):
        raise DataError(f"found order p={p}: expected a finite number of at least 1")


def _project(x: Floats, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """x @ directionsᵀ as sorted rows, (K, N), converting a block of x at a time."""
    out = np.empty((len(directions), len(x)))
    for rows in row_blocks(len(x), x.shape[1]):
        out[:, rows] = directions @ x[rows].T
    out.sort(axis=1)
    return out


def sliced_wasserstein(x: Values, y: Values, projections: int = 128, p: float = 2, seed: int = 0) -> Estimate:
    """The sliced Wasserstein distance (mean over directions θ of W_p(θ·x, θ·y)^p)^(1/p), ≥ 0, in the columns' unit.

    θ is uniform on the unit sphere, so a shift by s gives |s|/√D for p = 2. Each one-dimensional distance is exact, also
    for N ≠ M: both quantile functions are steps, compared on the union of their steps. The standard error is that of the
    random directions with the sets held fixed (delta method); it is 0 for D = 1, where one direction says all.
    Bonneel, Rabin, Peyré & Pfister 2015.
    """
    left, right = as_pair(x, y)
    _power(p)
    if projections < 2:
        raise DataError(f"found projections={projections}: expected at least 2")
    n, m, width = len(left), len(right), left.shape[1]
    if width == 1:
        directions = np.ones((1, 1))
    else:
        directions = generator(seed, 1).standard_normal((projections, width))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # the steps of both quantile functions in units of 1/(nm), as whole numbers so that shared steps coincide exactly
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    weights = np.diff(ends, prepend=0) / (n * m)
    at_x, at_y = (ends - 1) // m, (ends - 1) // n
    means = np.empty(len(directions))
    for some in row_blocks(len(directions), max(n, m) * 2):
        gaps = _project(left, directions[some])[:, at_x]
        gaps -= _project(right, directions[some])[:, at_y]
        means[some] = np.abs(gaps, out=gaps) ** p @ weights
    mean = float(means.mean())
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0
    slope = mean ** (1 / p - 1) / p if mean > 0 else 0.0
    return Estimate(mean ** (1 / p), error * slope)


def _self_sums(x: Tensor, kernel: Kernel) -> tuple[NDArray[np.float64], float]:
    """For each row the mean of k over the other rows, (N,), and the variance of k left when row means are taken out."""
    rows_mean, square = np.zeros(len(x)), 0.0
    for rows in row_blocks(len(x), len(x)):
        # each pair once: what lies left of the block is known from the blocks above
        block = kernel(x[rows], x[rows.start :])
        block.diagonal().zero_()
        own, later = block[:, : len(block)], block[:, len(block) :]
        rows_mean[rows] += block.sum(1).numpy()
        rows_mean[rows.stop :] += later.sum(0).numpy()
        square += float(2 * torch.vdot(block.flatten(), block.flatten()) - own.square().sum())
    rows_mean /= len(x) - 1
    rest = square / (len(x) * (len(x) - 1)) - 2 * np.mean(rows_mean**2) + np.mean(rows_mean) ** 2
    return rows_mean, max(float(rest), 0.0)


def _cross_sums(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The mean of k over the other set for each row of x (N,) and of y (M,), and the variance of k left beside them."""
    x_mean, y_mean, square = np.empty(len(x)), np.zeros(len(y)), 0.0
    for rows in row_blocks(len(x), len(y)):
        block = kernel(x[rows], y)
        x_mean[rows] = block.mean(1)
        y_mean += block.sum(0).numpy() / len(x)
        square += float(torch.vdot(block.flatten(), block.flatten()))
    rest = square / (len(x) * len(y)) - np.mean(x_mean**2) - np.mean(y_mean**2) + np.mean(x_mean) ** 2
    return x_mean, y_mean, max(float(rest), 0.0)


def _discrepancy(x: Tensor, y: Tensor, kernel: Kernel) -> Estimate:
    """E k(X, X') + E k(Y, Y') − 2 E k(X, Y) without bias, with its standard error."""
    n, m = len(x), len(y)
    xx, rest_xx = _self_sums(x, kernel)
    yy, rest_yy = _self_sums(y, kernel)
    xy, yx, rest_xy = _cross_sums(x, y, kernel)
    value = float(xx.mean() + yy.mean() - 2 * xy.mean())
    # Hoeffding's decomposition. The spread of the rows' own terms holds their true variance and the noise of the means
    # they are made of; that noise is counted once too often, which would double the variance where x and y agree.
    # Chance must not take the rest below the second-order part, which is known well.
    first = float(np.var(2 * (xx - xy), ddof=1) / n + np.var(2 * (yy - yx), ddof=1) / m)
    second = 4 * rest_xy / (n * m) + 2 * rest_xx / n**2 + 2 * rest_yy / m**2
    return Estimate(value, float(np.sqrt(max(first - second, second))))


def _centred(x: Floats, y: Floats) -> tuple[Tensor, Tensor]:
    """Both as float64 around their common mean, so that products of rows cancel little."""
    centre = mean_row(x, y)
    return torch.from_numpy(x - centre), torch.from_numpy(y - centre)


def energy_distance(x: Values, y: Values) -> Estimate:
    """The energy distance 2E|X−Y| − E|X−X'| − E|Y−Y'|, no square root, in the columns' unit; N, M ≥ 2.

    The estimate is the U-statistic: unbiased, so it can fall below zero where the distributions agree, and it is negative
    for two identical sets. In one dimension it is twice the integral of the squared difference of the distribution
    functions, that is scipy.stats.energy_distance squared (up to the bias of its V-statistic). The standard error is
    asymptotic and counts the second-order part, so it holds where the distributions agree too (there some runs overstate it).
    Székely & Rizzo 2013.
    """
    left, right = as_pair(x, y, minimum=2)
    return _discrepancy(*_centred(left, right), lambda a, b: square_block(a, b).sqrt_().neg_())


def mmd(x: Values, y: Values, bandwidth: float | Literal["median"] = "median", seed: int = 0) -> Estimate:
    """The squared maximum mean discrepancy with kernel exp(−|x−y|²/2h²), between 0 and 2, no unit; N, M ≥ 2.

    Unbiased, so it can fall below zero. ``bandwidth`` h > 0 is in the columns' unit; ``"median"`` takes the median distance
    in the pooled set (at most 500 rows of each, drawn with ``seed``). Compare values only at one bandwidth: the error does
    not count its choice. Gretton, Borgwardt, Rasch, Schölkopf & Smola 2012, JMLR 13.
    """
    left, right = as_pair(x, y, minimum=2)
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise DataError(f"found bandwidth {bandwidth!r}: expected 'median' or a positive number")
        from scipy.spatial.distance import pdist

        part = np.concatenate([subsample(left, 500, seed, 2), subsample(right, 500, seed, 2)]).astype(np.float64)
        gaps = np.sort(pdist(part))
        # more than half of the pairs can coincide in discrete data: then the mean, and any number where all coincide
        scale = float(np.median(gaps)) or float(gaps.mean()) or 1.0
    else:
        scale = float(bandwidth)
        if not (scale > 0 and np.isfinite(scale)):
            raise DataError(f"found bandwidth {bandwidth}: expected a positive number")

    return _discrepancy(*_centred(left, right), lambda a, b: square_block(a, b).div_(-2 * scale**2).exp_())


def kid(x: Values, y: Values, degree: int = 3) -> Estimate:
    """The kernel distance between features: squared MMD with (⟨x, y⟩/D + 1)^``degree``; N, M ≥ 2 (arXiv:1801.01401, 2018).

    Unbiased, so values at different numbers of rows may be compared and it can fall below zero. All pairs are used rather than
    random blocks, whose mean this is; the standard error is that of both samples. No unit, but it depends on the scale of the
    features: they are taken as they are, so x and y must come from one extractor.
    """
    left, right = as_pair(x, y, minimum=2)
    if degree < 1:
        raise DataError(f"found degree={degree}: expected a whole number of at least 1")
    rows = [torch.from_numpy(np.ascontiguousarray(side, dtype=np.float64)) for side in (left, right)]
    return _discrepancy(rows[0], rows[1], lambda a, b: (a @ b.T).div_(a.shape[1]).add_(1).pow_(degree))


def wasserstein_exact(x: Values, y: Values, p: float = 2) -> float:
    """The Wasserstein distance W_p of two small sets with Euclidean cost, (min over plans of E|x−y|^p)^(1/p), ≥ 0.

    Equal sizes up to 2048 rows are solved as an assignment, unequal ones up to N·M = 40 000 as a linear programme.
    Larger sets raise DataError: use sliced_wasserstein there.
    """
    from scipy.optimize import linear_sum_assignment, linprog
    from scipy.sparse import eye_array, kron, vstack
    from scipy.spatial.distance import cdist

    left, right = as_pair(x, y)
    _power(p)
    n, m = len(left), len(right)
    if n > _EXACT_ROWS if n == m else n * m > _EXACT_PLAN:
        limit = f"at most {_EXACT_ROWS} rows each" if n == m else f"N·M of at most {_EXACT_PLAN} for unequal sizes"
        raise DataError(f"found {n} and {m} rows: expected {limit}; take fewer or use sliced_wasserstein")
    cost = cdist(left.astype(np.float64), right.astype(np.float64))
    top = float(cost.max())
    if top == 0:
        return 0.0
    cost = (cost / top) ** p  # in [0, 1], so that neither a tiny unit nor a large p upsets the solver
    if n == m:
        mean = float(cost[linear_sum_assignment(cost)].mean())
    else:
        rows = kron(eye_array(n), np.ones((1, m)), format="csr")
        columns = kron(np.ones((1, n)), eye_array(m), format="csr")
        # the last column sum follows from the others: with it left out the constraints are independent
        constraints = vstack([rows, columns[:-1]], format="csr")
        sums = np.concatenate([np.full(n, 1 / n), np.full(m - 1, 1 / m)])
        solution = linprog(cost.ravel(), A_eq=constraints, b_eq=sums, bounds=(0, None), method="highs")
        if solution.status != 0:
            raise DataError(f"the linear programme for {n} and {m} rows failed: {solution.message}; take equal sizes")
        mean = max(float(solution.fun), 0.0)
    return top * mean ** (1 / p)


def frechet_gaussian(x: Values, y: Values) -> float:
    """The squared Fréchet distance |μx−μy|² + tr(Σx + Σy − 2(Σx Σy)^½) of Gaussian fits, ≥ 0, in squared units; N, M ≥ 2.

    The squared 2-Wasserstein distance of the two Gaussians, as in FID (Heusel et al. 2017, arXiv:1706.08500). Covariances
    divide by N−1. The value is biased upwards for few rows: compare only at equal N and M. Dowson & Landau 1982.
    """
    left, right = as_pair(x, y, minimum=2)
    shift = left.mean(0, dtype=np.float64) - right.mean(0, dtype=np.float64)
    # With Σ = RᵀR the trace of the root is the sum of the singular values of Rx Ryᵀ: no covariance is ever rooted
    root_x, root_y = triangular(left) / np.sqrt(len(left) - 1), triangular(right) / np.sqrt(len(right) - 1)
    overlap = float(np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum())
    traces = float(np.square(root_x).sum() + np.square(root_y).sum())
    return max(float(shift @ shift) + traces - 2 * overlap, 0.0)
