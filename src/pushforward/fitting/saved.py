"""The files of a fitted model in its run folder, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pushforward.catalog import Family
from pushforward.core.errors import CheckpointError, RecipeError
from pushforward.core.model import Model
from pushforward.core.schema import Schema
from pushforward.data.dataset import Rows
from pushforward.fitting.files import read_json, read_tensors, write_json, write_tensors
from pushforward.fitting.history import read_lines
from pushforward.fitting.recipe import build, read_rows, write_rows


def write_run(run: Path, model: Model, recipe: dict[str, Any], preview: Rows | None, raw: Mapping[str, Tensor]) -> None:
    """Write the files of the run; recipe.json last, so that a folder with one is whole."""
    write_tensors(run / "model.safetensors", model.state_dict())
    if raw:
        write_tensors(run / "raw.safetensors", raw)
    if preview is not None:
        write_rows(run / "preview.npz", preview)
    write_json(run / "recipe.json", recipe)


def read_run(
    run: Path, device: str | None = None
) -> tuple[Model, Family, Schema, dict[str, Any], Rows | None, list[dict[str, Any]]]:
    """The model in the folder ``run``, its family, schema and recipe, and its preview and history where they were kept.

    Raises CheckpointError where it is missing, damaged, unsafe or newer.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run} is no run folder: give the folder that fit wrote (--out)")
    recipe = read_json(run / "recipe.json")
    model, fam, schema = build(recipe, str(run / "recipe.json"))
    if not (run / "model.safetensors").exists() and (run / "checkpoints").exists():
        raise CheckpointError(f"{run} is not finished: go on with the same fit command and --resume")
    tensors = read_tensors(run / "model.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{run / 'model.safetensors'} does not fit recipe.json ({reason}): one of them was edited"
        ) from error
    if device is not None:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    preview = read_rows(run / "preview.npz") if (run / "preview.npz").exists() else None
    return model, fam, schema, recipe, preview, read_lines(run / "metrics.jsonl")
