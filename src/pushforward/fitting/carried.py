"""Data that a model starts from instead of noise: read when it is fitted, kept with it, given anew when it samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pushforward.catalog import FAMILIES, Family
from pushforward.core.errors import RecipeError
from pushforward.core.schema import Schema
from pushforward.data.dataset import Data
from pushforward.data.like import open_like

if TYPE_CHECKING:
    from pushforward.fitting.fitted import Fitted

_KEPT = 20_000_000  # codes that are kept of a source at most


def open_source(source: Any, schema: Schema, fam: Family) -> Data | None:
    """The ``source`` under the schema of the data, without conditions; None where the family starts from noise.

    Raises RecipeError where a family that starts from data is given none, or another one is.
    """
    if not fam.source_data:
        if source is not None:
            able = ", ".join(f.name for f in FAMILIES.values() if f.source_data)
            raise RecipeError(f"{fam.name} starts from noise, not from a source of data: fit the family {able}")
        return None
    if source is None:
        raise RecipeError(f"{fam.name} carries other data to these: name them with source= (--source)")
    found = open_like(source, _alone(schema))
    return found if isinstance(source, (str, Path)) else replace(found, name="other data")


def configured(config: Any, source: Data | None) -> Any:
    """``config`` with the number of rows that are kept of the source."""
    if source is None:
        return config
    most = max(1, min(len(source), _KEPT // source.schema.example.size))
    return replace(config, source_rows=min(config.source_rows or most, most))


def keep(model: Any, source: Data | None, seed: int) -> tuple[str, ...]:
    """Fill the model's source, and say from what."""
    if source is None:
        return ()
    kept = len(model.source.codes)
    rows = source.sample(kept, seed).x if kept < len(source) else source.rows().x
    if torch.is_floating_point(rows) and bool(rows.isnan().all()):
        raise RecipeError("the source has no known values")
    model.source.codes.copy_(rows)
    return (f"carried from {source.name}: {kept:,} of {len(source):,} rows are kept with the model",)


def starting(fitted: Fitted, n: int | None, options: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """How many samples, and the ``options`` with the codes of ``start``, of which there is one for each."""
    given = dict(options)
    start = given.pop("start", None)
    if start is None:
        return 1 if n is None else n, given
    if not fitted.family.source_data:
        raise RecipeError(f"{fitted.family.name} starts from noise: start= (--start) is for families that carry other data")
    codes: Tensor = open_like(start, _alone(fitted.schema)).rows().x
    if n is not None and n != len(codes):
        raise RecipeError(f"found {n} samples asked for and {len(codes)} rows to start from: leave out the number")
    return len(codes), given | {"start": codes}


def _alone(schema: Schema) -> Schema:
    return Schema(schema.example)
