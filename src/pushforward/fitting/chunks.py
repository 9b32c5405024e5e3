"""Rows in chunks, so that memory stays flat however many there are; what comes out does not depend on their size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.derived import with_derived
from pushforward.core.errors import DataError, RecipeError
from pushforward.core.schema import Schema
from pushforward.data.dataset import Data
from pushforward.fitting.loop import place
from pushforward.fitting.progress import Progress

Run = Callable[[Tensor, dict[str, Tensor] | None, int, int], Tensor]  # (x, condition, start, stop) → one row each


def chunk_size(asked: int | None, schema: Schema, cost: int = 1) -> int:
    """Rows at a time: ``asked``, or about a million numbers where a row takes ``cost`` times its own."""
    if asked is not None and asked < 1:
        raise RecipeError(f"chunk must be at least 1, found {asked}")
    return asked or max(1, min(1024, 1_000_000 // (cost * schema.example.size)))


@torch.no_grad()
def in_chunks(title: str, data: Data, schema: Schema, device: torch.device, run: Run, size: int) -> Tensor:
    """``run``(x, condition, start, stop) over ``size`` rows of ``data`` at a time, joined on the CPU.

    Conditions made from the example are made of x, always the same way.
    """
    parts = []
    with Progress(title) as progress:
        for start in range(0, len(data), size):
            stop = min(start + size, len(data))
            rows = data.rows(slice(start, stop))
            x = place(rows.x, device)
            columns = {c.name: place(rows.columns[c.name], device) for c in schema.conditions if c.name in rows.columns}
            condition = with_derived(schema.conditions, x, columns)
            parts.append(run(x, condition or None, start, stop).cpu())
            progress.update(stop / len(data))
    if not parts:
        raise DataError(f"{data.name} has no rows")
    return torch.cat(parts)
