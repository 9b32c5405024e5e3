"""Entropic optimal transport between samples, and the divergence made of it.

    OT_ε(x, y) = min over plans P of  ⟨P, C⟩ + ε KL(P | uniform),      C_ij = |x_i − y_j|^p
    S_ε(x, y)  = OT_ε(x, y) − ½ OT_ε(x, x) − ½ OT_ε(y, y)

OT_ε tends to W_p^p as ε → 0; it is not 0 between equal sets, which S_ε mends (Feydy et al. 2019, arXiv:1810.08278).
Sets are (N, D) and (M, D), or P pairs at once, (P, N, D) and (P, M, D). The iterations are algorithms.entropic_transport's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pushforward.algorithms.entropic_transport import Potentials, sinkhorn_potentials, symmetric_potential
from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_samples, to_numpy

_ROWS = 6000
"""Those of a side: a cost matrix is 275 MiB then, and four are held."""
_TOGETHER = 1 << 20
"""Entries of the costs that are iterated on together: 8 MiB, which caches hold."""


@dataclass(frozen=True)
class Transport:
    """The solution for one pair of sets, shape (), or for each of P pairs, (P,).

    ``value`` is OT_ε in the columns' unit to the power p, with the asymptotic standard error of both samples (del Barrio et
    al. 2022, arXiv:2204.09105), which is that of ``cost`` too; ``epsilon`` is in the same unit. ``f`` (…, N) and ``g`` (…, M)
    are the potentials. ``error`` is the mass that misses its row; ``converged`` says whether it is within the tolerance.
    """

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    epsilon: NDArray[np.float64]
    f: NDArray[np.float64]
    g: NDArray[np.float64]
    error: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    _cost: NDArray[np.float64]

    @property
    def cost(self) -> NDArray[np.float64]:
        """⟨P, C⟩, at least the exact cost of transport, to which it tends as ε → 0."""
        return np.asarray((self.plan() * self._cost).sum((-2, -1)))

    def plan(self) -> NDArray[np.float64]:
        """P, (…, N, M): how much of x_i goes to y_j; the sum is 1."""
        exponent = torch.from_numpy(self.f[..., :, None] + self.g[..., None, :])
        exponent -= torch.from_numpy(self._cost)
        exponent /= torch.from_numpy(np.asarray(self.epsilon)[..., None, None])
        return exponent.exp_().div_(self._cost.shape[-1] * self._cost.shape[-2]).numpy()


def sinkhorn(
    x: Values,
    y: Values,
    epsilon: float = 0.05,
    relative: bool = True,
    p: float = 2,
    tolerance: float = 1e-6,
    iterations: int = 10_000,
) -> Transport:
    """OT_ε of x and y, one pair or P pairs of a size; ``epsilon`` > 0 is in units of the mean cost, or of the cost itself.

    Ends once the mass that misses its row is at most ``tolerance``; look at ``converged`` where ε is small. Time and memory
    grow with N·M; N and M are at most 6000. DataError for unfit arrays or settings, and for sets of which all points are one.
    """
    left, right, batched = _sets(x, y)
    cost = _costs(left, right, _settings(epsilon, p, tolerance, iterations))
    scale = _scale(cost, epsilon, relative)
    found = _solved(cost, scale, tolerance, iterations)
    error = (_variance(found.f) + _variance(found.g)).sqrt()
    values = (found.f.mean(1) + found.g.mean(1), error, scale, found.f, found.g)
    arrays = [v.numpy() for v in (*values, found.error, found.iterations, found.error <= tolerance, cost)]
    return Transport(*(arrays if batched else [a[0] for a in arrays]))


def sinkhorn_divergence(
    x: Values,
    y: Values,
    epsilon: float = 0.05,
    relative: bool = True,
    p: float = 2,
    tolerance: float = 1e-6,
    iterations: int = 10_000,
) -> Estimate | list[Estimate]:
    """S_ε of x and y, ≥ 0 and 0 only for equal sets (1 ≤ p ≤ 2), in the columns' unit^p; a list of estimates for P pairs.

    Arguments as for ``sinkhorn``; a relative ε is in units of the mean cost between x and y. The standard error is asymptotic
    for samples of distributions that differ; where they agree the value is of order 1/N and biased upwards, so compare it with
    that of two halves of the data. DataError where an iteration did not end within the tolerance.
    """
    left, right, batched = _sets(x, y)
    power = _settings(epsilon, p, tolerance, iterations)
    across = _costs(left, right, power)
    scale = _scale(across, epsilon, relative)
    both = _solved(across, scale, tolerance, iterations)
    own_x, own_y = (_alone(_costs(side, side, power), scale, tolerance, iterations) for side in (left, right))
    worst = max(float(error.max()) for error in (both.error, own_x[1], own_y[1]))
    if worst > tolerance:
        raise DataError(
            f"found {worst:.1g} of the mass misplaced after {iterations} iterations: expected at most {tolerance:g}; "
            "take a larger epsilon, more iterations or a looser tolerance"
        )
    f, g = both.f - own_x[0], both.g - own_y[0]
    values, errors = f.mean(1) + g.mean(1), (_variance(f) + _variance(g)).sqrt()
    estimates = [Estimate(float(v), float(e)) for v, e in zip(values, errors, strict=True)]
    return estimates if batched else estimates[0]


def _variance(potential: Tensor) -> Tensor:
    """That of the mean over rows, (P,); NaN for one row."""
    return potential.var(1) / potential.shape[1] if potential.shape[1] > 1 else torch.full_like(potential[:, 0], math.nan)


def _settings(epsilon: float, p: float, tolerance: float, iterations: int) -> float:
    for name, value in (("epsilon", epsilon), ("power p", p), ("tolerance", tolerance), ("iterations", iterations)):
        if not (value > 0 and math.isfinite(value)):
            raise DataError(f"found {name}={value}: expected a positive number")
    return float(p)


def _sets(x: Values, y: Values) -> tuple[Tensor, Tensor, bool]:
    """Both as float64 (P, N, D) around their common mean, and whether they came as pairs."""
    given = [to_numpy(x, "x"), to_numpy(y, "y")]
    batched = given[0].ndim == 3
    if batched and (given[1].ndim != 3 or len(given[0]) != len(given[1]) or 0 in (*given[0].shape, *given[1].shape)):
        raise DataError(f"found shapes {given[0].shape} and {given[1].shape}: expected (P, N, D) and (P, M, D), none empty")
    sides = []
    for array, name in zip(given, "xy", strict=True):
        flat = as_samples(array.reshape(-1, array.shape[-1]) if batched else array, name)
        rows = torch.from_numpy(np.ascontiguousarray(flat, dtype=np.float64))
        sides.append(rows.reshape(len(array) if batched else 1, -1, flat.shape[1]))
    left, right = sides
    if left.shape[2] != right.shape[2]:
        raise DataError(f"found {left.shape[2]} columns in x and {right.shape[2]} in y: expected the same columns")
    if max(left.shape[1], right.shape[1]) > _ROWS:
        raise DataError(f"found {left.shape[1]} and {right.shape[1]} rows: expected at most {_ROWS}; take fewer")
    centre = (left.mean(1, keepdim=True) + right.mean(1, keepdim=True)) / 2
    return left - centre, right - centre, batched


def _costs(left: Tensor, right: Tensor, p: float) -> Tensor:
    """|x_i − y_j|^p, (P, N, M), exactly 0 between equal rows."""
    gaps = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
    return gaps.square_() if p == 2 else gaps.pow_(p)


def _scale(cost: Tensor, epsilon: float, relative: bool) -> Tensor:
    if not relative:
        return torch.full((len(cost),), float(epsilon), dtype=torch.float64)
    mean = cost.mean((1, 2))
    if bool((mean == 0).any()):
        raise DataError("found sets of which all points are one: no mean cost to scale epsilon by; give it with relative=False")
    return epsilon * mean


def _alone(cost: Tensor, epsilon: Tensor, tolerance: float, iterations: int) -> tuple[Tensor, Tensor]:
    parts = []
    for C, scale in zip(*(t.split(max(1, _TOGETHER // cost[0].numel())) for t in (cost, epsilon)), strict=True):
        weights = C.new_full(C.shape[:2], 1 / C.shape[1])
        parts.append(symmetric_potential(C, weights, scale, tolerance, iterations))
    return torch.cat([f for f, _ in parts]), torch.cat([error for _, error in parts])


def _solved(cost: Tensor, epsilon: Tensor, tolerance: float, iterations: int) -> Potentials:
    n, m = cost.shape[1:]
    parts = []
    for C, scale in zip(*(t.split(max(1, _TOGETHER // (n * m))) for t in (cost, epsilon)), strict=True):
        a, b = (C.new_full((len(C), k), 1 / k) for k in (n, m))
        parts.append(sinkhorn_potentials(C, a, b, scale, tolerance, iterations))
    if len(parts) == 1:
        return parts[0]
    return Potentials(*(torch.cat([getattr(p, k) for p in parts]) for k in ("f", "g", "error", "iterations")))
