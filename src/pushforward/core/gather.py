"""Rows of all data-parallel processes, with gradients, for losses that compare examples with one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_apart = False


@contextmanager
def alone() -> Iterator[None]:
    """Inside, every process sees its own rows only (validation, where all look at the same ones)."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def _together() -> bool:
    return not _apart and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's place among the data-parallel ones; 0 where there is one."""
    return dist.get_rank() if _together() else 0


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # every process's loss depends on these rows: the gradients of all losses are summed, then our part is taken
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def all_rows(rows: Tensor) -> Tensor:
    """(B, …) of each process → (W·B, …) in the order of ranks. One process gets its own rows back."""
    return _AllRows.apply(rows) if _together() else rows
