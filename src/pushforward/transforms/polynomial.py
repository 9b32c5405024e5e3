"""Increasing polynomials on [−bound, bound], with straight lines beyond.

Bernstein (Ramasinghe et al. 2021, arXiv:2102.03509), s = (x + bound) / (2 bound), b_{i,M}(s) = C(M, i) sⁱ (1−s)^{M−i}:

    z = Σ_i θ_i b_{i,M}(s),    ∂z/∂x = Σ_i e^{c_i} b_{i,M−1}(s),    θ_{i+1} − θ_i = (2 bound / M) e^{c_i}

increasing as the θ are. All terms of the slope are positive, so nothing cancels: it is an average of the e^{c_i}.

Sum of squares (Jaini et al. 2019, arXiv:1905.02325), s = x / bound, z the integral of a slope that is a sum of squares. On an
interval two squares are enough: a polynomial of degree 2L is nonnegative on [−1, 1] exactly if it is p² + (1 − s²) q² with p
of degree L and q of degree L − 1 (Lukács; Szegő 1939, theorem 1.21.1). In Chebyshev polynomials T and U,

    ∂z/∂x = ε + (1 − ε) (p² + (1 − s²) q²),   p = T_L + Σ_{j ≤ L} a_j T_j,   q = U_{L−1} + Σ_{j < L} b_j U_j

is 1 at a = b = 0, since T_L² + (1 − s²) U_{L−1}² = 1, and there its derivatives in a and b are T_{L−j} ± T_{L+j}, which span
all polynomials of degree 2L. (K squares of 1 + Σ a_j sʲ would start alike, and gradients would not tell them apart.) The
slope's values at 2L + 1 Chebyshev nodes determine it, and its integral is a matrix applied to them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from pushforward.transforms.monotone import soft_clip
from pushforward.transforms.rootfinding import Increasing, LinearTails


def _powers(s: Tensor, top: int) -> Tensor:
    """1, s, …, s^top of s (B, D): (B, top + 1, D)."""
    powers = torch.stack([torch.ones_like(s), s], 1)
    while powers.shape[1] <= top:
        powers = torch.cat([powers, powers[:, 1:] * powers[:, -1:]], 1)
    return powers[:, : top + 1]


class Bernstein(LinearTails):
    """Polynomials of ``degree`` M: P = M + 1 parameters, the height of the middle and M logarithms of slopes, clipped to
    [log ``slope``, −log ``slope``]."""

    rows: Tensor

    def __init__(self, degree: int = 16, bound: float = 4.0, slope: float = 1e-3) -> None:
        super().__init__()
        if degree < 1 or bound <= 0 or not 0 < slope < 1:
            raise ValueError(f"found degree {degree}, bound {bound}, slope {slope}: expected 1 or more, above 0, within (0, 1)")
        self.degree, self.bound, self.slope, self.params = degree, bound, slope, degree + 1
        rows = [[math.comb(m, i) for i in range(degree + 1)] for m in (degree - 1, degree)]
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float64)[:, :, None], persistent=False)

    def _inside(self, params: Tensor) -> Increasing:
        slopes = soft_clip(params[:, 1:], -math.log(self.slope)).exp()
        rise = (2 * self.bound / self.degree) * slopes.cumsum(1)
        start = params[:, :1] - rise[:, -1:] / 2
        theta = torch.cat([start, start + rise], 1)
        below, row = self.rows.to(params)

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            s = (x + self.bound) / (2 * self.bound)
            up, down = _powers(s, self.degree), _powers(1 - s, self.degree).flip(1)
            z = (theta * (row * up * down)).sum(1)
            return z, (slopes * (below[:-1] * up[:, :-1] * down[:, 1:])).sum(1).log()

        return f


def chebyshev_angles(n: int) -> np.ndarray:
    """φ such that cos φ are the n Chebyshev nodes."""
    return np.pi * (np.arange(n) + 0.5) / n


def interpolation(n: int) -> np.ndarray:
    """(n, n): values at n Chebyshev nodes to coefficients in T_0 … T_{n−1} of the polynomial through them."""
    degrees = np.arange(n)
    return (2 - (degrees == 0))[:, None] / n * np.cos(degrees[:, None] * chebyshev_angles(n))


def integration(n: int) -> np.ndarray:
    """(n + 1, n): as ``interpolation``, to coefficients in T_0 … T_n of that polynomial's integral from 0."""
    return chebyshev.chebint(interpolation(n), lbnd=0, axis=0)


def chebyshev_terms(s: Tensor, top: int) -> Tensor:
    """T_0 … T_top of s (B, D): (B, top + 1, D)."""
    terms = torch.stack([torch.ones_like(s), s], 1)
    while terms.shape[1] <= top:  # T_{k+j} = 2 T_k T_j − T_{k−j}
        terms = torch.cat([terms, 2 * terms[:, -1:] * terms[:, 1:] - terms[:, :-1].flip(1)], 1)
    return terms[:, : top + 1]


class SumOfSquares(LinearTails):
    """Integrals of slopes of degree 2L, ``degree`` = L: P = 2L + 2 parameters, which are z at 0, the a_j and the b_j, these
    clipped to ±``clip``. Slopes are at least ``slope``.
    """

    at_nodes_p: Tensor
    at_nodes_q: Tensor
    first_kind: Tensor
    area: Tensor

    def __init__(self, degree: int = 6, bound: float = 4.0, slope: float = 1e-2, clip: float = 10.0) -> None:
        super().__init__()
        if degree < 1 or bound <= 0 or not 0 <= slope < 1:
            raise ValueError(f"found degree {degree}, bound {bound}, slope {slope}: expected 1 or more, above 0, within [0, 1)")
        self.degree, self.bound, self.slope, self.clip, self.params = degree, bound, slope, clip, 2 * degree + 2
        n, j, k = 2 * degree + 1, np.arange(degree + 1), np.arange(degree)
        angle = chebyshev_angles(n)[:, None]
        tables = {
            "at_nodes_p": np.cos(j * angle),  # T_j(cos φ) = cos jφ
            "at_nodes_q": np.sin((k + 1) * angle),  # √(1 − s²) U_k(s) = sin (k + 1)φ
            # U_k = 2 (T_k + T_{k−2} + …), a last T_0 once
            "first_kind": (2 - (j == 0))[:, None] * ((j[:, None] <= k) & ((k - j[:, None]) % 2 == 0)),
            "area": integration(n),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).double(), persistent=False)

    def _inside(self, params: Tensor) -> Increasing:
        a, b = soft_clip(params[:, 1:], self.clip).split([self.degree + 1, self.degree], 1)
        a, b = torch.cat([a[:, :-1], 1 + a[:, -1:]], 1), torch.cat([b[:, :-1], 1 + b[:, -1:]], 1)
        squares = (self.at_nodes_p.to(a) @ a).square() + (self.at_nodes_q.to(b) @ b).square()
        area, b = self.area.to(a) @ squares, self.first_kind.to(b) @ b

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            s = x / self.bound
            terms = chebyshev_terms(s, 2 * self.degree + 1)
            few = terms[:, : self.degree + 1]
            p, q = (a * few).sum(1), (b * few).sum(1)
            z = params[:, 0] + self.slope * x + (1 - self.slope) * self.bound * (area * terms).sum(1)
            return z, (self.slope + (1 - self.slope) * (p.square() + (1 - s) * (1 + s) * q.square())).log()

        return f
