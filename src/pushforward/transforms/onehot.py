"""Categories as corners: what a generator of soft choices and its critic see of a table.

A code k of K levels is the one-hot vector e_k; back, the largest coordinate is the code. Points between the corners stand for
no code, so there is no density: V is 0 and means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.schema import Column
from pushforward.core.transform import Elementwise
from pushforward.transforms.tabular import NumberMarginals, TableMap


class OneHots(Elementwise):
    """Codes (B, L) of columns with ``levels`` each ↔ one-hots (B, Σ levels), one column after the other.

    The one-hots come in the dtype of the module's ``like`` (float32 unless the model is turned to float64).
    """

    like: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return torch.stack([part.argmax(1) for part in z.split(self.levels, 1)], 1)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        corners = [F.one_hot(code, count) for code, count in zip(x.long().unbind(1), self.levels, strict=True)]
        return torch.cat(corners, 1).to(self.like.dtype), torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def spread(self, observed: Tensor) -> Tensor:
        counts = torch.tensor(self.levels, device=observed.device)
        return observed.repeat_interleave(counts, 1)


def table_corners(columns: Sequence[Column]) -> tuple[TableMap, tuple[int, ...]]:
    """Codes (B, C) ↔ numbers, each standard normal and NaN where missing, then one-hots; and the levels of each group of these.

    The last groups are the gap indicators, (present, missing), of the numbers that have gaps, in their order.
    """
    numbers = [c for c in columns if not c.discrete]
    gapped = [c for c in numbers if c.missing]
    levels = tuple(c.levels for c in columns if c.discrete) + (2,) * len(gapped)
    steps, bounds = [c.resolution or 0.0 for c in numbers], [c.bounds for c in numbers]
    number_map = NumberMarginals(steps, fill=False, gaps=bool(gapped), bounds=bounds)
    return TableMap(columns, number_map, OneHots(levels)), levels
