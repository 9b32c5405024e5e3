"""Bijections that add to the identity.

Sylvester flows (van den Berg et al. 2018, arXiv:1803.05649) of x (D,) with M units, h = tanh:

    z = x + A h(B x + b),   B = S Qᵀ,   A = Q R + (1 − Q Qᵀ) C,   V = log det(1 + diag(h') B A) = Σ_i log(1 + h'_i S_ii R_ii)

Q (D, M) has orthonormal columns, a product of Householder reflections; R and S (M, M) are upper triangular, so B A = S R is
as well; C (D, M) is free, since what A adds outside the span of Q changes no determinant. With M = 1 this is every planar flow
(Rezende & Mohamed 2015, arXiv:1505.05770). As 0 < h' ≤ 1, it is a bijection if all S_ii R_ii > −1. Its inverse needs y = Qᵀx
alone: Qᵀz = y + R h(S y + b) is triangular, and from the last unit to the first each is one increasing equation of one
unknown, y_i + R_ii h(S_ii y_i + c) = w, with |y_i − w| ≤ |R_ii|.

Residual flows (Behrmann et al. 2019, arXiv:1811.00995; Chen et al. 2019, arXiv:1906.02735): z = x + g(x), a bijection if g has
a Lipschitz constant κ < 1. g = W_n φ(… φ(W_1 x)), φ(u) = u σ(u) / 1.1 of slope at most 1, every W scaled down to a spectral
norm of at most κ^{1/n}. The Jacobian J of g is a product of matrices, and V = log det(1 + J). For many coordinates an unbiased
estimate is cheaper, in training only (Hutchinson 1990; Russian roulette):

    V ≈ Σ_{k=1}^{n+N} (−1)^{k+1}/k · vᵀJᵏv / P(N ≥ k − n),    v_i = ±1,   P(N ≥ m) = qᵐ

The inverse: x ← z − g(x) multiplies the error |x + g(x) − z| by κ at most, and the distance to the solution is under
1 / (1 − κ) times the error. A Newton step is taken instead wherever it does better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Transform
from pushforward.transforms.monotone import soft_clip
from pushforward.transforms.rootfinding import invert


def _shift(layer: nn.Linear | None, context: Context | None) -> Tensor | float:
    """What the condition adds to the units, (B, units), or 0 for a map built without."""
    width, vector = layer.in_features if layer is not None else 0, context.vector if context is not None else None
    if (0 if vector is None else vector.shape[-1]) != width:
        raise ValueError(
            f"found a context vector of shape {None if vector is None else tuple(vector.shape)}: built for width {width}"
        )
    return 0.0 if layer is None else layer(vector)


class Sylvester(Transform):
    """x (B, ``size``) moved by ``rank`` M ≤ size units; ``context`` is the width of ``Context.vector``, which shifts them.

    Starts as the identity. Along each unit the map is stretched by ``slope`` to 1/``slope``.
    """

    def __init__(self, size: int, rank: int, *, context: int = 0, slope: float = 1e-3) -> None:
        super().__init__()
        if not 1 <= rank <= size or not 0 < slope < 1:
            raise ValueError(
                f"found rank {rank} of size {size}, slope {slope}: expected 1 ≤ rank ≤ size, a slope between 0 and 1"
            )
        self.size, self.rank, self.clip = size, rank, -math.log(slope)
        self.frame = nn.Parameter(torch.randn(size, rank))
        self.inner = nn.Parameter(torch.randn(rank, rank) / rank**0.5)  # S, its diagonal as log S_ii
        self.outer = nn.Parameter(torch.zeros(rank, rank))  # R, its diagonal as log(1 + R_ii S_ii)
        self.across = nn.Parameter(torch.zeros(size, rank))  # C
        self.bias = nn.Parameter(torch.randn(rank))  # b
        self.from_context = nn.Linear(context, rank, bias=False) if context else None

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Q, A, S, R, and the products S_ii R_ii (M,)."""
        tau = 2 / (1 + self.frame.tril(-1).square().sum(0))
        q = torch.linalg.householder_product(self.frame, tau)
        product = soft_clip(self.outer.diagonal(), self.clip).expm1()
        stretch = soft_clip(self.inner.diagonal(), self.clip).exp()
        inner = self.inner.triu(1) + stretch.diag()
        outer = self.outer.triu(1) + (product / stretch).diag()
        return q, q @ outer + self.across - q @ (q.T @ self.across), inner, outer, product

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        q, a, inner, _, product = self._parts()
        h = torch.tanh(x @ q @ inner.T + self.bias + _shift(self.from_context, context))
        return x + h @ a.T, torch.log1p((1 - h) * (1 + h) * product).sum(1)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        q, a, inner, outer, product = self._parts()
        w, b = z @ q, (self.bias + _shift(self.from_context, context)).expand(len(z), -1)
        y, h = w.new_zeros(len(z), 0), w.new_zeros(len(z), 0)  # of the units i + 1 … M
        for i in reversed(range(self.rank)):
            known = w[:, i] - h @ outer[i, i + 1 :]
            c = b[:, i] + y @ inner[i, i + 1 :]

            def f(one: Tensor, i: int = i, c: Tensor = c) -> tuple[Tensor, Tensor]:
                unit = torch.tanh(inner[i, i] * one + c)
                return one + outer[i, i] * unit, torch.log1p((1 - unit) * (1 + unit) * product[i])

            far = outer[i, i].abs()
            one = invert(f, known, known - far, known + far)
            y, h = torch.cat([one[:, None], y], 1), torch.cat([torch.tanh(inner[i, i] * one + c)[:, None], h], 1)
        return z - h @ a.T


class Residual(Transform):
    """z = x + g(x) for x (B, ``size``), g an MLP with ``hidden`` layers and Lipschitz constant at most ``lipschitz``, κ.

    ``terms`` n asks for the estimate of V in training, with n sure terms and on average q/(1−q) more. None, and evaluation
    always, computes the determinant: one D × D matrix an example. The estimate's variance is finite where the spectral radius
    of J is under √q. ``context`` is the width of ``Context.vector``. Starts as the identity.
    """

    ROULETTE = 0.5  # q
    NEWTON = 64  # coordinates up to which a Newton step is worth its D³

    def __init__(
        self,
        size: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        lipschitz: float = 0.97,
        terms: int | None = None,
    ) -> None:
        super().__init__()
        if not hidden or not 0 < lipschitz < 1 or (terms is not None and terms < 1):
            raise ValueError(
                f"found hidden {tuple(hidden)}, lipschitz {lipschitz}, terms {terms}: expected layers, κ in (0, 1), n ≥ 1"
            )
        widths = [size, *hidden, size]
        self.size, self.lipschitz, self.terms = size, lipschitz, terms
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for p in self.layers[-1].parameters():
            nn.init.zeros_(p)
        self.from_context = nn.Linear(context, hidden[0], bias=False) if context else None

    def _layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.layers]

    def _weights(self) -> list[Tensor]:
        most = self.lipschitz ** (1 / len(self.layers))
        weights = [layer.weight for layer in self._layers()]
        return [weight * (most / torch.linalg.matrix_norm(weight, 2).clamp(min=most)) for weight in weights]

    def _g(self, x: Tensor, weights: list[Tensor], shift: Tensor | float) -> tuple[Tensor, list[Tensor]]:
        """g(x) (B, D), and the slopes of φ in every hidden layer."""
        first, *others = self._layers()
        u, slopes = F.linear(x, weights[0], first.bias) + shift, []
        for weight, layer in zip(weights[1:], others, strict=True):
            gate = u.sigmoid()
            slopes.append(gate * (1 + u * (1 - gate)) / 1.1)
            u = F.linear(u * gate / 1.1, weight, layer.bias)
        return u, slopes

    @staticmethod
    def _jacobian(weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
        """1 + J, (B, D, D)."""
        product = weights[0]
        for weight, slope in zip(weights[1:], slopes, strict=True):
            product = weight @ (slope[:, :, None] * product)
        return product + torch.eye(product.shape[-1]).to(product)

    def _estimate(self, weights: list[Tensor], slopes: list[Tensor], sure: int, draws: Draws) -> Tensor:
        """An unbiased estimate of log det(1 + J), (B,)."""
        probe = draws.signs(self.size, dtype=weights[0].dtype)
        more = draws.uniform(dtype=torch.float64).clamp(min=1e-12).log() / math.log(self.ROULETTE)  # floor of it is N
        total, vector = probe.new_zeros(len(probe)), probe
        for k in range(1, sure + int(more.max()) + 1):
            vector = F.linear(vector, weights[0])
            for weight, slope in zip(weights[1:], slopes, strict=True):
                vector = F.linear(slope * vector, weight)
            extra = max(k - sure, 0)
            counts = (more >= extra).to(probe.dtype) / self.ROULETTE**extra
            total = total - (-1) ** k / k * counts * (probe * vector).sum(1)
        return total

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        weights = self._weights()
        g, slopes = self._g(x, weights, _shift(self.from_context, context))
        if self.training and self.terms is not None:
            return x + g, self._estimate(weights, slopes, self.terms, draws or Draws(0, 0, len(x), device=x.device))
        return x + g, torch.linalg.slogdet(self._jacobian(weights, slopes)).logabsdet

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        weights, shift = self._weights(), _shift(self.from_context, context)
        x = self._solve(z, weights, shift)
        if not torch.is_grad_enabled():
            return x
        g, slopes = self._g(x, weights, shift)
        error = x + g - z
        jacobian = self._jacobian(weights, slopes).detach()
        return x - torch.linalg.solve(jacobian, error - error.detach())

    @torch.no_grad()
    def _solve(self, z: Tensor, weights: list[Tensor], shift: Tensor | float) -> Tensor:
        x, eps = z, torch.finfo(z.dtype).eps
        unit = z.abs().amax(1, keepdim=True).clamp(min=1)  # of errors, whose squares must not overflow
        g, slopes = self._g(x, weights, shift)
        last = torch.full_like(unit[:, 0], torch.inf)
        done = torch.zeros_like(last, dtype=torch.bool)
        for _ in range(math.ceil(math.log(eps) / math.log(self.lipschitz))):
            error = x + g - z
            size = (error / unit).norm(dim=1)
            done = done | (size <= eps) | (size >= last)  # what no longer falls is rounding
            if done.all():
                break
            last, following = size, z - g
            if self.size <= self.NEWTON:
                newton = x - torch.linalg.solve(self._jacobian(weights, slopes), error)
                left = (newton + self._g(newton, weights, shift)[0] - z) / unit
                following = torch.where((left.norm(dim=1) <= self.lipschitz * size)[:, None], newton, following)
            x = torch.where(done[:, None], x, following)
            g, slopes = self._g(x, weights, shift)
        return x
