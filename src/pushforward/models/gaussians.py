"""K Gaussians with covariance matrices, each component's own or one that all share (tied); gaps are integrated out.

For a row of which the coordinates o are known and m are not (Ghahramani & Jordan 1994):

    log N(y_o; μ_ko, Σ_koo),    ŷ_km = μ_km + Σ_kmo Σ_koo⁻¹ (y_o − μ_ko),    C_km = Σ_kmm − Σ_kmo Σ_koo⁻¹ Σ_kom

The M step takes N_k = Σ r_k, Σ r_k ŷ_k and Σ r_k (ŷ_k ŷ_kᵀ + C_k), and is an ``Estimator``'s. That of the highest likelihood:
means x̄_k and

    Σ_k = (S_k + ν S)/(N_k + ν)       S_k the scatter about x̄_k, S the covariance of all the data, ν rows of prior weight:

the mode under an inverse-Wishart prior. Eigenvalues are at least ``floor``: that is the maximum under this constraint, where a
number added to the diagonal would be none, and the likelihood could fall. The variational one is in models/bayes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pushforward import kernels
from pushforward.core.random import Draws
from pushforward.models.densities import EMPTY, LOG_2PI, WIDE, Densities, padded
from pushforward.models.lloyd import nearest_centres

_FUSED = 256  # coordinates up to which one pass of the kernel is quicker than large products
_SLICE = 128  # rows of a triangle that go through one product
_NOTHING = 1e-25  # a share of a row that changes no digit of a sum


@dataclass(frozen=True)
class Gapped:
    """Rows y (B, D) without gaps where ``groups`` is empty; else (rows, known, unknown indices) of each pattern of gaps."""

    y: Tensor
    groups: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()


class Estimator(nn.Module, ABC):
    """The M step of Gaussians: their means (K, D) and covariances (K, D, D), or one (1, D, D) for all, from statistics."""

    overall: Tensor
    tied: bool = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("overall", torch.eye(size, dtype=WIDE))

    @abstractmethod
    def centre(self, mean: Tensor) -> None:
        """What is to be known of the mean (D,) of all the data; their covariance is in ``overall``."""

    @abstractmethod
    def estimate(self, sums: dict[str, Tensor], means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """New means and covariances in place of those given."""

    @abstractmethod
    def log_prior(self, means: Tensor, covariances: Tensor) -> Tensor:
        """log p(θ) up to a constant, or −KL(q(θ) ‖ p(θ))."""

    @abstractmethod
    def shift(self, covariances: Tensor) -> Tensor:
        """E_q[log N(y; θ_k)] − log N(y; the mean and covariance that stand for q), (K,) or 0."""


class HighestLikelihood(Estimator):
    """Maximum likelihood; of the posterior where ``prior`` ν > 0."""

    def __init__(self, size: int, *, tied: bool = False, prior: float = 0.0, floor: float = 1e-6) -> None:
        super().__init__(size)
        if prior < 0 or floor < 0:
            raise ValueError(f"found prior {prior} and floor {floor}: expected 0 or more")
        self.tied, self.prior, self.floor = tied, prior, floor

    def centre(self, mean: Tensor) -> None:
        """Means have no prior."""

    def estimate(self, sums: dict[str, Tensor], means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
        count, second = sums["count"], sums["second"]
        means = torch.where((count > EMPTY)[:, None], sums["first"] / count.clamp(min=EMPTY)[:, None], means)
        outer = count[:, None, None] * means[:, :, None] * means[:, None]
        if self.tied:
            scatter, rows = second - outer.sum(0), count.sum()[None] + self.prior
        else:
            scatter, rows = second - outer, count + self.prior
        found = (scatter + self.prior * self.overall) / rows.clamp(min=EMPTY)[:, None, None]
        found = torch.where((rows > EMPTY)[:, None, None], found, covariances)
        return means, floored(0.5 * (found + found.mT), self.floor)

    def log_prior(self, means: Tensor, covariances: Tensor) -> Tensor:
        if self.prior == 0:
            return means.new_zeros(())
        root = torch.linalg.cholesky(covariances)
        log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * self.prior * (log_det + (torch.cholesky_inverse(root) * self.overall).sum((1, 2))).sum()

    def shift(self, covariances: Tensor) -> Tensor:
        return covariances.new_zeros(())


class FullGaussians(Densities):
    """``components`` Gaussians on ``size`` coordinates with covariance matrices, found by ``estimator``."""

    means: Tensor
    own: Tensor

    def __init__(self, size: int, components: int, estimator: Estimator) -> None:
        super().__init__()
        self.size, self.components, self.estimator, self.tied = size, components, estimator, estimator.tied
        self.register_buffer("means", torch.zeros(components, size, dtype=WIDE))
        self.register_buffer("own", torch.eye(size, dtype=WIDE).repeat(1 if self.tied else components, 1, 1))
        self._kept: tuple[Tensor, Tensor, tuple[int, int], tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        return self.own.expand(self.components, -1, -1)

    # densities

    def see(self, y: Tensor, known: Tensor | None = None) -> Gapped:
        there = ~y.isnan() if known is None else known
        if bool(there.all()):
            return Gapped(y)
        patterns, which = there.unique(dim=0, return_inverse=True)
        order, counts = which.argsort(stable=True), which.bincount(minlength=len(patterns))
        found = zip(order.split(counts.tolist()), patterns, strict=True)
        return Gapped(y, tuple((rows, p.nonzero().flatten(), (~p).nonzero().flatten()) for rows, p in found))

    def whitening(self) -> tuple[Tensor, Tensor, Tensor]:
        """L⁻¹ of each Σ_k = L Lᵀ (K, D, D), L⁻¹ μ_k (K, D), and ½ log|Σ_k⁻¹| (K,). Kept until a parameter changes."""
        held = self._kept
        if held is None or held[0] is not self.own or held[1] is not self.means or held[2] != self._versions():
            held = self._kept = self.own, self.means, self._versions(), self._whitening()
        return held[3]

    def _versions(self) -> tuple[int, int]:
        """How often the parameters have been written to."""
        return self.own._version, self.means._version

    def _whitening(self) -> tuple[Tensor, Tensor, Tensor]:
        root = torch.linalg.cholesky(self.own)
        eye = torch.eye(self.size, dtype=root.dtype, device=root.device)
        whiten = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False).expand(self.components, -1, -1)
        centres = (whiten @ self.means[:, :, None])[:, :, 0]
        return whiten, centres, whiten.diagonal(dim1=1, dim2=2).log().sum(1)

    def _block(self) -> int:
        """Rows whose K × D numbers stay in the cache, so that one large product does the work of K."""
        return max(256, 2**18 // (min(self.size, _SLICE) * self.components))

    def log_prob(self, rows: Gapped) -> Tensor:
        if rows.groups:
            found = rows.y.new_empty(len(rows.y), self.components)
            for at, o, m in rows.groups:
                found[at] = self.given(rows.y[at], o, m)[0]
            return found
        whiten, centres, half_log_det = self.whitening()
        # a slice of the rows of L⁻¹, a triangle, needs the coordinates up to its end alone
        slices = []
        for start in range(0, self.size, _SLICE):
            stop = min(self.size, start + _SLICE)
            slices.append((stop, whiten[:, start:stop, :stop].permute(2, 0, 1).flatten(1), -centres[:, start:stop].flatten()))
        parts = []
        for block in rows.y.split(self._block()):
            white = [torch.addmm(c, block[:, :stop], w).unflatten(1, (self.components, -1)) for stop, w, c in slices]
            parts.append(torch.stack([part.square().sum(2) for part in white]).sum(0))
        return -0.5 * (torch.cat(parts) + self.size * LOG_2PI) + half_log_det

    def given(self, y: Tensor, o: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows with known coordinates ``o``: log N(y_o) (B, K), ŷ_m (B, K, |m|) and C_m (K, |m|, |m|)."""
        cov = self.covariances
        root = torch.linalg.cholesky(cov[:, o][:, :, o])
        centred = y[:, o][:, None] - self.means[:, o]  # (B, K, |o|)
        white = torch.linalg.solve_triangular(root, centred.permute(1, 2, 0), upper=False)  # (K, |o|, B)
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
        log_p = -0.5 * (white.square().sum(1).T + len(o) * LOG_2PI) - log_det
        cross = torch.linalg.solve_triangular(root, cov[:, o][:, :, m], upper=False)  # (K, |o|, |m|)
        filled = self.means[:, m] + torch.einsum("kom,kob->bkm", cross, white)
        return log_p, filled, cov[:, m][:, :, m] - cross.mT @ cross

    # EM

    def sums(self, rows: Gapped, share: Tensor) -> dict[str, Tensor]:
        if not rows.groups:
            return self._whole(rows.y, share)
        totals: dict[str, Tensor] = {}
        for at, o, m in rows.groups:
            y, r = rows.y[at], share[at]
            part = self._whole(y, r) if len(m) == 0 else self._filled(y, r, o, m)
            totals = {name: totals.get(name, 0) + value for name, value in part.items()}
        return totals

    def _whole(self, y: Tensor, share: Tensor) -> dict[str, Tensor]:
        if self.tied:
            second = ((share.sum(1, keepdim=True) * y).T @ y)[None]
        elif self.size > _FUSED:
            # with many coordinates a row belongs to one component, and the others' products would be with nothing
            second = torch.stack([_scatter(*(t[r > _NOTHING] for t in (y, r))) for r in share.unbind(1)])
        else:
            wide = y.new_zeros(self.size, self.components * self.size)
            for r, block in zip(share.split(self._block()), y.split(self._block()), strict=True):
                wide.addmm_(block.T, (r[:, :, None] * block[:, None]).flatten(1))
            second = wide.unflatten(1, (self.components, self.size)).transpose(0, 1).contiguous()
        return {"count": share.sum(0), "first": share.T @ y, "second": second}

    def _filled(self, y: Tensor, share: Tensor, o: Tensor, m: Tensor) -> dict[str, Tensor]:
        """Σ r ŷ and Σ r (ŷ ŷᵀ + C) of rows that share one pattern of gaps."""
        _, filled, spread = self.given(y, o, m)
        count, first, seconds = share.sum(0), [], []
        for k in range(self.components):
            full = y.clone()
            full[:, m] = filled[:, k]
            weighted = share[:, k, None] * full
            first.append(weighted.sum(0))
            seconds.append(weighted.T @ full)
        second = torch.stack(seconds)
        second[:, m[:, None], m] += count[:, None, None] * spread
        return {"count": count, "first": torch.stack(first), "second": second.sum(0, keepdim=True) if self.tied else second}

    def fusible(self, rows: Gapped) -> bool:
        """Whether the kernel does the E step of these rows: on the CPU, in float64, without gaps and gradients."""
        y = rows.y
        ready = y.device.type == "cpu" and y.dtype == torch.float64 and not rows.groups and not self.tied
        ready = ready and not (torch.is_grad_enabled() and y.requires_grad)
        return ready and self.size <= _FUSED and kernels.product.AVAILABLE

    def expect(self, rows: Gapped, log_weights: Tensor, weight: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """log Σ_k w_k N_k(y), (B,), and ``sums`` under w_k N_k(y) normalised, times ``weight``, in one pass over the rows."""
        likelihood, count, first, second = kernels.gaussians.e_step(rows.y, *self._heights(log_weights), weight)
        return likelihood, {"count": count, "first": first, "second": second}

    def log_mixture(self, rows: Gapped, log_weights: Tensor) -> Tensor:
        """log Σ_k w_k N_k(y), (B,), of rows that the kernel takes."""
        return kernels.gaussians.log_likelihood(rows.y, *self._heights(log_weights))

    def _heights(self, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whiten, centres, half_log_det = self.whitening()
        return whiten, centres, log_weights + half_log_det - 0.5 * self.size * LOG_2PI

    def estimate(self, sums: dict[str, Tensor]) -> None:
        means, own = self.estimator.estimate(sums, self.means, self.own)
        self.means.copy_(means)
        self.own.copy_(own)

    def log_prior(self) -> Tensor:
        return self.estimator.log_prior(self.means, self.own)

    def shift(self) -> Tensor:
        return self.estimator.shift(self.own)

    def free(self, used: int) -> float:
        return used * self.size + (1 if self.tied else used) * self.size * (self.size + 1) / 2

    # the start

    def shares(self, rows: Gapped, count: int, draws: Draws, weight: Tensor | None) -> Tensor:
        y = rows.y
        there = ~y.isnan()
        by = there.to(y.dtype) if weight is None else there * weight[:, None]
        mean = (by * y.nan_to_num()).sum(0) / by.sum(0).clamp(min=EMPTY)
        y = torch.where(there, y, mean)
        centred, n = y - mean, float(len(y)) if weight is None else float(weight.sum())
        overall = centred.T @ (centred if weight is None else weight[:, None] * centred) / n
        # with few rows for the coordinates, the data's own covariance is pulled to its diagonal
        shrink = self.size / (self.size + n)
        self.estimator.overall.copy_((1 - shrink) * overall + shrink * overall.diagonal().clamp(min=EMPTY).diag())
        self.estimator.centre(mean)
        return padded(nearest_centres(y, count, draws, weight), self.components)

    # draws

    def noise(self, draws: Draws, *lead: int) -> Tensor:
        return draws.normal(*lead, self.size, dtype=self.means.dtype)

    def fill(self, rows: Gapped, k: Tensor, noise: Tensor) -> Tensor:
        y = rows.y.clone()
        for at, o, m in rows.groups:
            _, filled, spread = self.given(y[at], o, m)
            root = torch.linalg.cholesky(floored(spread, EMPTY))
            chosen = k[at]
            drawn = filled[torch.arange(len(at), device=y.device), chosen]
            for component in chosen.unique().tolist():
                of = (chosen == component).nonzero().flatten()
                drawn[of] += noise[at[of]][:, m] @ root[component].T
            y[at[:, None], m] = drawn
        return y


def _scatter(y: Tensor, share: Tensor) -> Tensor:
    """Σ r y yᵀ, (D, D)."""
    return (share[:, None] * y).T @ y


def floored(covariances: Tensor, floor: float) -> Tensor:
    """Covariances (K, D, D) with eigenvalues of at least ``floor``; where they are so already, untouched."""
    if floor == 0 or covariances.shape[-1] == 0:
        return covariances
    eye = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    low = torch.linalg.cholesky_ex(covariances - floor * eye).info != 0
    if not bool(low.any()):
        return covariances
    values, vectors = torch.linalg.eigh(covariances[low])
    covariances = covariances.clone()
    covariances[low] = (vectors * values.clamp(min=floor)[:, None]) @ vectors.mT
    return covariances
