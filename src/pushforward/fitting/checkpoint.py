"""Checkpoints: everything training needs to go on to the same bits, in one folder that is there whole or not at all.

    checkpoints/step-000400/   state.json   tensors.safetensors

``tensors`` holds weights, averages, the best averages, optimiser moments and the generators' states under prefixed names. A
checkpoint is written under another name, flushed, and renamed; older ones go only after that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import CheckpointError
from pushforward.fitting.files import read_json, read_tensors, replace_folder, write_json, write_tensors, writing_failed

VERSION = 1


def save(run: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of ``step`` and drop older ones."""
    folder = run / "checkpoints"
    final, temporary = folder / f"step-{step:09d}", folder / f".step-{step:09d}.{os.getpid()}.part"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise writing_failed(temporary, error) from error
    try:
        write_tensors(temporary / "tensors.safetensors", {**tensors, **_random_states()})
        write_json(temporary / "state.json", {"version": VERSION, "step": step, **state})
        if final.exists():  # after a rollback the same step comes again
            os.replace(final, folder / f".{final.name}.old")
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def latest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    found = sorted((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    return found[-1] if found else None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state; global generators are set as they were."""
    state, tensors = read_json(path / "state.json"), read_tensors(path / "tensors.safetensors")
    if state.get("version", 0) > VERSION:
        raise CheckpointError(f"{path} is of version {state['version']}, this pushforward reads up to {VERSION}: upgrade it")
    _set_random_states(tensors)
    return tensors, state


def _random_states() -> dict[str, Tensor]:
    name, keys, position, gauss, cached = np.random.get_state()  # noqa: NPY002 (a user's own model may draw from it)
    legacy = json.dumps([name, np.asarray(keys).tolist(), int(position), int(gauss), float(cached)]).encode()
    version, internal, pending = random.getstate()
    plain = json.dumps([version, list(internal), pending]).encode()
    states = {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.tensor(list(legacy), dtype=torch.uint8),
        "random/python": torch.tensor(list(plain), dtype=torch.uint8),
    }
    if torch.cuda.is_available():
        states["random/cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(tensors: dict[str, Tensor]) -> None:
    if "random/torch" in tensors:
        torch.set_rng_state(tensors.pop("random/torch"))
    if "random/numpy" in tensors:
        name, keys, position, gauss, cached = json.loads(bytes(tensors.pop("random/numpy").tolist()))
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, gauss, cached))  # noqa: NPY002
    if "random/python" in tensors:
        version, internal, pending = json.loads(bytes(tensors.pop("random/python").tolist()))
        random.setstate((version, tuple(internal), pending))
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors.pop("random/cuda"))
