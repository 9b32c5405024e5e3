"""What is missing in rows, and a draw for it that is not missing itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.context import Condition
from pushforward.core.errors import DataError
from pushforward.core.model import Completes
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Kind, Signal, Table

_REDRAWS = 16


def seen_in(kind: Kind, x: Tensor, observed: Any = None) -> Tensor:
    """What of the codes x is there, a boolean of their shape: what ``observed`` says and is no NaN."""
    if observed is None:
        return ~x.isnan()
    known = torch.as_tensor(np.asarray(observed), dtype=torch.bool)
    if isinstance(kind, Image) and known.shape == (len(x), kind.height, kind.width):
        known = known[:, None].expand(x.shape)
    elif isinstance(kind, Image) and known.dim() == 4 and known.shape[-1] == kind.channels:
        known = known.permute(0, 3, 1, 2)
    elif isinstance(kind, Signal) and kind.flat and known.dim() == 2:
        known = known[:, None]
    if known.shape != x.shape:
        raise DataError(f"observed has shape {tuple(known.shape)}: expected that of the data, {tuple(x.shape)}")
    return known & ~x.isnan() if x.is_floating_point() else known


def missing_codes(kind: Kind, device: torch.device) -> Tensor | None:
    """For each column the code that means missing, −1 where there is none; None for data without such codes.

    A category that was missing in training has a level for that, which is no answer to what belongs into a gap.
    """
    if not isinstance(kind, Table) or not any(c.discrete and c.missing for c in kind.learned):
        return None
    codes = [len(c.categories) if c.discrete and c.missing else -1 for c in kind.learned]
    return torch.tensor(codes, dtype=torch.float64, device=device)


def fill(
    model: Completes,
    x: Tensor,
    seen: Tensor,
    condition: Condition | None,
    draws: Draws,
    missing: Tensor | None,
    **options: Any,
) -> Tensor:
    """x with what is not ``seen`` drawn by ``model``; where ``missing`` codes come out, up to sixteen times again. ``options``
    are the model's."""
    complete: Any = model.complete  # which may take further options
    filled = complete(x, seen, condition, draws, **options).to(x.dtype)
    for again in range(_REDRAWS if missing is not None else 0):
        gaps = ((filled == missing) & ~seen).any(1)
        if not bool(gaps.any()):
            break
        redrawn = complete(x, seen, condition, draws.fork(again), **options).to(x.dtype)
        filled = torch.where(gaps[:, None], redrawn, filled)
    return filled
