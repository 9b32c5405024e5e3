"""What run folders hold, read for a report and checked: a file that is missing or damaged is named."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pushforward.catalog import FAMILIES, Family
from pushforward.core.errors import CheckpointError, DataError, RecipeError
from pushforward.core.schema import Column, Part, Schema, Table, Vector, from_json
from pushforward.fitting.files import read_json
from pushforward.fitting.pictures import PALETTE
from pushforward.fitting.recipe import VERSION
from pushforward.fitting.snapshots import pictured, stored

MOST_ROWS = 1000


@dataclass
class Codes:
    """Codes x (N, …) and the codes of side columns {name: (N, …)}."""

    x: np.ndarray
    columns: dict[str, np.ndarray]

    def take(self, index: Any) -> Codes:
        return Codes(self.x[index], {name: values[index] for name, values in self.columns.items()})

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class Run:
    """What one run folder holds. A failed run has an ``error`` and little else."""

    folder: Path
    recipe: dict[str, Any]
    family: str
    error: str = ""
    label: str = ""
    colour: str = PALETTE[0]
    schema: Schema | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    preview: Codes | None = None
    samples: Codes | None = None
    density: dict[str, Any] | None = None
    snapshots: list[tuple[int, np.ndarray]] = field(default_factory=list)
    way: np.ndarray | None = None

    @property
    def data(self) -> dict[str, Any]:
        return self.recipe["data"]

    @property
    def known(self) -> Family | None:
        """The family, where it is one of the catalogue."""
        return FAMILIES.get(self.family)


def all_columns(schema: Schema) -> list[Column]:
    """All that a row of codes holds, column by column; for tables and vectors."""
    example = schema.example
    own = example.learned if isinstance(example, Table) else (Column(f"x{i + 1}") for i in range(example.size))
    told = (c for c in schema.conditions if isinstance(c, Column))
    return [*own, *told, *([schema.target] if schema.target else [])]


def column_codes(schema: Schema, rows: Codes, name: str) -> np.ndarray | None:
    """The codes (N,) of one column, None where these rows do not have it."""
    if name in rows.columns:
        return rows.columns[name].astype(float)
    if isinstance(schema.example, (Table, Vector)):
        names = [c.name for c in all_columns(schema)][: rows.x.shape[1]]
        if name in names:
            return rows.x[:, names.index(name)].astype(float)
    return None


def damaged(path: Path, why: object) -> CheckpointError:
    """The error of one line that names a damaged file."""
    text = " ".join(str(why).split())
    return CheckpointError(f"{path} is damaged ({text}): restore it or fit again")


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is missing: this is not a complete run folder")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise ValueError("not an npz archive")
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, error or type(error).__name__) from error


def _read_codes(path: Path, schema: Schema) -> Codes:
    found = _arrays(path)
    x = found.get("x")
    if x is None or x.ndim < 1 or x.dtype.kind not in "biuf" or x.shape[1:] != schema.example.shape:
        what = "no array x" if x is None else f"{x.dtype} codes of shape {x.shape}"
        raise damaged(path, f"found {what}, expected {('N', *schema.example.shape)}")
    columns = {name.removeprefix("column/"): values for name, values in found.items() if name.startswith("column/")}
    parts = {c.name: c.kind.shape for c in schema.conditions if isinstance(c, Part)}
    for name, values in columns.items():
        expected = (len(x), *parts.get(name, ()))
        if values.shape != expected or values.dtype.kind not in "biuf":
            raise damaged(path, f"column '{name}' has shape {values.shape}, expected {expected}")
    return Codes(x, columns).take(slice(MOST_ROWS))


def _read_way(path: Path, schema: Schema) -> np.ndarray:
    """Codes (N, frames, …) from noise to data."""
    x = _arrays(path).get("x")
    if x is None or x.dtype.kind not in "biuf" or x.shape[2:] != schema.example.shape or not x.size:
        found = "no array x" if x is None else f"{x.dtype} codes of shape {x.shape}"
        raise damaged(path, f"found {found}, expected {('N', 'frames', *schema.example.shape)}")
    return x


def _read_density(path: Path) -> dict[str, Any]:
    found = _arrays(path)
    try:
        xs, ys, values = (np.asarray(found[name], dtype=float) for name in ("grid_x", "grid_y", "log_density"))
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, error) from error
    if xs.ndim != 1 or ys.ndim != 1 or values.shape != (len(ys), len(xs)) or min(len(xs), len(ys)) < 2:
        raise damaged(path, f"a density of shape {values.shape} on a grid of {xs.shape} by {ys.shape}")
    return {"x": xs, "y": ys, "values": values, "kind": str(found.get("kind", ""))}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise damaged(path, f"line {number}: {error}") from error
        if not isinstance(record, dict):
            raise damaged(path, f"line {number}: expected an object")
        for name in ("step", "train", "validation"):
            if not isinstance(record.get(name, 0), (int, float, type(None))):
                raise damaged(path, f"line {number}: {name} is {record[name]!r}, expected a number")
        found.append(record)
    return found


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    stored = read_json(path)
    metrics = stored.get("metrics", []) if isinstance(stored, dict) else None
    if not isinstance(metrics, list):
        raise damaged(path, "expected a list of metrics")
    for m in metrics:
        if not isinstance(m, dict) or not isinstance(m.get("name"), str):
            raise damaged(path, "a metric has no name")
        for key in ("value", "standard_error"):
            if not isinstance(m.get(key), (int, float, type(None))):
                raise damaged(path, f"{key} of {m['name']} is {m[key]!r}, expected a number")
    return metrics


def read_run(folder: Path) -> Run:
    """What the run in ``folder`` wrote. Raises CheckpointError where a file it must have is missing or damaged."""
    path = folder / "recipe.json"
    recipe = read_json(path)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("family"), str) or not isinstance(recipe.get("data"), dict):
        raise damaged(path, "it names no family or no data")
    version = recipe.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(f"{path} is of version {version}, this pushforward reads up to {VERSION}: upgrade it")
    run = Run(folder, recipe, recipe["family"])
    failure = folder / "error.txt"
    if failure.exists():
        try:
            run.error = " ".join(failure.read_text("utf-8", "replace").split()) or "failed without a message"
        except OSError as error:
            raise damaged(failure, error) from error
    if "schema" not in recipe and run.error:
        return run
    try:
        run.schema = from_json(recipe.get("schema") or {})
    except RecipeError as error:
        raise damaged(path, error) from error

    def wanted(name: str, needed: bool = True) -> bool:
        return (needed and not run.error) or (folder / name).exists()

    if wanted("metrics.jsonl"):
        lines = _read_lines(folder / "metrics.jsonl")
        run.events = [line for line in lines if "event" in line]
        # A resumed run may have measured a step twice: the later one counts.
        steps = {line["step"]: line for line in lines if "event" not in line and line.get("step") is not None}
        run.records = [steps[step] for step in sorted(steps)]
    if wanted("evaluation.json", needed=False):
        run.metrics = _read_metrics(folder / "evaluation.json")
    if wanted("preview.npz"):
        run.preview = _read_codes(folder / "preview.npz", run.schema)
    if wanted("samples.npz", needed=run.known is not None and "sample" in run.known.verbs):
        run.samples = _read_codes(folder / "samples.npz", run.schema)
    plane = isinstance(run.schema.example, Vector) and run.schema.example.size == 2
    if plane and wanted("density.npz", needed=False):
        run.density = _read_density(folder / "density.npz")
    if pictured(run.schema.example):
        run.snapshots = [(step, _read_codes(path, run.schema).x) for step, path in stored(folder)]
        if wanted("trajectory.npz", needed=False):
            run.way = _read_way(folder / "trajectory.npz", run.schema)
    return run


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Runs of the same data, each with a label and a colour of its own. Raises DataError where the data differ."""
    runs = [read_run(Path(folder)) for folder in folders]
    _same_data(runs)
    families = [run.family for run in runs]
    for i, run in enumerate(runs):
        run.label = f"{run.family} ({run.folder.name})" if families.count(run.family) > 1 else run.family
        run.colour = PALETTE[i % len(PALETTE)]
    return runs


def _same_data(runs: Sequence[Run]) -> None:
    def learned(run: Run) -> tuple[Any, ...]:
        kind = run.schema.example if run.schema else None
        return (kind.name, None if isinstance(kind, Table) else kind.shape) if kind else ()

    first = next((r for r in runs if r.schema), runs[0])
    for run in runs:
        names = [str(r.data.get("name")) for r in (first, run)]
        if names[0] != names[1] or (run.schema and learned(run) != learned(first)):
            raise DataError(
                f"{first.folder} learns {names[0]} and {run.folder} {names[1]}: give runs of the same data to compare"
            )
