"""k-means, the limit of a mixture of equal spherical Gaussians whose variance goes to 0 (Lloyd 1957): every row belongs to one.

    k(y) = argmin_k ‖y − μ_k‖²,     μ_k = the weighted mean of its rows;     −Σ w ‖y − μ_k(y)‖² never falls

A coordinate that is missing is left out of the distance and of the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Encodes
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.em import EM, Seen, plus_plus


def squares(y: Tensor, centres: Tensor, there: Tensor | None = None) -> Tensor:
    """‖y − μ_k‖² of rows y (B, D), zeros in their gaps, over what is ``there``: (B, K)."""
    if there is None:
        middle = centres.mean(0)  # nearer to where the rows are the squares cancel less
        y, centres = y - middle, centres - middle
        far = y.square().sum(1)[:, None] + centres.square().sum(1)
    else:
        far = y.square().sum(1)[:, None] + there @ centres.square().T
    return (far - 2 * y @ centres.T).clamp(min=0)


def _row_squares(y: Tensor, row: Tensor) -> Tensor:
    return (y - row).square().sum(1)


def nearest_centres(y: Tensor, count: int, draws: Draws, weight: Tensor | None, steps: int = 10) -> Tensor:
    """Which of ``count`` centres rows y (B, D) without gaps belong to, after k-means++ and some steps: (B, K) of 0 and 1."""
    centres = y[plus_plus(y, count, _row_squares, weight, draws.uniform(count, dtype=y.dtype)[0])]
    for _ in range(steps):
        share = _one_hot(squares(y, centres).argmin(1), count, y.dtype)
        weighed = share if weight is None else share * weight[:, None]
        mass = weighed.sum(0)[:, None]
        centres = torch.where(mass > 0, weighed.T @ y / mass.clamp(min=1e-300), centres)
    return _one_hot(squares(y, centres).argmin(1), count, y.dtype)


def _one_hot(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.one_hot(index, count).to(dtype)


class KMeans(EM, Encodes):
    """``components`` centres on ``size`` coordinates y = ``transform``.pull(x). It has no density: it only encodes."""

    centres: Tensor

    def __init__(self, schema: Schema, transform: Compose, size: int, *, components: int = 8, restarts: int = 1) -> None:
        super().__init__(schema, components, restarts)
        self.transform, self.size = transform, size
        self.register_buffer("centres", torch.zeros(components, size, dtype=torch.float64))

    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x)

    def digest(self, batch: Batch, weight: Tensor | None = None) -> Seen:
        y, _ = self.transform.pull(batch.x, None, batch.draws)
        y = y.to(self.centres.dtype)
        there = ~y.isnan()
        rows = (y, None) if bool(there.all()) else (y.nan_to_num(), there.to(y.dtype))
        return Seen(rows, y.new_zeros(len(y)), weight)

    def e_step(self, seen: Seen) -> dict[str, Tensor]:
        """Every row to its nearest centre."""
        y, there = seen.rows
        near, k = squares(y, self.centres, there).min(1)
        share = seen.weigh(_one_hot(k, self.components, y.dtype))
        count = share.sum(0)[:, None].expand(-1, self.size) if there is None else share.T @ there
        return {"count": count, "first": share.T @ y, **seen.total(-near)}

    def m_step(self, sums: dict[str, Tensor]) -> None:
        """Centres to the means of their rows; a centre without rows stays."""
        count = sums["count"]
        self.centres.copy_(torch.where(count > 0, sums["first"] / count.clamp(min=1e-300), self.centres))

    def log_prior(self) -> Tensor:
        return self.centres.new_zeros(())

    @property
    def used(self) -> int:
        return self.components

    def free(self) -> float:
        return float(self.centres.numel())

    def begin(self, seen: Seen, components: int, draws: Draws) -> None:
        """k-means++ among the rows, gaps at the mean of their coordinate."""
        y, there = seen.rows
        if there is not None:
            y = torch.where(there > 0, y, y.sum(0) / there.sum(0).clamp(min=1))
        chosen = plus_plus(y, components, _row_squares, seen.weight, draws.uniform(components, dtype=y.dtype)[0])
        self.centres.copy_(y[chosen])

    def distances(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """‖y − μ_k‖² over the coordinates that are there, (B, K)."""
        y, there = self.digest(Batch(x, draws or Draws(0, 0, len(x), device=x.device))).rows
        return squares(y, self.centres, there)

    def assign(self, x: Tensor) -> Tensor:
        """The nearest centre of each row, int64 (B,)."""
        return self.distances(x).argmin(1)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Distances to the centres, (B, K): the smallest says which one the row belongs to."""
        return self.distances(x).sqrt()

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": self.distances(batch.x, batch.draws).min(1).values}
