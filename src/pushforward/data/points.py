"""Sets of points in arrays into ``Data``, and new ones under a kind already learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Points
from pushforward.data.arrays import check_finite, real


def arranged(array: Any, place: str, holes: bool = False) -> tuple[np.ndarray, Points]:
    """A real array (N, P, d), not copied, and its kind.

    Raises DataError for other ranks and types, and for values that are not finite (NaN passes with ``holes``).
    """
    values, container, dtype = real(array, place)
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise DataError(f"{place} is an array of shape {tuple(values.shape)}: expected sets of points as (N, P, d)")
    check_finite(values, place, ("point", "coordinate"), holes)
    return values, Points(values.shape[1], values.shape[2], container, dtype)


def thinned(values: np.ndarray, kind: Points, count: int | None, place: str) -> tuple[np.ndarray, Points, list[str]]:
    """``count`` points at random of each set (N, P, d), where that is given; and a note."""
    from pushforward.data.signals import check_length

    if count is None or count == kind.count:
        return values, kind, []
    check_length(count)
    if count > kind.count:
        raise DataError(f"{place} has {kind.count} points in a set: length can be at most that, found {count}")
    # others in each set: the rows of many files are in some order of their own
    rng = np.random.default_rng(0x9017)
    chosen = np.stack([rng.permutation(kind.count)[:count] for _ in range(len(values))])
    kept = np.take_along_axis(values, chosen[:, :, None], 1)
    note = f"{count} of {kind.count} points of each set are used"
    return kept, Points(int(count), kind.dims, kind.container, kind.dtype), [note]


def encode(kind: Points, values: Any, place: str, holes: bool = False) -> Tensor:
    """Codes float64 (B, P, d), a copy, of new sets of ``kind``."""
    found, other = arranged(values, place, holes)
    if other.shape != kind.shape:
        raise DataError(
            f"{place} has sets of {other.count} points in {other.dims} dimensions: expected {kind.count} in {kind.dims}"
        )
    return torch.from_numpy(np.array(found, dtype=np.float64))
