"""What a model is conditioned on. Nets take the slots they know; classifier-free guidance lives here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pushforward.core.errors import DataError
from pushforward.core.schema import Column

Condition = Mapping[str, Tensor]


@dataclass(frozen=True)
class Context:
    """``vector`` (B, D) for modulation; ``tokens`` (B, T, D) with ``mask`` (B, T) for attention; ``spatial`` (B, C, H, W)."""

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    spatial: Tensor | None = None


class Conditioner(nn.Module):
    """Named conditions in the user's codes, {name: (B,)}, to a Context with ``vector`` (B, size).

    Categories are embedded, numbers standardised by the schema's mean and deviation; a layer sums them. Rows whose
    ``drop`` is true, and every row when no condition is given, get the learned null condition
    (Ho & Salimans 2022, arXiv:2207.12598).
    """

    def __init__(self, columns: Sequence[Column], size: int = 64) -> None:
        super().__init__()
        self.columns, self.size = tuple(columns), size
        self.embed = nn.ModuleList(nn.Embedding(c.levels, size) if c.discrete else nn.Linear(2, size) for c in self.columns)
        self.null = nn.Parameter(torch.randn(size) / size**0.5) if self.columns else None

    @property
    def width(self) -> int:
        """Size of the context vector; 0 without conditions."""
        return self.size if self.columns else 0

    def forward(self, condition: Condition | None, rows: int, drop: Tensor | None = None) -> Context:
        """``condition`` for ``rows`` examples; ``drop`` (B,) bool marks rows that get the null condition."""
        if self.null is None:
            return Context()
        null = self.null.expand(rows, -1)
        if condition is None:
            return Context(vector=null)
        missing = [c.name for c in self.columns if c.name not in condition]
        if missing:
            raise DataError(f"the condition lacks {missing}: give {[c.name for c in self.columns]}")
        vector = torch.zeros_like(null)
        for column, embed in zip(self.columns, self.embed, strict=True):
            code = condition[column.name]
            if column.discrete:
                vector = vector + embed(code.long())
            else:
                known = ~code.isnan()
                value = ((code - column.mean) / column.std).nan_to_num()
                vector = vector + embed(torch.stack([value, known.to(value.dtype)], -1).to(null.dtype))
        if drop is not None:
            vector = torch.where(drop[:, None], null, vector)
        return Context(vector=vector)
