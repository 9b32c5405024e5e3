"""The Fréchet distance between features, with where it comes from: FID of any extractor (Heusel et al. 2017, 1706.08500).

    d² = |μ_x − μ_y|² + tr(Σ_x + Σ_y − 2(Σ_x Σ_y)^½)

Tools differ by their weights, resizing, precision and counts, each of which moves the figure by more than models differ. Here a
figure carries all of them, and figures that were not made alike refuse to be compared. The value is biased upwards, by about
b/N with b unknown: by the jackknife over blocks its bias is estimated too, and figures of unlike counts do not compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_pair
from pushforward.metrics.distances import frechet_gaussian
from pushforward.metrics.features import Extractor, Size, rows_hash


@dataclass(frozen=True)
class Provenance:
    """What a figure depends on beside the generated examples; ``reference`` is a hash of the real examples' features."""

    extractor: str
    weights: str
    resize: Size | None
    dtype: str
    features: int
    generated: int
    real: int
    reference: str

    def differences(self, other: Provenance) -> list[str]:
        """The fields that differ, with both values."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name} {mine!r} and {yours!r}" for name, mine, yours in pairs if mine != yours]


@dataclass(frozen=True)
class FrechetDistance:
    """``value`` d² in squared units of the features, with its standard error and the jackknife's estimate of its ``bias``."""

    value: float
    standard_error: float
    bias: float
    provenance: Provenance

    @property
    def corrected(self) -> float:
        """The value less its estimated bias, which may be below zero; errs more than the value from run to run."""
        return self.value - self.bias

    def __sub__(self, other: FrechetDistance) -> Estimate:
        """How much larger this figure is, of samples that are independent; DataError where they were not made alike."""
        self._alike(other)
        return Estimate(self.value - other.value, math.hypot(self.standard_error, other.standard_error))

    def __lt__(self, other: FrechetDistance) -> bool:
        self._alike(other)
        return self.value < other.value

    def __gt__(self, other: FrechetDistance) -> bool:
        return other < self

    def _alike(self, other: FrechetDistance) -> None:
        if found := self.provenance.differences(other.provenance):
            raise DataError(f"found figures with {'; '.join(found)}: expected one provenance; measure both alike")

    def __str__(self) -> str:
        p = self.provenance
        weights = f" {p.weights}" if p.weights else ""
        size = "" if p.resize is None else f", {p.resize[0]}×{p.resize[1]}"
        return (
            f"{self.value:.4g} ± {self.standard_error:.2g} ({p.extractor}{weights}{size}, {p.dtype}, {p.features} features of "
            f"{p.generated} generated and {p.real} real examples {p.reference})"
        )


def frechet_distance(generated: Values, real: Values, extractor: Extractor, blocks: int = 10) -> FrechetDistance:
    """The Fréchet distance between features of ``generated`` and ``real`` examples, (N, …) and (M, …).

    With ``blocks`` parts of each side left out in turn, the jackknife gives the standard error of both samples and the bias.
    Take N and M of several times the number of features. DataError for unfit arrays or settings.
    """
    return frechet_of_features(extractor(generated), extractor(real), extractor, blocks)


def frechet_of_features(generated: Values, real: Values, extractor: Extractor, blocks: int = 10) -> FrechetDistance:
    """``frechet_distance`` of features (N, D) and (M, D) that ``extractor`` has made already."""
    x, y = as_pair(generated, real, minimum=2)
    if not 2 <= blocks <= min(len(x), len(y)) // 2:
        raise DataError(f"found {blocks} blocks for {len(x)} and {len(y)} rows: expected at least 2 blocks of 2 rows and more")
    provenance = Provenance(
        extractor=extractor.name,
        weights=extractor.weights,
        resize=extractor.resize,
        dtype=str(extractor.dtype).removeprefix("torch."),
        features=x.shape[1],
        generated=len(x),
        real=len(y),
        reference=rows_hash(y),
    )
    variance, bias = 0.0, 0.0
    for left_out in (_left_out(x, y, blocks), _left_out(y, x, blocks)):
        whole, parts = left_out[0], left_out[1:]
        variance += (blocks - 1) / blocks * float(np.square(parts - parts.mean()).sum())
        bias += (blocks - 1) * float(parts.mean() - whole)
    return FrechetDistance(frechet_gaussian(x, y), math.sqrt(variance), bias, provenance)


def _left_out(x: NDArray[np.floating], y: NDArray[np.floating], blocks: int) -> NDArray[np.float64]:
    """The distance of all rows, and with each block of x left out (rows i, i + blocks, … are one), (1 + blocks,)."""
    centre = y.mean(0, dtype=np.float64)
    rows = torch.from_numpy(x - centre)
    fixed = torch.cov(torch.from_numpy(y - centre).T).reshape(x.shape[1], x.shape[1])
    values, vectors = torch.linalg.eigh(fixed)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    parts = [rows[i::blocks] for i in range(blocks)]
    sums, squares = torch.stack([p.sum(0) for p in parts]), torch.stack([p.T @ p for p in parts])

    def distance(total: torch.Tensor, square: torch.Tensor, count: int) -> float:
        mean = total / count
        own = (square - count * torch.outer(mean, mean)) / (count - 1)
        overlap = torch.linalg.eigvalsh(root @ own @ root).clamp(min=0).sqrt().sum()
        return float(mean @ mean + own.trace() + fixed.trace() - 2 * overlap)

    total, square = sums.sum(0), squares.sum(0)
    out = [distance(total, square, len(rows))]
    out += [distance(total - s, square - q, len(rows) - len(p)) for s, q, p in zip(sums, squares, parts, strict=True)]
    return np.array(out)
