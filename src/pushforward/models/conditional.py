"""What some coordinates of a Gaussian mixture say of the others, in closed form.

    p(y_m | y_o) = Σ_k r_k N(y_m; ŷ_km, C_km),       r_k = π_k N(y_o; μ_ko, Σ_koo) / Σ_j …
    E[y_m | y_o] = Σ_k r_k ŷ_km,    Cov[y_m | y_o] = Σ_k r_k (C_km + (ŷ_km − E)(ŷ_km − E)ᵀ)

with ŷ and C as in models/gaussians: regression on any coordinates given any others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.random import Draws
from pushforward.models.densities import Densities, DiagonalGaussians
from pushforward.models.gaussians import FullGaussians
from pushforward.models.mixture import OfGaussians

_NODES = 32  # of Gauss–Hermite quadrature


@dataclass(frozen=True)
class Conditional:
    """p(y_m | y_o), a mixture of Gaussians for each row: ``weights`` (B, K), ``means`` (B, K, M), ``covariances`` (K, M, M).

    ``unknown`` (M,) says which coordinates y_m are.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    unknown: Tensor

    def mean(self) -> Tensor:
        """E[y_m | y_o], (B, M)."""
        return torch.einsum("bk,bkm->bm", self.weights, self.means)

    def covariance(self) -> Tensor:
        """Cov[y_m | y_o], (B, M, M): the components' own, and what lies between them."""
        apart = self.means - self.mean()[:, None]
        within = torch.einsum("bk,kij->bij", self.weights, self.covariances)
        return within + torch.einsum("bk,bki,bkj->bij", self.weights, apart, apart)

    def log_prob(self, y: Tensor) -> Tensor:
        """log p(y_m | y_o) of y (B, M), (B,)."""
        normal = torch.distributions.MultivariateNormal(self.means, covariance_matrix=self.covariances)
        return (self.weights.log() + normal.log_prob(y[:, None])).logsumexp(1)


@torch.no_grad()
def conditional(mixture: OfGaussians, x: Tensor, observed: Tensor, draws: Draws | None = None) -> Conditional:
    """p(y_m | y_o) in the coordinates y = ``transform``.pull(x) for codes x (B, …); ``observed`` (…) alike in all rows.

    Raises ValueError where rows differ in what they know.
    """
    y, known = mixture.known(x, observed.expand(x.shape), draws or Draws(0, 0, len(x), device=x.device))
    if not bool((known == known[:1]).all()):
        raise ValueError("found gaps in some rows where others have none: expected rows that know the same coordinates")
    o, m = known[0].nonzero().flatten(), (~known[0]).nonzero().flatten()
    log_p, filled, spread = _given(mixture.densities, y, o, m)
    return Conditional((log_p + mixture.weights.log()).softmax(1), filled, spread, m)


@torch.no_grad()
def regress(mixture: OfGaussians, x: Tensor, observed: Tensor, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
    """E[x_m | x_o] and Var[x_m | x_o] of each code on its own, both (B, …), for codes x; what is ``observed`` stays, with
    variance 0. Rows may differ in what they know.

    In the data's units: each coordinate of y_m is a mixture of normals, taken through ``push`` by Gauss–Hermite quadrature,
    which is exact where the transform is affine. Categories have the moments of their codes: a boolean's mean is its chance.
    """
    observed = observed.expand(x.shape)
    y, known = mixture.known(x, observed, draws or Draws(0, 0, len(x), device=x.device))
    t, h = (torch.from_numpy(a).to(y) for a in _hermite())
    zeros = torch.zeros(x.shape, dtype=y.dtype, device=y.device)
    mean, second = zeros, zeros.clone()
    patterns, which = known.unique(dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        at, o, m = (which == i).nonzero().flatten(), pattern.nonzero().flatten(), (~pattern).nonzero().flatten()
        log_p, centre, spread = _given(mixture.densities, y[at], o, m)
        share = (log_p + mixture.weights.log()).softmax(1)
        std = spread.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        for k in range(mixture.components):
            for node, height in zip(t, h, strict=True):
                point = y[at]
                point[:, m] = centre[:, k] + node * std[k]
                pushed = mixture.transform.push(point).to(y.dtype)
                by = (height * share[:, k]).view(-1, *(1,) * (x.dim() - 1))
                mean[at] += by * pushed
                second[at] += by * pushed.square()
    variance = (second - mean.square()).clamp(min=0)
    return torch.where(observed, x.to(y.dtype), mean), variance.masked_fill(observed, 0.0)


def _given(densities: Densities, y: Tensor, o: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``FullGaussians.given``; where coordinates are independent the known ones say nothing of the others but k."""
    if isinstance(densities, FullGaussians):
        return densities.given(y, o, m)
    if not isinstance(densities, DiagonalGaussians):
        raise TypeError(f"found {type(densities).__name__}: expected a mixture of Gaussians")
    known = torch.zeros(densities.size, dtype=torch.bool, device=y.device).index_fill(0, o, True)
    log_p = densities.log_prob(densities.see(y, known.expand(len(y), -1)))
    return log_p, densities.means[:, m].expand(len(y), -1, -1), densities.covariances[:, m][:, :, m]


@cache
def _hermite() -> tuple[Any, Any]:
    """Nodes and weights for the mean of a function of a standard normal number."""
    t, h = np.polynomial.hermite_e.hermegauss(_NODES)
    return t, h / math.sqrt(2 * math.pi)
