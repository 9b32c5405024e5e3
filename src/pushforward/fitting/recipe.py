"""What a run folder says of its model: the recipe that builds it again, and rows kept as codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.catalog import Family, family
from pushforward.core.errors import CheckpointError
from pushforward.core.model import Model
from pushforward.core.schema import Schema, from_json, to_json
from pushforward.data.dataset import Rows
from pushforward.fitting.files import write_arrays

VERSION = 1  # of recipe.json


def write_rows(path: Path, rows: Rows) -> None:
    """Codes as an .npz: x, and column/NAME for each column."""
    write_arrays(path, {"x": rows.x.numpy()} | {f"column/{n}": c.numpy() for n, c in rows.columns.items()})


def read_rows(path: Path) -> Rows:
    """What ``write_rows`` wrote. Raises CheckpointError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {n[len("column/") :]: torch.from_numpy(arrays[n]) for n in arrays.files if n.startswith("column/")}
            return Rows(torch.from_numpy(arrays["x"]), columns)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({error}): fit again") from error


def make_recipe(fam: Family, config: Any, schema: Schema, **rest: Any) -> dict[str, Any]:
    """All that is needed to build the model again, as plain JSON."""
    from dataclasses import asdict

    return {"version": VERSION, "family": fam.name, "options": asdict(config), "schema": to_json(schema), **rest}


def build(recipe: Mapping[str, Any], where: str = "recipe.json") -> tuple[Model, Family, Schema]:
    """The untrained model of a recipe. Raises CheckpointError or RecipeError where it cannot be built."""
    lacking = [name for name in ("version", "family", "schema") if not isinstance(recipe, dict) or name not in recipe]
    if lacking:
        raise CheckpointError(f"{where} is no recipe: it lacks {', '.join(lacking)}")
    if not isinstance(recipe["version"], int) or recipe["version"] > VERSION:
        raise CheckpointError(f"{where} is of version {recipe['version']}, this pushforward reads up to {VERSION}: upgrade it")
    try:
        fam = family(recipe["family"])
        schema = from_json(recipe["schema"])
        return fam.build(schema, fam.configure(recipe.get("options", {}))), fam, schema
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{where} is damaged ({str(error).splitlines()[0]}): restore it or fit again") from error
