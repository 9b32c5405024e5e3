"""Conditions in the user's terms as codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.derived import visible, with_derived
from pushforward.core.errors import DataError, Unsupported, did_you_mean
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Column, Part
from pushforward.data.dataset import Rows

_WHO, _HOW = 0x3D, 0x3E  # streams of the seed


def condition_codes(
    columns: Sequence[Column | Part], preview: Rows | None, condition: Mapping[str, Any] | None, n: int, seed: int
) -> dict[str, Tensor] | None:
    """Codes {name: (n, …)} of ``condition``, each a value or ``n`` of them; where none are given, those of rows of ``preview``
    drawn at random."""
    if not columns:
        if condition:
            raise Unsupported(f"this model was fitted without conditions, found {sorted(condition)}: fit with condition=")
        return None
    if condition is None:
        if preview is None:
            return None
        at = Draws(mix(seed, _WHO), 0, n).integers(len(preview.x)) if n else torch.zeros(0, dtype=torch.long)
        given = {c.name: preview.columns[c.name][at] for c in columns if c.name in preview.columns}
        return with_derived(columns, preview.x[at], given, Draws(mix(seed, _HOW), 0, n))
    names = [c.name for c in columns]
    for name in condition:
        if name not in names:
            raise DataError(f"there is no condition '{name}': {did_you_mean(name, names)}")
    lacking = [name for name in names if name not in condition]
    if lacking:
        raise DataError(f"the condition lacks {', '.join(lacking)}: give {', '.join(names)}")
    return {c.name: _codes(c, condition[c.name], n) for c in columns}


def _codes(column: Column | Part, values: Any, n: int) -> Tensor:
    if isinstance(column, Part):
        from pushforward.data import sides

        return sides.encode(column, sides.repeated(column, values, n))
    from pushforward.data.tables import encode_column

    single = isinstance(values, (str, bytes)) or not hasattr(values, "__len__")
    listed = [values] * n if single else values
    if len(listed) != n:
        raise DataError(f"condition '{column.name}' has {len(listed)} values for {n} samples: give one or {n}")
    return torch.from_numpy(np.asarray(encode_column(column, _as_category(column, listed), place="condition")))


def told_visible(
    conditions: Sequence[Column | Part], condition: dict[str, Tensor] | None, x: Tensor, seen: Tensor
) -> dict[str, Tensor] | None:
    """``condition`` where what is ``visible`` is what is ``seen`` (B, C, H, W) of x, in all channels."""
    for c in conditions:
        if isinstance(c, Part) and c.made == "visible" and condition is not None:
            condition = condition | {c.name: visible(c, x, seen.all(1, keepdim=True))}
    return condition


def _as_category(column: Column, values: Any) -> Any:
    """Text from a command line as the type of the column's categories."""
    kinds = {type(c) for c in column.categories}
    if kinds == {int} and all(isinstance(v, str) for v in values):
        try:
            return [int(v) for v in values]
        except ValueError:
            return values
    if not column.discrete and all(isinstance(v, str) for v in values):
        try:
            return [float(v) for v in values]
        except ValueError:
            return values
    return values
