"""What a generator gives for a table: numbers, and choices that a gradient passes through (algorithms/estimators)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pushforward.algorithms.estimators import gumbel_softmax, one_hot
from pushforward.core.random import Draws


class MixedHead(nn.Module):
    """What a generator gives for a table (B, N + Σ levels) to N numbers and a choice for each column of ``levels``.

    The last groups are the gap indicators (present, missing) of the numbers ``gapped``: these are multiplied by the share of
    present, as those of real rows are 0 where they are missing.
    """

    def __init__(self, numbers: int, levels: Sequence[int], gapped: Sequence[int], temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"found a temperature of {temperature}: expected a positive number")
        self.numbers, self.levels, self.gapped, self.temperature = numbers, tuple(levels), tuple(gapped), temperature

    def forward(self, raw: Tensor, draws: Draws, decided: bool) -> Tensor:
        """Soft choices, or one-hots where ``decided``."""
        numbers, logits = raw[:, : self.numbers], raw[:, self.numbers :]
        if not self.levels:
            return numbers
        uniform = draws.uniform(logits.shape[1], dtype=torch.float64)
        groups = zip(logits.split(self.levels, 1), uniform.split(self.levels, 1), strict=True)
        soft = (one_hot(l, u) if decided else gumbel_softmax(l, u, self.temperature) for l, u in groups)
        chosen = [choice.to(raw.dtype) for choice in soft]
        if self.gapped:
            present = torch.ones_like(numbers)
            present[:, self.gapped] = torch.stack([pair[:, 0] for pair in chosen[-len(self.gapped) :]], 1)
            numbers = numbers * present
        return torch.cat([numbers, *chosen], 1)
