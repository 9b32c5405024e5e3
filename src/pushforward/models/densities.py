"""K densities of one row each, as mixtures and hidden Markov models put them together, and those with independent coordinates.

    numbers   Σ_d log N(y_d; μ_kd, σ²_kd)           levels   Σ_d log P_kd(y_d)

A coordinate that is missing is left out: its factor integrates to one. The statistics of the M step are sums over rows of the
responsibilities r_k times what the parameters need,

    N_kd = Σ r_k,   Σ r_k y_d,   Σ r_k y_d²          C_kdv = Σ r_k [y_d = v]
    σ²_kd = (S_kd + ν s_d)/(N_kd + ν)                P_kdv = (C_kdv + a)/(Σ_v C_kdv + a V_d)

with S_kd the scatter about the mean, ν rows of prior weight for the variance s_d of all the data (an inverse-gamma prior), and
a counts for every level (a symmetric Dirichlet prior); variances are at least ``floor``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.random import Draws
from pushforward.models.em import plus_plus
from pushforward.models.lloyd import nearest_centres

WIDE = torch.float64
LOG_2PI = math.log(2 * math.pi)
EMPTY = 1e-10  # a component responsible for less than this keeps its parameters
_LEAST = 1e-300  # log of a probability stays finite
_FEW = 8  # levels that are counted level by level


class Densities(nn.Module, ABC):
    """``components`` densities on rows of ``size`` coordinates. Rows with NaN gaps are seen once, by ``see``."""

    size: int
    components: int

    @abstractmethod
    def see(self, y: Tensor, known: Tensor | None = None) -> Any:
        """What the methods below take for rows y (B, D), of which only what is ``known`` counts."""

    @abstractmethod
    def log_prob(self, rows: Any) -> Tensor:
        """log p_k(y) of what is known, (B, K)."""

    @abstractmethod
    def sums(self, rows: Any, share: Tensor) -> dict[str, Tensor]:
        """Additive statistics for responsibilities (B, K)."""

    @abstractmethod
    def estimate(self, sums: dict[str, Tensor]) -> None:
        """The M step."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """log p(θ) up to a constant."""

    def shift(self) -> Tensor | float:
        """What the E step of a variational model adds to ``log_prob``, (K,)."""
        return 0.0

    @abstractmethod
    def free(self, used: int) -> float:
        """Free parameters of ``used`` components."""

    @abstractmethod
    def shares(self, rows: Any, count: int, draws: Draws, weight: Tensor | None) -> Tensor:
        """Responsibilities (B, K) to start from, of the first ``count`` components. Sets what is known of all the data."""

    @abstractmethod
    def noise(self, draws: Draws, *lead: int) -> Tensor:
        """Random numbers for ``fill``, (B, *lead, D)."""

    @abstractmethod
    def fill(self, rows: Any, k: Tensor, noise: Tensor) -> Tensor:
        """y (B, D) with what is not known drawn from component k (B,) given what is."""


def padded(share: Tensor, components: int) -> Tensor:
    """Responsibilities of some components as those of all."""
    return nn.functional.pad(share, (0, components - share.shape[1]))


class DiagonalGaussians(Densities):
    """Gaussians with independent coordinates; with ``spherical`` all coordinates of a component have one variance."""

    means: Tensor
    variances: Tensor
    overall: Tensor

    def __init__(self, size: int, components: int, *, spherical: bool = False, prior: float = 0.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.size, self.components = size, components
        self.spherical, self.prior, self.floor = spherical, prior, floor
        self.register_buffer("means", torch.zeros(components, size, dtype=WIDE))
        self.register_buffer("variances", torch.ones(components, size, dtype=WIDE))
        self.register_buffer("overall", torch.ones(size, dtype=WIDE))

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        return torch.diag_embed(self.variances)

    def see(self, y: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """y with zeros in its gaps, and where there are none; None instead where there are no gaps at all."""
        there = ~y.isnan() if known is None else known
        if bool(there.all()):
            return y, None
        return torch.where(there, y, 0.0), there.to(y.dtype)

    def log_prob(self, rows: tuple[Tensor, Tensor | None]) -> Tensor:
        y, there = rows
        rate = 1 / self.variances
        height = self.variances.log() + self.means.square() * rate + LOG_2PI
        from_all = height.sum(1) if there is None else there @ height.T
        return -0.5 * (y.square() @ rate.T + from_all) + y @ (self.means * rate).T

    def sums(self, rows: tuple[Tensor, Tensor | None], share: Tensor) -> dict[str, Tensor]:
        y, there = rows
        count = share.sum(0)[:, None].expand(-1, self.size) if there is None else share.T @ there
        return {"count": count, "first": share.T @ y, "second": share.T @ y.square()}

    def estimate(self, sums: dict[str, Tensor]) -> None:
        count, first, second = sums["count"], sums["first"], sums["second"]
        means = torch.where(count > EMPTY, first / count.clamp(min=EMPTY), self.means)
        scatter = (second - 2 * means * first + count * means.square()).clamp(min=0) + self.prior * self.overall
        rows = count + self.prior
        if self.spherical:
            scatter, rows = (t.sum(1, keepdim=True).expand(-1, self.size) for t in (scatter, rows))
        variances = torch.where(rows > EMPTY, scatter / rows.clamp(min=EMPTY), self.variances)
        self.means.copy_(means)
        self.variances.copy_(variances.clamp(min=self.floor))

    def log_prior(self) -> Tensor:
        return -0.5 * self.prior * (self.variances.log() + self.overall / self.variances).sum()

    def free(self, used: int) -> float:
        return used * (self.size + (1 if self.spherical else self.size))

    def shares(self, rows: tuple[Tensor, Tensor | None], count: int, draws: Draws, weight: Tensor | None) -> Tensor:
        y, there = rows
        by = torch.ones_like(y) if there is None else there
        by = by if weight is None else by * weight[:, None]
        total = by.sum(0).clamp(min=EMPTY)
        mean = (by * y).sum(0) / total
        y = y if there is None else torch.where(there > 0, y, mean)
        self.overall.copy_(((by * (y - mean).square()).sum(0) / total).clamp(min=max(self.floor, EMPTY)))
        return padded(nearest_centres(y, count, draws, weight), self.components)

    def noise(self, draws: Draws, *lead: int) -> Tensor:
        return draws.normal(*lead, self.size, dtype=self.means.dtype)

    def fill(self, rows: tuple[Tensor, Tensor | None], k: Tensor, noise: Tensor) -> Tensor:
        y, there = rows
        drawn = self.means[k] + self.variances[k].sqrt() * noise
        return y if there is None else torch.where(there > 0, y, drawn)


class Levels(Densities):
    """Independent categoricals over ``levels``, the count of each coordinate, with ``smoothing`` counts a level."""

    chances: Tensor
    live: Tensor

    def __init__(self, levels: Sequence[int], components: int, *, smoothing: float = 0.1) -> None:
        super().__init__()
        if smoothing < 0:
            raise ValueError(f"found smoothing {smoothing}: expected 0 or more")
        self.size, self.components, self.smoothing = len(levels), components, smoothing
        self.widest = max(levels, default=1)
        counts = torch.tensor(list(levels), dtype=torch.int64)
        live = (torch.arange(self.widest) < counts[:, None]).to(WIDE)  # (D, V)
        self.register_buffer("live", live, persistent=False)
        self.register_buffer("chances", (live / counts[:, None]).repeat(components, 1, 1))

    def see(self, y: Tensor, known: Tensor | None = None) -> Tensor:
        """Codes, int64 (B, D); −1 in gaps."""
        there = ~y.isnan() if known is None else known
        return torch.where(there, y, -1.0).long()

    def _logs(self) -> Tensor:
        return self.chances.clamp(min=_LEAST).log()

    def log_prob(self, rows: Tensor) -> Tensor:
        logs = self._logs()
        if self.widest <= _FEW:
            found = logs.new_zeros(len(rows), self.components)
            for v in range(self.widest):
                found = found + (rows == v).to(logs.dtype) @ logs[:, :, v].T
            return found
        at, gap = self._places(rows)
        return torch.stack([torch.where(gap, 0.0, table.flatten()[at]).sum(1) for table in logs], 1)

    def _places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where in a table (D, V) the codes are, and where there are none."""
        return rows.clamp(min=0) + torch.arange(self.size, device=rows.device) * self.widest, rows < 0

    def sums(self, rows: Tensor, share: Tensor) -> dict[str, Tensor]:
        if self.widest <= _FEW:
            return {"levels": torch.stack([share.T @ (rows == v).to(share.dtype) for v in range(self.widest)], 2)}
        at, gap = self._places(rows)
        counts = share.new_zeros(self.components, self.size * self.widest)
        for of, r in zip(counts, share.T, strict=True):
            of.index_add_(0, at.flatten(), torch.where(gap, 0.0, r[:, None]).flatten())
        return {"levels": counts.view(self.components, self.size, self.widest)}

    def estimate(self, sums: dict[str, Tensor]) -> None:
        counts = (sums["levels"] + self.smoothing) * self.live
        total = counts.sum(2, keepdim=True)
        self.chances.copy_(torch.where(total > EMPTY, counts / total.clamp(min=EMPTY), self.chances))

    def log_prior(self) -> Tensor:
        return self.smoothing * (self._logs() * self.live).sum()

    def free(self, used: int) -> float:
        return used * float((self.live.sum(1) - 1).sum())

    def shares(self, rows: Tensor, count: int, draws: Draws, weight: Tensor | None) -> Tensor:
        uniform = draws.uniform(max(count, self.widest * count), dtype=self.chances.dtype)[0]
        if self.size == 1:  # two rows of one code are alike: codes, not rows, have components of their own
            likes = uniform.view(self.widest, count).mul(3).softmax(1)
            return padded(likes[rows[:, 0].clamp(min=0)], self.components)
        chosen = plus_plus(rows, count, self._distance, weight, uniform[:count])
        near = torch.stack([self._distance(rows, rows[at]) for at in chosen], 1).argmin(1)
        share = nn.functional.one_hot(near, count).to(self.chances.dtype)
        return padded(0.9 * share + 0.1 / count, self.components)  # no level is impossible yet

    def _distance(self, rows: Tensor, row: Tensor) -> Tensor:
        """How many codes differ, of those known in both; of ordered codes with many levels how far they are apart."""
        differs = (rows - row).abs().clamp(max=1 if self.widest <= _FEW else self.widest).to(self.chances.dtype)
        return torch.where((rows < 0) | (row < 0), 0.0, differs).sum(1)

    def noise(self, draws: Draws, *lead: int) -> Tensor:
        return draws.uniform(*lead, self.size, dtype=self.chances.dtype)

    def fill(self, rows: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        y = rows.to(noise.dtype)
        last = self.live.sum(1).long() - 1
        for component in k.unique().tolist():
            of = (k == component).nonzero().flatten()
            edges = self.chances[component].cumsum(1)
            drawn = torch.searchsorted(edges, noise[of].T.contiguous(), right=True).T.minimum(last)
            y[of] = torch.where(rows[of] < 0, drawn.to(y.dtype), y[of])
        return y


class Product(Densities):
    """Coordinates of several sorts, each with densities of its own: ``parts`` one after the other."""

    def __init__(self, parts: Sequence[Densities]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.size, self.components = sum(part.size for part in parts), parts[0].components
        self.sizes = [part.size for part in parts]

    def _parts(self) -> list[Densities]:
        return [part for part in self.parts if isinstance(part, Densities)]

    def see(self, y: Tensor, known: Tensor | None = None) -> list[Any]:
        knowns = [None] * len(self.sizes) if known is None else known.split(self.sizes, 1)
        return [part.see(piece, k) for part, piece, k in zip(self._parts(), y.split(self.sizes, 1), knowns, strict=True)]

    def log_prob(self, rows: list[Any]) -> Tensor:
        each = [part.log_prob(piece) for part, piece in zip(self._parts(), rows, strict=True)]
        return torch.stack(each).sum(0)

    def sums(self, rows: list[Any], share: Tensor) -> dict[str, Tensor]:
        each = [part.sums(piece, share) for part, piece in zip(self._parts(), rows, strict=True)]
        return {f"{i}.{name}": value for i, part in enumerate(each) for name, value in part.items()}

    def estimate(self, sums: dict[str, Tensor]) -> None:
        for i, part in enumerate(self._parts()):
            part.estimate({name[len(f"{i}.") :]: value for name, value in sums.items() if name.startswith(f"{i}.")})

    def log_prior(self) -> Tensor:
        return torch.stack([part.log_prior() for part in self._parts()]).sum()

    def free(self, used: int) -> float:
        return sum(part.free(used) for part in self._parts())

    def shares(self, rows: list[Any], count: int, draws: Draws, weight: Tensor | None) -> Tensor:
        """The part with most coordinates says which rows are alike."""
        found = [part.shares(piece, count, draws, weight) for part, piece in zip(self._parts(), rows, strict=True)]
        return found[max(range(len(found)), key=lambda i: self.sizes[i])]

    def noise(self, draws: Draws, *lead: int) -> Tensor:
        return torch.cat([part.noise(draws, *lead) for part in self._parts()], -1)

    def fill(self, rows: list[Any], k: Tensor, noise: Tensor) -> Tensor:
        pieces = zip(self._parts(), rows, noise.split(self.sizes, -1), strict=True)
        return torch.cat([part.fill(piece, k, z) for part, piece, z in pieces], 1)
