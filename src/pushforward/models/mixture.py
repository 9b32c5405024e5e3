"""Gaussian mixtures fitted by EM, with missing values integrated out by EM itself.

    p(y) = Σ_k π_k N(y; μ_k, Σ_k)

E step, for a row whose coordinates o are seen and m are not (Ghahramani & Jordan 1994):

    r_k ∝ π_k N(y_o; μ_ko, Σ_koo)
    ŷ_km = μ_km + Σ_kmo Σ_koo⁻¹ (y_o − μ_ko),    C_km = Σ_kmm − Σ_kmo Σ_koo⁻¹ Σ_kom

M step, from additive statistics over rows: N_k = Σ r_k, Σ r_k ŷ_k and Σ r_k (ŷ_k ŷ_kᵀ + C_k). With ``prior`` ν > 0 the
covariances are pulled towards that of all the data, (S_k + ν S)/(N_k + ν): the mode under an inverse-Wishart prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Completes, Encodes, FitsDirectly, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose

COVARIANCES = ("full", "tied", "diagonal", "spherical")


class GaussianMixture(Model, Samples, Scores, Encodes, Completes, FitsDirectly):
    """``components`` Gaussians on ``size`` coordinates, y = ``transform``.pull(x), where gaps stay NaN.

    ``covariance`` is one of full, tied, diagonal, spherical. ``floor`` is added to variances, as scikit-learn does.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    overall: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Compose,
        size: int,
        *,
        components: int = 8,
        covariance: str = "full",
        prior: float = 0.0,
        floor: float = 1e-6,
        restarts: int = 1,
    ) -> None:
        super().__init__(schema)
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance is one of {COVARIANCES}, found {covariance!r}")
        self.transform, self.size, self.components = transform, size, components
        self.covariance, self.prior, self.floor, self.restarts = covariance, prior, floor, restarts
        self.density_kind = "lower_bound" if transform.stochastic else "exact"
        wide = torch.float64
        self.register_buffer("weights", torch.full((components,), 1 / components, dtype=wide))
        self.register_buffer("means", torch.zeros(components, size, dtype=wide))
        self.register_buffer("covariances", torch.eye(size, dtype=wide).repeat(components, 1, 1))
        self.register_buffer("overall", torch.eye(size, dtype=wide))
        self._roots: tuple[Tensor, Tensor, Tensor] | None = None

    # densities

    def _log_gaussians(self, y: Tensor) -> Tensor:
        """log N(y; μ_k, Σ_k) of rows without gaps, (B, K)."""
        if self._roots is None:
            root = torch.linalg.cholesky(self.covariances)
            eye = torch.eye(self.size, dtype=root.dtype, device=root.device)
            whiten = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
            centres = (whiten @ self.means[:, :, None]).flatten()
            self._roots = whiten.permute(2, 0, 1).flatten(1), -centres, whiten.diagonal(dim1=1, dim2=2).log().sum(1)
        whiten, shift, half_log_det = self._roots
        parts = []
        for rows in y.split(self._block()):
            white = torch.addmm(shift, rows, whiten).unflatten(1, (self.components, self.size))  # (B, K, D), L⁻¹(y − μ)
            parts.append(white.square().sum(2))
        return -0.5 * (torch.cat(parts) + self.size * math.log(2 * math.pi)) + half_log_det

    def _block(self) -> int:
        """Rows whose K × D numbers stay in the cache, so that one large product does the work of K."""
        return max(256, 2**18 // (self.size * self.components))

    def _patterns(self, known: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows that share a pattern of known coordinates: (row indices, known indices, unknown indices)."""
        patterns, which = known.unique(dim=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            yield (which == i).nonzero().flatten(), pattern.nonzero().flatten(), (~pattern).nonzero().flatten()

    def _given(self, y: Tensor, o: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows with known coordinates ``o``: log N(y_o) (B, K), ŷ_m (B, K, |m|) and C_m (K, |m|, |m|)."""
        cov = self.covariances
        root = torch.linalg.cholesky(cov[:, o][:, :, o])
        centred = y[:, o][:, None] - self.means[:, o]  # (B, K, |o|)
        white = torch.linalg.solve_triangular(root, centred.permute(1, 2, 0), upper=False)  # (K, |o|, B)
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
        log_p = -0.5 * (white.square().sum(1).T + len(o) * math.log(2 * math.pi)) - log_det
        cross = torch.linalg.solve_triangular(root, cov[:, o][:, :, m], upper=False)  # (K, |o|, |m|)
        filled = self.means[:, m] + torch.einsum("kom,kob->bkm", cross, white)
        return log_p, filled, cov[:, m][:, :, m] - cross.mT @ cross

    def _log_joint(self, y: Tensor) -> Tensor:
        """log π_k N(y_o; …), (B, K); gaps are integrated out."""
        known = ~y.isnan()
        if bool(known.all()):
            log_p = self._log_gaussians(y)
        else:
            log_p = y.new_zeros(len(y), self.components)
            for rows, o, m in self._patterns(known):
                log_p[rows] = self._given(y[rows], o, m)[0]
        return log_p + self.weights.log()

    def _pull(self, x: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
        y, score = self.transform.pull(x, None, draws)
        return y.to(self.means.dtype), score

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        y, score = self._pull(x, draws)
        return self._log_joint(y).logsumexp(1) + score

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x, batch.condition, batch.draws)}

    # EM

    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x)

    def start(self, x: Tensor, draws: Draws) -> None:
        """k-means++ seeding (Arthur & Vassilvitskii 2007) and a few Lloyd steps; the best of ``restarts`` by inertia."""
        y, _ = self._pull(x, draws)
        known = ~y.isnan()
        mean = (y.nan_to_num().sum(0) / known.sum(0).clamp(min=1)).nan_to_num()
        y = torch.where(known, y, mean)
        centred = y - mean
        overall = centred.T @ centred / len(y)
        # with few rows for the coordinates, the data's own covariance is pulled to its diagonal
        shrink = self.size / (self.size + len(y))
        self.overall.copy_((1 - shrink) * overall + shrink * overall.diagonal().diag())
        best = math.inf
        for _ in range(self.restarts):
            centres, inertia = _k_means(y, self.components, draws)
            if inertia < best:
                best = inertia
                self.means.copy_(centres)
        nearest = torch.cdist(y, self.means).argmin(1)
        share = torch.nn.functional.one_hot(nearest, self.components).to(y.dtype)
        self._set(self._sums(share, y, None))

    def stats(self, batch: Batch) -> dict[str, Tensor]:
        y, score = self._pull(batch.x, batch.draws)
        known = ~y.isnan()
        if bool(known.all()):
            log_joint = self._log_joint(y)
            share = log_joint.softmax(1)
            sums = self._sums(share, y, None)
        else:
            log_joint = y.new_zeros(len(y), self.components)
            sums = {}
            for rows, o, m in self._patterns(known):
                log_p, filled, spread = self._given(y[rows], o, m)
                log_joint[rows] = log_p + self.weights.log()
                part = self._sums(log_joint[rows].softmax(1), y[rows], (m, filled, spread))
                sums = {name: sums.get(name, 0) + value for name, value in part.items()}
        likelihood = (log_joint.logsumexp(1) + score).sum()
        return {**sums, "likelihood": likelihood}

    def _sums(self, share: Tensor, y: Tensor, gaps: tuple[Tensor, Tensor, Tensor] | None) -> dict[str, Tensor]:
        """N_k, Σ r ŷ and Σ r (ŷ ŷᵀ + C) of rows that share one pattern of gaps."""
        mass = share.sum(0)
        if gaps is None:
            second = y.new_zeros(self.size, self.components * self.size)
            for r, rows in zip(share.split(self._block()), y.split(self._block()), strict=True):
                second.addmm_(rows.T, (r[:, :, None] * rows[:, None]).flatten(1))
            moments = second.unflatten(1, (self.components, self.size)).transpose(0, 1).contiguous()
            return {"mass": mass, "first": share.T @ y, "second": moments}
        (m, filled, spread), first, seconds = gaps, [], []
        for k in range(self.components):
            full = y.clone()
            full[:, m] = filled[:, k]
            weighted = share[:, k, None] * full
            first.append(weighted.sum(0))
            seconds.append(weighted.T @ full)
        moments = torch.stack(seconds)
        moments[:, m[:, None], m] += mass[:, None, None] * spread
        return {"mass": mass, "first": torch.stack(first), "second": moments}

    def update(self, stats: dict[str, Tensor]) -> float:
        rows = float(stats["mass"].sum())
        likelihood = float(stats["likelihood"]) / rows
        self._set(stats)
        return likelihood

    def _set(self, stats: dict[str, Tensor]) -> None:
        mass = stats["mass"].clamp(min=1e-10)
        self.weights.copy_(mass / mass.sum())
        self.means.copy_(stats["first"] / mass[:, None])
        scatter = stats["second"] - mass[:, None, None] * self.means[:, :, None] * self.means[:, None]
        eye = torch.eye(self.size, dtype=scatter.dtype, device=scatter.device)
        if self.covariance == "tied":
            cov = (scatter.sum(0) / mass.sum()).expand_as(scatter)
        else:
            pulled = scatter + self.prior * self.overall
            cov = pulled / (mass + self.prior)[:, None, None]
        if self.covariance == "diagonal":
            cov = cov * eye
        elif self.covariance == "spherical":
            cov = cov.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * eye
        self.covariances.copy_(cov + self.floor * eye)
        self._roots = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._roots = None

    def _apply(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        self._roots = None  # they are no buffers: moved to another device, the model makes new ones
        return super()._apply(*args, **kwargs)

    # verbs

    def sample(self, n: int, condition: Condition | None, draws: Draws, **options: Any) -> Tensor:
        k = draws.categorical(self.weights.log().expand(n, -1))
        noise = draws.normal(self.size, dtype=self.means.dtype)
        root = torch.linalg.cholesky(self.covariances)
        y = noise.new_empty(noise.shape)
        for component in k.unique().tolist():
            rows = (k == component).nonzero().flatten()
            y[rows] = self.means[component] + noise[rows] @ root[component].T
        return self.transform.push(y)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Responsibilities p(k | x), (B, K). One Gaussian has nobody to share with: whitened coordinates (B, D), gaps at their
        expected values."""
        y = self._pull(x, None)[0]
        if self.components > 1:
            return self._log_joint(y).softmax(1)
        for rows, o, m in self._patterns(~y.isnan()):
            y[rows[:, None], m] = self._given(y[rows], o, m)[1][:, 0]
        root = torch.linalg.cholesky(self.covariances[0])
        return torch.linalg.solve_triangular(root, (y - self.means[0]).T, upper=False).T

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Draws from the closed-form conditional mixture p(y_m | y_o)."""
        filled = torch.where(observed, x, torch.zeros_like(x))
        y, _ = self._pull(filled, draws)
        known = self.transform.spread(observed) & ~y.isnan()
        uniform_k = draws.uniform(1, dtype=y.dtype)[:, 0]
        noise = draws.normal(self.size, dtype=y.dtype)
        for rows, o, m in self._patterns(known):
            log_p, means, cov = self._given(y[rows], o, m)
            share = (log_p + self.weights.log()).softmax(1).cumsum(1)
            k = (uniform_k[rows, None] > share).sum(1).clamp(max=self.components - 1)
            jitter = self.floor * torch.eye(len(m), dtype=y.dtype, device=y.device)
            root = torch.linalg.cholesky(cov + jitter)
            drawn = means[torch.arange(len(rows)), k] + torch.einsum("bij,bj->bi", root[k], noise[rows][:, m])
            y[rows[:, None], m] = drawn
        return torch.where(observed, x, self.transform.push(y).to(x.dtype))


def _k_means(y: Tensor, components: int, draws: Draws, steps: int = 10) -> tuple[Tensor, float]:
    """k-means++ centres (K, D) after ``steps`` of Lloyd, and their inertia."""
    uniform = draws.uniform(components, dtype=y.dtype)[0]
    centres = y[int(uniform[0] * len(y))][None]
    distance = (y - centres[0]).square().sum(1)
    for u in uniform[1:]:
        cumulative = distance.cumsum(0)
        chosen = int(torch.searchsorted(cumulative, u * cumulative[-1]).clamp(max=len(y) - 1))
        centres = torch.cat([centres, y[chosen][None]])
        distance = distance.minimum((y - y[chosen]).square().sum(1))
    for _ in range(steps):
        nearest = torch.cdist(y, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, y)
        counts = torch.bincount(nearest, minlength=components)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres, float(torch.cdist(y, centres).amin(1).square().sum())
