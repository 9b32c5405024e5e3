"""The report of one run, or the comparison of several on the same data, as one HTML file that needs nothing else.

What runs wrote (names, categories, texts, messages) is untrusted: it reaches the page through an escaping template only.
"""

from __future__ import annotations

import datetime
import importlib.resources
import json
import math
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.core.errors import CheckpointError, DataError, PushforwardError, RecipeError
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Schema, Table, Tokens, Vector, from_json
from pushforward.fitting import pictures
from pushforward.fitting.files import read_json, whole
from pushforward.fitting.pictures import PALETTE, Series, short

VERSION = 1
MOST_ROWS = 1000
MOST_COLUMNS = 12
MOST_PAIRED = 5
MOST_LEVELS = 8
PREVIEW_ROWS = 8
# Pixels of all contact sheets together, so that a comparison of ten runs stays below five megabytes.
SHEET_PIXELS = 900_000

# What a model costs is the last columns of the leaderboard, wherever it is written.
COSTS = ("parameters", "seconds", "samples_per_second")
KINDS_OF_DENSITY = {
    "exact": ("exact", "the likelihood itself, by a change of variables or a sum"),
    "ode": ("ODE", "exact up to the tolerance of the solver; with a random trace estimate, up to its standard error"),
    "lower_bound": (
        "bound",
        "the model guarantees at least this likelihood; its true value may be better, so a bound may understate it",
    ),
}
ROLES = {ColumnKind.IDENTIFIER: "left out: identifier", ColumnKind.CONSTANT: "left out: constant"}


# ------------------------------------------------------------------------------------------------------------- diagnosis


@dataclass(frozen=True)
class Diagnosis:
    """What learning curves say: ``kind`` is overfitting, underfitting, converged, unstable, diverged or short."""

    kind: str
    sentence: str


def _falling(steps: np.ndarray, values: np.ndarray) -> bool:
    """Whether the last third still falls: by a visible share of the whole fall, and by more than its noise."""
    late = steps >= steps[0] + (steps[-1] - steps[0]) * 2 / 3
    if late.sum() < 3:
        late[-3:] = True
    x, y = steps[late], values[late]
    slope, offset = np.polyfit(x, y, 1)
    fall = -slope * (x[-1] - x[0])
    error = np.std(y - slope * x - offset, ddof=min(2, len(y) - 1)) * math.sqrt(12 / len(y))
    early = float(np.median(values[: max(1, len(values) // 5)]))
    whole_fall = max(early - float(values.min()), 1e-9 * (1 + abs(early)))
    return bool(fall > 0.05 * whole_fall and fall > 2 * error)


def _risen(values: np.ndarray) -> tuple[int, float]:
    """Where the (smoothed) values are lowest, and by how much they have risen since; 0 where that is noise."""
    half = 2 if len(values) >= 12 else 1
    smooth = np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
    best = int(smooth.argmin())
    after = values[best + 1 :]
    if len(after) < 3 or best > 0.85 * len(values):
        return best, 0.0
    rise = float(after[-max(3, len(after) // 3) :].mean() - smooth[best])
    # The lowest of many noisy values is low by chance: by about as much as neighbours differ.
    noise = float(np.median(np.abs(np.diff(values[len(values) // 4 :]))))
    span = max(float(np.median(values[: max(1, len(values) // 5)]) - smooth[best]), 1e-9 * (1 + abs(smooth[best])))
    return best, rise if rise > 2 * noise and rise > 0.05 * span else 0.0


def diagnose(metrics: Sequence[Mapping[str, Any]]) -> Diagnosis:
    """What the records of metrics.jsonl say about training, in one sentence with advice."""
    records = [m for m in metrics if "event" not in m and m.get("step") is not None]
    train = [(m["step"], m["train"]) for m in records if m.get("train") is not None]
    valid = [(m["step"], m["validation"]) for m in records if m.get("validation") is not None]
    for series in (train, valid):
        if series and not math.isfinite(series[-1][1]):
            return Diagnosis(
                "diverged",
                f"Diverged: the loss is not finite at step {series[-1][0]:,}; lower the learning rate, clip more, "
                "or look for extreme values in the data.",
            )
    distance = any(m.get("criterion", "loss") != "loss" for m in records)
    train = [p for p in train if math.isfinite(p[1])]
    valid = [p for p in valid if math.isfinite(p[1])]
    judged = valid or train
    passes = [v for _, v in judged]
    direct = bool(records) and all("learning_rate" in m and m["learning_rate"] is None for m in records)
    # Fitted by statistics (EM, moments), not by gradients: it ends when a pass changes nothing.
    if direct and len(passes) > 1 and abs(passes[-1] - passes[-2]) <= 1e-3 * (abs(passes[-1]) + abs(passes[0] - passes[-1])):
        return Diagnosis("converged", f"Converged: fitted directly, and the last of {len(passes)} passes changed nothing.")
    if len(judged) < 5 or (not distance and len(train) < 5):
        if not judged:
            return Diagnosis("short", "There is no learning curve: the family is fitted directly, or training wrote nothing.")
        return Diagnosis("short", f"Too short to say: only {len(judged)} measurements; train longer or validate more often.")
    steps, values = (np.array(a, dtype=float) for a in zip(*judged, strict=True))
    best, rise = _risen(values)
    if distance:
        if rise:
            return Diagnosis(
                "unstable",
                f"The distance to the data was lowest at step {steps[best]:,.0f} and rose afterwards: "
                "stop earlier, or lower the learning rate.",
            )
        if _falling(steps, values):
            return Diagnosis("underfitting", "The distance to the data was still falling at the end: train longer.")
        return Diagnosis("converged", "Converged: the distance to the data no longer changes.")
    train_steps, train_values = (np.array(a, dtype=float) for a in zip(*train, strict=True))
    if rise and valid:
        learned = np.interp(steps, train_steps, train_values)
        late = max(3, (len(values) - best) // 3)
        gap = float((values - learned)[-late:].mean() - (values - learned)[max(0, best - 1) : best + 2].mean())
        if gap > 0.5 * rise:
            return Diagnosis(
                "overfitting",
                f"Overfitting: validation was best at step {steps[best]:,.0f} and rose afterwards while training did not; "
                "stop earlier, get more data, use stronger weight decay or a smaller net.",
            )
    if rise:
        return Diagnosis(
            "unstable",
            f"Unstable: the loss was lowest at step {steps[best]:,.0f} and rose afterwards, on the training rows too; "
            "lower the learning rate.",
        )
    if _falling(steps, values) and _falling(train_steps, train_values):
        both = "training and validation were" if valid else "the training loss was"
        return Diagnosis("underfitting", f"Not finished: {both} still falling at the end; train longer.")
    if not valid:
        return Diagnosis("converged", "Converged on the training rows; there is no validation to tell overfitting.")
    return Diagnosis("converged", "Converged: validation no longer changes and has not risen.")


# --------------------------------------------------------------------------------------------------------------- reading


@dataclass
class Rows:
    """Codes x (N, …) and the codes of side columns {name: (N,)}."""

    x: np.ndarray
    columns: dict[str, np.ndarray]

    def take(self, index: Any) -> Rows:
        return Rows(self.x[index], {name: values[index] for name, values in self.columns.items()})

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
    preview: Rows | None = None
    samples: Rows | None = None
    density: dict[str, Any] | None = None

    @property
    def data(self) -> dict[str, Any]:
        return self.recipe["data"]


def _damaged(path: Path, why: object) -> CheckpointError:
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
        raise _damaged(path, error or type(error).__name__) from error


def _read_rows(path: Path, schema: Schema) -> Rows:
    found = _arrays(path)
    x = found.get("x")
    if x is None or x.ndim < 1 or x.dtype.kind not in "biuf" or x.shape[1:] != schema.example.shape:
        what = "no array x" if x is None else f"{x.dtype} codes of shape {x.shape}"
        raise _damaged(path, f"found {what}, expected {('N', *schema.example.shape)}")
    columns = {name.removeprefix("column/"): values for name, values in found.items() if name.startswith("column/")}
    for name, values in columns.items():
        if values.shape != (len(x),) or values.dtype.kind not in "biuf":
            raise _damaged(path, f"column '{name}' has shape {values.shape}, expected {(len(x),)}")
    return Rows(x, columns).take(slice(MOST_ROWS))


def _read_density(path: Path) -> dict[str, Any]:
    found = _arrays(path)
    try:
        xs, ys, values = (np.asarray(found[name], dtype=float) for name in ("grid_x", "grid_y", "log_density"))
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if xs.ndim != 1 or ys.ndim != 1 or values.shape != (len(ys), len(xs)) or min(len(xs), len(ys)) < 2:
        raise _damaged(path, f"a density of shape {values.shape} on a grid of {xs.shape} by {ys.shape}")
    return {"x": xs, "y": ys, "values": values, "kind": str(found.get("kind", ""))}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}") from error
        if not isinstance(record, dict):
            raise _damaged(path, f"line {number}: expected an object")
        for name in ("step", "train", "validation"):
            if not isinstance(record.get(name, 0), (int, float, type(None))):
                raise _damaged(path, f"line {number}: {name} is {record[name]!r}, expected a number")
        found.append(record)
    return found


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    stored = read_json(path)
    metrics = stored.get("metrics", []) if isinstance(stored, dict) else None
    if not isinstance(metrics, list):
        raise _damaged(path, "expected a list of metrics")
    for m in metrics:
        if not isinstance(m, dict) or not isinstance(m.get("name"), str):
            raise _damaged(path, "a metric has no name")
        for key in ("value", "standard_error"):
            if not isinstance(m.get(key), (int, float, type(None))):
                raise _damaged(path, f"{key} of {m['name']} is {m[key]!r}, expected a number")
    return metrics


def read_run(folder: Path) -> Run:
    """What the run in ``folder`` wrote. Raises CheckpointError where a file it must have is missing or damaged."""
    from pushforward.catalog import FAMILIES

    path = folder / "recipe.json"
    recipe = read_json(path)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("family"), str) or not isinstance(recipe.get("data"), dict):
        raise _damaged(path, "it names no family or no data")
    version = recipe.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(f"{path} is of version {version}, this pushforward reads up to {VERSION}: upgrade it")
    run = Run(folder, recipe, recipe["family"])
    if (folder / "error.txt").exists():
        try:
            run.error = " ".join((folder / "error.txt").read_text("utf-8", "replace").split()) or "failed without a message"
        except OSError as error:
            raise _damaged(folder / "error.txt", error) from error
    if "schema" in recipe or not run.error:
        try:
            run.schema = from_json(recipe.get("schema") or {})
        except RecipeError as error:
            raise _damaged(path, error) from error

    def wanted(name: str, needed: bool = True) -> bool:
        return run.schema is not None and ((needed and not run.error) or (folder / name).exists())

    if wanted("metrics.jsonl"):
        lines = _read_lines(folder / "metrics.jsonl")
        run.events = [line for line in lines if "event" in line]
        # A resumed run may have measured a step twice: the later one counts.
        steps = {line["step"]: line for line in lines if "event" not in line and line.get("step") is not None}
        run.records = [steps[step] for step in sorted(steps)]
    if wanted("evaluation.json", needed=False):
        run.metrics = _read_metrics(folder / "evaluation.json")
    known = FAMILIES.get(run.family)
    if run.schema is not None:
        if wanted("preview.npz"):
            run.preview = _read_rows(folder / "preview.npz", run.schema)
        if wanted("samples.npz", needed=known is not None and "sample" in known.verbs):
            run.samples = _read_rows(folder / "samples.npz", run.schema)
        plane = isinstance(run.schema.example, Vector) and run.schema.example.shape == (2,)
        if plane and wanted("density.npz", needed=False):
            run.density = _read_density(folder / "density.npz")
    return run


def _same_data(runs: Sequence[Run]) -> None:
    def said(run: Run) -> tuple[Any, ...]:
        kind = run.schema.example if run.schema else None
        return (str(run.data.get("name")), *((kind.name, kind.shape if not isinstance(kind, Table) else ()) if kind else ()))

    first = next((r for r in runs if r.schema), runs[0])
    for run in runs:
        if said(run)[:1] != said(first)[:1] or (run.schema and said(run) != said(first)):
            raise DataError(
                f"{first.folder} learns {first.data.get('name')} and {run.folder} {run.data.get('name')}: "
                "give runs of the same data to compare"
            )


def _name_runs(runs: Sequence[Run]) -> None:
    families = [r.family for r in runs]
    for i, run in enumerate(runs):
        twice = families.count(run.family) > 1
        run.label = f"{run.family} ({run.folder.name})" if twice else run.family
        run.colour = PALETTE[i % len(PALETTE)]


# ------------------------------------------------------------------------------------------------------------------ text


def _digits(error: float | None) -> int | None:
    """Decimals that show two digits of a standard error; None where there is none to go by."""
    if error is None or not math.isfinite(error) or error < 1e-9:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def _number(value: Any, error: float | None = None) -> str:
    """A value with as many decimals as its standard error bears, or four digits."""
    if value is None:
        return "—"
    given, value = value, float(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    size, digits = abs(value), _digits(error)
    if digits is None:
        if size != 0 and (size < 1e-3 or size >= 1e7):
            return f"{value:.3g}".replace("-", "−")
        digits = 0 if isinstance(given, int) or size >= 1000 or size == 0 else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}".replace("-", "−")


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return "—"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cell(value: Any) -> dict[str, Any]:
    """One value of the user's as text: {text, kind} with kind number, missing or text."""
    if value is None or value != value or str(value) in ("NaT", "<NA>"):
        return {"text": "—", "kind": "missing"}
    if isinstance(value, (bool, np.bool_)):
        return {"text": str(bool(value)), "kind": "text"}
    if isinstance(value, (int, np.integer)):
        return {"text": str(int(value)), "kind": "number"}
    if isinstance(value, (float, np.floating)):
        return {"text": f"{float(value):.6g}", "kind": "number"}
    text = str(value).removesuffix(" 00:00:00")
    return {"text": text if len(text) <= 60 else text[:59] + "…", "kind": "text"}


def _level(column: Column, code: int) -> str:
    names = [str(c) for c in column.categories] or (["False", "True"] if column.kind is ColumnKind.BOOLEAN else [])
    return names[code] if 0 <= code < len(names) else "missing" if code == len(names) else str(code)


def _day(code: float) -> str:
    try:
        return str(np.datetime64("1970-01-01") + np.timedelta64(round(code), "D"))
    except (OverflowError, ValueError):
        return short(code)


def _value(column: Column, code: float) -> str:
    if not math.isfinite(code):
        return "missing"
    if column.discrete:
        return _level(column, int(code))
    return _day(code) if column.kind is ColumnKind.DATE else f"{code:.6g}"


def _range(column: Column, codes: np.ndarray | None) -> str:
    if column.discrete:
        shown = ", ".join(str(c) for c in column.categories[:6]) or "False, True"
        return shown + (f" … ({len(column.categories)} levels)" if len(column.categories) > 6 else "")
    if column.kind is ColumnKind.CONSTANT:
        return str(column.constant)
    low, high = column.lower, column.upper
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = codes[np.isfinite(codes)] if codes is not None else np.zeros(0)
        if not len(finite):
            return ""
        low, high = float(finite.min()), float(finite.max())
    return f"{_value(column, low)} to {_value(column, high)}"


# ------------------------------------------------------------------------------------------------------------- sections


def _schema_rows(schema: Schema, preview: Rows | None) -> list[dict[str, str]]:
    example, rows = schema.example, []

    def row(column: Column, role: str) -> dict[str, str]:
        missing = "yes" if column.missing else ""
        grid = f"{column.resolution:g}" if column.resolution else ""
        codes = _codes(schema, preview, column.name) if preview is not None else None
        return {
            "name": column.name,
            "kind": column.kind.value,
            "values": _range(column, codes),
            "step": grid,
            "missing": missing,
            "role": role,
        }

    if isinstance(example, Table):
        rows += [row(c, ROLES.get(c.kind, "learned")) for c in example.columns]
    rows += [row(c, "condition") for c in schema.conditions]
    if schema.target is not None:
        rows.append(row(schema.target, "target"))
    return rows


def _kind_sentence(kind: Kind) -> str:
    if isinstance(kind, Table):
        return f"A table: each row has {len(kind.columns)} columns, of which {len(kind.learned)} are learned."
    if isinstance(kind, Image):
        colours = {1: "grey", 3: "colour", 4: "colour and alpha"}.get(kind.channels, f"{kind.channels} channels")
        return f"Images of {kind.height}×{kind.width} pixels (height×width), {colours}, {kind.levels} levels."
    if isinstance(kind, Tokens):
        symbols = sum(1 for s in kind.vocabulary if s != "\0")
        return f"Texts of up to {kind.length} symbols out of {symbols} different ones."
    return f"Vectors of {kind.size} numbers."


def _columns(schema: Schema) -> list[Column]:
    """All that a row of codes holds, column by column; for tables and vectors."""
    example = schema.example
    sides = [*schema.conditions, *([schema.target] if schema.target else [])]
    if isinstance(example, Table):
        return [*example.learned, *sides]
    return [*(Column(f"x{i + 1}") for i in range(example.size)), *sides]


def _codes(schema: Schema, rows: Rows, name: str) -> np.ndarray | None:
    """The codes (N,) of one column, None where these rows do not have it."""
    if name in rows.columns:
        return rows.columns[name].astype(float)
    if isinstance(schema.example, (Table, Vector)):
        names = [c.name for c in _columns(schema)][: rows.x.shape[1]]
        if name in names:
            return rows.x[:, names.index(name)].astype(float)
    return None


def _misfit(run: Run, rows: Rows, error: PushforwardError) -> CheckpointError:
    return _damaged(run.folder / ("preview.npz" if rows is run.preview else "samples.npz"), error)


def _tabulated(run: Run, held: Rows, count: int) -> dict[str, Any]:
    """The first rows as a table in the user's own types: {head, body, note}; the head says which columns are numbers."""
    schema = run.schema
    assert schema is not None
    rows = held.take(slice(count))
    if isinstance(schema.example, Table):
        from pushforward.data.sources import decode

        columns = {name: torch.from_numpy(values.astype(np.float64)) for name, values in rows.columns.items()}
        try:
            frame = decode(schema, torch.from_numpy(rows.x.astype(np.float64)), columns)
        except PushforwardError as error:
            raise _misfit(run, held, error) from error
        # Identifiers of samples are made up, and those of the preview would be too.
        hidden = {c.name for c in schema.example.columns if c.kind is ColumnKind.IDENTIFIER}
        names = [n for n in frame.columns if str(n) not in hidden]
        body = [[_cell(v) for v in line] for line in zip(*(list(frame[n]) for n in names[:30]), strict=True)]
    else:
        whole_numbers = "int" in getattr(schema.example, "dtype", "")
        names = [c.name for c in _columns(schema)[: schema.example.size]]
        body = [
            [_cell(round(v) if whole_numbers and math.isfinite(v) else v) for v in line] for line in rows.x[:, :30].tolist()
        ]
        for column in schema.conditions:
            if column.name in rows.columns and len(names) < 30:
                names.append(column.name)
                for line, code in zip(body, rows.columns[column.name].tolist(), strict=True):
                    line.append({"text": _value(column, code), "kind": "text"})
    note = f"The first 30 of {len(names)} columns are shown." if len(names) > 30 else ""
    numeric = [any(line[i]["kind"] == "number" for line in body) for i in range(min(30, len(names)))]
    return {"head": list(zip(map(str, names[:30]), numeric, strict=True)), "body": body, "note": note}


def _texts(run: Run, held: Rows, count: int) -> list[dict[str, str]]:
    from pushforward.data import text

    assert run.schema is not None
    assert isinstance(run.schema.example, Tokens)
    rows = held.take(slice(count))
    try:
        lines = text.decode(run.schema.example, torch.from_numpy(rows.x.astype(np.int64)))
    except PushforwardError as error:
        raise _misfit(run, held, error) from error
    shown = [line if len(line) <= 400 else line[:399] + "…" for line in lines]
    column = next((c for c in run.schema.conditions if c.name in rows.columns), None)
    tags = [f"{column.name} = {_value(column, v)}" for v in rows.columns[column.name].tolist()] if column else [""] * len(shown)
    return [{"tag": tag, "text": line} for tag, line in zip(tags, shown, strict=True)]


@dataclass(frozen=True)
class SheetPlan:
    """How contact sheets are laid out, the same for real images and for those of every model."""

    across: int
    rows: int
    column: Column | None = None
    values: tuple[float, ...] = ()


def _plan(kind: Image, runs: Sequence[Run], real: Rows | None) -> SheetPlan:
    with_samples = [r for r in runs if r.samples is not None]
    scale = min(1.0, 96 / max(kind.height, kind.width))
    each = kind.height * kind.width * scale**2 * (1.0 if kind.channels > 1 else 0.4)
    budget = max(4, int(min(300_000, SHEET_PIXELS / (1 + len(with_samples))) / each))
    first = next((r.schema.conditions[0] for r in with_samples if r.schema and r.schema.conditions), None)
    if first is not None:
        holders = [r.samples.columns[first.name] for r in with_samples if r.samples and first.name in r.samples.columns]
        if real is not None and first.name in real.columns:
            holders.append(real.columns[first.name])
        values = sorted({float(v) for held in holders for v in held if math.isfinite(v)})
        if values and (first.discrete or len(values) <= 10):
            rows = values[: max(1, min(10, budget // 4))]
            return SheetPlan(max(2, min(8, budget // len(rows))), len(rows), first, tuple(rows))
    side = max(2, min(8, math.isqrt(budget)))
    return SheetPlan(side, side)


def _sheet(kind: Image, rows: Rows, plan: SheetPlan) -> dict[str, Any] | None:
    """One contact sheet: {picture, labels}; None where there is nothing to show."""
    from pushforward.data.images import to_display

    index: list[np.ndarray] = []
    labels: list[str] = []
    if plan.column is not None and plan.column.name in rows.columns:
        held = rows.columns[plan.column.name]
        index = [np.flatnonzero(held == value)[: plan.across] for value in plan.values]
        labels = [_value(plan.column, value) for value in plan.values]
    else:
        chosen = np.arange(min(len(rows), plan.rows * plan.across))
        index = [chosen[i : i + plan.across] for i in range(0, len(chosen), plan.across)]
    if not any(len(i) for i in index):
        return None
    shown = [to_display(kind, torch.from_numpy(np.ascontiguousarray(rows.x[i]))) for i in index]
    across = plan.across if labels or len(index) > 1 else len(index[0])
    return {"picture": pictures.sheet(shown, across), "labels": labels, "small": max(kind.height, kind.width) < 80}


def _badge(kind: Any) -> dict[str, str] | None:
    if kind in KINDS_OF_DENSITY:
        return {"kind": kind, "text": KINDS_OF_DENSITY[kind][0], "title": KINDS_OF_DENSITY[kind][1]}
    return {"kind": "other", "text": str(kind), "title": ""} if kind else None


def _leaderboard(runs: Sequence[Run]) -> dict[str, Any]:
    """Head, groups of rows by the kind of density, and the notes below the table."""
    from pushforward.catalog import FAMILIES

    columns: dict[str, dict[str, Any]] = {}
    for run in runs:
        for m in (m for m in run.metrics if m["name"] not in COSTS):
            columns.setdefault(m["name"], {"label": m.get("label") or m["name"], "better": m.get("better")})
    compared: dict[tuple[str, Any], list[float]] = {}
    for run in runs:
        for m in run.metrics:
            if m.get("value") is not None and math.isfinite(m["value"]):
                compared.setdefault((m["name"], m.get("kind")), []).append(m["value"])

    def cell(run: Run, name: str) -> dict[str, Any]:
        m = next((m for m in run.metrics if m["name"] == name), None)
        if m is None:
            return {"text": "", "error": "", "best": False, "badge": None, "title": "", "sort": math.inf}
        value, error, better = m.get("value"), m.get("standard_error"), columns[name]["better"]
        rivals = compared.get((name, m.get("kind")), [])
        choose = {"lower": min, "higher": max}.get(str(better))
        best = choose is not None and len(rivals) > 1 and value is not None and value == choose(rivals)
        about = [f"{m['n']:,} rows" if isinstance(m.get("n"), int) else "", str(m.get("note") or "")]
        return {
            "text": _number(value, error),
            "error": _number(error, error) if _digits(error) is not None else "",
            "best": best,
            "badge": _badge(m.get("kind")),
            "title": " · ".join(a for a in about if a),
            "sort": math.inf if value is None or not math.isfinite(value) else -value if better == "higher" else value,
        }

    def cost(run: Run, name: str) -> Any:
        return run.recipe.get(name, next((m.get("value") for m in run.metrics if m["name"] == name), None))

    extras = [
        ("parameters", [cost(r, "parameters") for r in runs], lambda v: f"{v:,.0f}"),
        ("training", [cost(r, "seconds") for r in runs], _duration),
        ("samples/s", [cost(r, "samples_per_second") for r in runs], _number),
    ]
    extras = [e for e in extras if any(isinstance(v, (int, float)) for v in e[1])]
    groups: dict[str, list[dict[str, Any]]] = {}
    for i, run in enumerate(runs):
        known = FAMILIES.get(run.family)
        density = next((m["kind"] for m in run.metrics if m.get("kind")), None)
        cells = [cell(run, name) for name in columns]
        row = {
            "label": run.label,
            "colour": run.colour,
            "about": known.title if known else "",
            "source": known.source if known else "",
            "baseline": bool(known and known.baseline),
            "error": run.error,
            "cells": cells,
            "extras": [show(values[i]) if isinstance(values[i], (int, float)) else "" for _, values, show in extras],
        }
        group = "failed" if run.error else str(density or "none")
        groups.setdefault(group, []).append(row)
    names = {"exact": "exact density", "ode": "density by an ODE", "lower_bound": "lower bound of the density"}
    order = [k for k in (*names, *groups, "none", "failed") if k in groups]
    order = list(dict.fromkeys(k for k in order if k not in ("none", "failed"))) + [
        k for k in ("none", "failed") if k in groups
    ]
    for rows in groups.values():
        rows.sort(key=lambda row: row["cells"][0].get("sort", math.inf) if row["cells"] else 0)
    titles = {**names, "none": "no density" if len(order) > 1 else "", "failed": "failed"}
    kinds = [k for k in KINDS_OF_DENSITY if any(m.get("kind") == k for r in runs for m in r.metrics)]
    noted = [m for r in runs for m in r.metrics if m.get("note") and m["name"] in columns]
    notes = {(columns[m["name"]]["label"], m["note"]) for m in noted}
    return {
        "head": [*columns.values(), *({"label": name, "better": None} for name, _, _ in extras)],
        "groups": [{"title": titles.get(k, k), "rows": groups[k]} for k in order],
        "titled": len(order) > 1,
        "wide": 1 + len(columns) + len(extras),
        "kinds": [_badge(k) for k in kinds],
        "mixed": len(kinds) > 1,
        "bold": any(c.get("best") for rows in groups.values() for row in rows for c in row["cells"]),
        "errors": any(c.get("error") for rows in groups.values() for row in rows for c in row["cells"]),
        "notes": sorted(f"{label}: {note}" for label, note in notes),
    }


def _learning(run: Run) -> dict[str, Any]:
    """Curves, diagnosis and events of one run."""
    found: dict[str, Any] = {"run": run, "diagnosis": diagnose(run.records), "pictures": [], "distance": ""}
    measure = next((str(r["criterion"]) for r in run.records if r.get("criterion", "loss") != "loss"), "")
    found["distance"] = {"sliced_wasserstein": "sliced Wasserstein"}.get(measure, measure.replace("_", " "))
    lines = {}
    for name in ("train", "validation"):
        points = [(r["step"], r[name]) for r in run.records if r.get(name) is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            colour = run.colour if name == "validation" else pictures.REAL
            lines[name] = Series(name, np.array(ys, dtype=float), np.array(xs, dtype=float), colour)
    marks = [e["step"] for e in run.events if isinstance(e.get("step"), (int, float))]
    groups = [["validation"], ["train"]] if measure else [["train", "validation"]]
    for group in groups:
        shown = [lines[name] for name in group if name in lines]
        if shown:
            y_label = found["distance"] if measure and group == ["validation"] else "loss"
            label = f"{run.label}: {' and '.join(s.name for s in shown)} against steps"
            height = 240.0 if len(groups) == 1 else 134.0
            drawn = pictures.curves(shown, label=label, x_label="step", y_label=y_label, marks=marks, height=height)
            found["pictures"].append(drawn)
    found["events"] = [
        {"step": e.get("step"), "event": str(e["event"]), "message": str(e.get("message") or "")} for e in run.events[:20]
    ]
    return found


def _edges(column: Column, real: np.ndarray) -> np.ndarray:
    """Shared bins: on the grid of the column where it has few steps, else thirty over the bulk of the real data."""
    low, high = (float(v) for v in np.quantile(real, [0.005, 0.995]))
    step = column.resolution or (1.0 if column.kind is ColumnKind.INTEGER else None)
    if step and (high - low) / step <= 40:
        first = round(low / step)
        return (first - 0.5 + np.arange(round(high / step) - first + 2)) * step
    if not high > low:
        low, high = low - 0.5 * (1 + abs(low)), high + 0.5 * (1 + abs(low))
    pad = 0.03 * (high - low)
    if not step:
        return np.linspace(low - pad, high + pad, 31)
    # Bins of whole steps, so that none holds one value more than its neighbour.
    width = max(1, math.ceil((high - low) / step / 30)) * step
    count = math.ceil((high - low + step) / width)
    return (round(low / step) - 0.5) * step + width * np.arange(count + 1)


def _shares(codes: np.ndarray, count: int) -> np.ndarray:
    found = codes[np.isfinite(codes) & (codes >= 0) & (codes < count)].astype(int)
    return np.bincount(found, minlength=count) / max(len(codes), 1)


def _marginal(column: Column, real: np.ndarray, samples: Sequence[tuple[Run, np.ndarray]]) -> dict[str, Any]:
    """One column, real against every model: {name, picture, notes}."""
    notes: list[str] = []
    label = f"{column.name}: real data" + (f" and samples of {', '.join(r.label for r, _ in samples)}" if samples else "")
    if column.discrete:
        levels = max(column.levels, 2 if column.kind is ColumnKind.BOOLEAN else 1)
        gap = max(len(column.categories), 2 if column.kind is ColumnKind.BOOLEAN else 0)
        fill = lambda codes: np.where(np.isnan(codes), gap, codes)
        levels = max([levels, *(gap + 1 for codes in (real, *(s for _, s in samples)) if np.isnan(codes).any())])
        shares = _shares(fill(real), levels)
        others = [_shares(fill(codes), levels) for _, codes in samples]
        order = np.argsort(-shares, kind="stable") if levels > MOST_LEVELS else np.arange(levels)
        kept = order[:MOST_LEVELS]
        names = [_level(column, int(i)) for i in kept]
        rest = levels - len(kept)
        if rest:
            names.append(f"{rest} others")
            shares, *others = (np.append(s[kept], max(0.0, s.sum() - s[kept].sum())) for s in (shares, *others))
        series = [Series(r.label, y, colour=r.colour) for (r, _), y in zip(samples, others, strict=True)]
        return {"name": column.name, "picture": pictures.bars(names, shares, series, label=label), "notes": notes}
    finite = real[np.isfinite(real)]
    if any(np.isnan(codes).any() for codes in (real, *(s for _, s in samples))):
        gaps = [float(np.isnan(codes).mean()) for _, codes in samples]
        said = [f"{r.label} {share:.1%}" for (r, _), share in zip(samples, gaps, strict=True)]
        if len(said) > 3:
            said = [f"models {min(gaps):.1%} to {max(gaps):.1%}"]
        notes.append(", ".join([f"missing: real {np.isnan(real).mean():.1%}", *said]))
    if not len(finite):
        return {"name": column.name, "picture": None, "notes": [*notes, "the real rows shown hold no number"]}
    edges = _edges(column, finite)
    outside: list[tuple[float, str]] = []

    def heights(codes: np.ndarray) -> np.ndarray:
        present = codes[~np.isnan(codes)]
        return np.histogram(present[np.isfinite(present)], edges)[0] / max(len(present), 1)

    for run, codes in samples:
        present = codes[~np.isnan(codes)]
        share = float(((present < finite.min()) | (present > finite.max())).mean()) if len(present) else 0.0
        if share > 0.01:
            outside.append((share, f"{run.label} {share:.1%}"))
    if outside:
        worst = [said for _, said in sorted(outside, reverse=True)]
        more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
        notes.append("outside the range of the real rows: " + ", ".join(worst[:3]) + more)
    series = [Series(r.label, heights(codes), colour=r.colour) for r, codes in samples]
    show = _day if column.kind is ColumnKind.DATE else short
    picture = pictures.histogram(edges, heights(real), series, label=label, show=show)
    return {"name": column.name, "picture": picture, "notes": notes}


def _bulk(values: Iterable[np.ndarray], margin: float = 0.08, quantile: float = 0.002) -> tuple[float, float]:
    held = np.concatenate([np.asarray(v, dtype=float) for v in values])
    held = held[np.isfinite(held)]
    if not len(held):
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(held, [quantile, 1 - quantile]))
    pad = margin * (high - low) if high > low else 0.5 * (1 + abs(low))
    return low - pad, high + pad


def _pairs(
    columns: Sequence[Column], real: Mapping[str, np.ndarray], run: Run, own: Mapping[str, np.ndarray], size: int
) -> dict[str, Any]:
    """A square of scatter plots: samples below the diagonal, the real data in the same axes above it."""
    rng = np.random.default_rng(0)
    extents, grains = {}, {}
    for column in columns:
        codes = real[column.name]
        low, high = (-0.6, max(np.nanmax(codes, initial=0), 1) + 0.6) if column.discrete else _bulk([codes])
        step = 1.0 if column.discrete else column.resolution or 0.0
        # What lies on a coarse grid is spread within its cells, so that points do not hide each other.
        extents[column.name] = (low, high)
        grains[column.name] = step if column.discrete or (high - low) < 40 * step else 0.0

    def spread(name: str, codes: np.ndarray) -> np.ndarray:
        return codes + rng.uniform(-0.35, 0.35, len(codes)) * grains[name]

    def cell(x: str, y: str, held: Mapping[str, np.ndarray], colour: str, label: str) -> dict[str, Any]:
        points = (spread(x, held[x]), spread(y, held[y]), colour)
        picture = pictures.scatter([points], (*extents[x], *extents[y]), size=size)
        return {"picture": picture, "label": f"{label}: {y} against {x}"}

    def diagonal(column: Column) -> dict[str, Any]:
        codes = real[column.name][np.isfinite(real[column.name])]
        limits = f"{_value(column, codes.min())} to {_value(column, codes.max())}" if len(codes) and not column.discrete else ""
        return {"picture": None, "name": column.name, "range": limits}

    names = [c.name for c in columns]
    grid = []
    for i, down in enumerate(columns):
        below = [cell(name, down.name, own, run.colour, run.label) for name in names[:i]]
        above = [cell(down.name, name, real, pictures.REAL, "real data") for name in names[i + 1 :]]
        grid.append([*below, diagonal(down), *above])
    return {"run": run, "grid": grid}


def _correlations(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    import pandas as pd

    held = pd.DataFrame({i: np.where(np.isfinite(columns[n]), columns[n], np.nan) for i, n in enumerate(names)})
    return held.corr(min_periods=3).to_numpy(dtype=float)


def _tabular(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Histograms, pair plots and correlations of tables and vectors."""
    schema, preview = source.schema, source.preview
    if schema is None or preview is None or not isinstance(schema.example, (Table, Vector)) or not len(preview):
        return None
    every = _columns(schema)
    shown = every[:MOST_COLUMNS]
    real = {c.name: codes for c in shown if (codes := _codes(schema, preview, c.name)) is not None}
    shown = [c for c in shown if c.name in real]
    held: list[tuple[Run, dict[str, np.ndarray]]] = []
    for run in runs:
        if run.samples is not None and run.schema is not None and len(run.samples):
            codes_of = {c.name: _codes(run.schema, run.samples, c.name) for c in shown}
            held.append((run, {name: values for name, values in codes_of.items() if values is not None}))
    found: dict[str, Any] = {"runs": [run for run, _ in held], "columns": [], "pairs": [], "correlations": [], "notes": []}
    if len(every) > MOST_COLUMNS:
        found["notes"].append(f"The first {MOST_COLUMNS} of {len(every)} columns are shown.")
    for column in shown:
        given = [(run, codes[column.name]) for run, codes in held if column.name in codes]
        found["columns"].append(_marginal(column, real[column.name], given))
    complete = [(run, own) for run, own in held if len(own) == len(shown)]
    wide = sorted(shown, key=lambda c: c.discrete)[:MOST_PAIRED]
    paired = [c for c in shown if c in wide]
    if len(paired) > 1 and complete and schema.example.shape != (2,):
        size = 240 if len(complete) <= 4 else 160
        found["pairs"] = [_pairs(paired, real, run, own, size) for run, own in complete]
        if len(shown) > len(paired):
            found["notes"].append(f"Pairs are shown of {len(paired)} columns: {', '.join(c.name for c in paired)}.")
    numeric = [c.name for c in shown if not c.discrete]
    if len(numeric) > 1 and schema.example.shape != (2,):
        truth = _correlations(numeric, real)
        found["correlations"].append(
            {
                "label": "real",
                "picture": pictures.correlation(numeric, truth, label="correlations of the real data"),
                "note": "",
            }
        )
        for run, own in complete:
            learned = _correlations(numeric, own)
            gaps = np.abs(learned - truth)
            note = ""
            if np.isfinite(gaps).any():
                i, j = np.unravel_index(int(np.nanargmax(gaps)), gaps.shape)
                now, wanted = (short(round(float(m[i, j]), 2)) for m in (learned, truth))
                note = f"furthest from real: {numeric[i]} × {numeric[j]}, {now} instead of {wanted}"
            picture = pictures.correlation(numeric, learned, label=f"correlations of samples of {run.label}")
            found["correlations"].append({"label": run.label, "picture": picture, "note": note})
    return found


def _plane(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Vectors of two numbers: real rows, then samples and density of each model, all in the same axes."""
    from pushforward.catalog import FAMILIES

    if source.schema is None or source.preview is None or not isinstance(source.schema.example, Vector):
        return None
    if source.schema.example.size != 2 or not any(r.samples is not None or r.density for r in runs):
        return None
    real = source.preview.x.astype(float)
    grids = [r.density for r in runs if r.density]
    if grids:
        extent = [min(g["x"].min() for g in grids), max(g["x"].max() for g in grids)]
        extent += [min(g["y"].min() for g in grids), max(g["y"].max() for g in grids)]
    else:
        extent = [*_bulk([real[:, 0]], 0.15), *_bulk([real[:, 1]], 0.15)]
    finite = [g["values"][np.isfinite(g["values"])] for g in grids]
    peaks = [float(v.max()) for v in finite if len(v)]
    high = max(peaks, default=0.0)
    low = max(min((float(v.min()) for v in finite if len(v)), default=high - 1), high - 12)
    size = 500 if len(runs) <= 4 else 360

    def points(x: np.ndarray, colour: str, label: str) -> Any:
        return pictures.framed(pictures.scatter([(x[:, 0], x[:, 1], colour)], extent, size=size), extent, label=label)

    rows = []
    for run in runs:
        known = FAMILIES.get(run.family)
        why = "No density was stored." if known and "score" in known.verbs else f"{run.family} offers no density."
        row: dict[str, Any] = {"run": run, "samples": None, "density": None, "badge": None, "why": why}
        if run.samples is not None:
            row["samples"] = points(run.samples.x.astype(float), run.colour, f"samples of {run.label}")
        if run.density:
            grid = run.density
            # Each density is drawn on the square all share; beyond its own grid it counts as the lowest value.
            side = np.linspace(0, 1, min(200, max(len(grid["x"]), len(grid["y"]))))
            at_x = np.searchsorted(grid["x"], extent[0] + side * (extent[1] - extent[0])).clip(0, len(grid["x"]) - 1)
            at_y = np.searchsorted(grid["y"], extent[2] + side * (extent[3] - extent[2])).clip(0, len(grid["y"]) - 1)
            picture = pictures.field(grid["values"][np.ix_(at_y, at_x)], low, high)
            row["density"] = pictures.framed(picture, extent, label=f"log density of {run.label}")
            row["badge"] = _badge(grid["kind"])
        if row["samples"] is not None or row["density"] is not None:
            rows.append(row)
    return {
        "real": points(real, pictures.REAL, "real data"),
        "rows": rows,
        "scale": {"low": short(round(low, 2)), "high": short(round(high, 2)), "css": pictures.gradient()} if grids else None,
    }


def _beside(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Samples beside real data: {kind, cards}, the first card real."""
    if source.schema is None or source.preview is None:
        return None
    kind, real = source.schema.example, source.preview
    if isinstance(kind, Vector) and kind.size == 2:
        return None  # the plane shows them all
    cards: list[dict[str, Any]] = []
    holders = [("real data", "", source, real), *((r.label, r.colour, r, r.samples) for r in runs)]
    if not any(rows is not None and len(rows) for _, _, _, rows in holders[1:]):
        return None
    plan = _plan(kind, runs, real) if isinstance(kind, Image) else None
    for label, colour, run, rows in holders:
        if rows is None or not len(rows):
            continue
        card: dict[str, Any] = {"label": label, "colour": colour, "sheet": None, "texts": None, "table": None}
        if isinstance(kind, Image):
            assert plan is not None
            card["sheet"] = _sheet(kind, rows, plan)
        elif isinstance(kind, Tokens):
            card["texts"] = _texts(run, rows, 8)
        else:
            card["table"] = _tabulated(run, rows, 6)
        cards.append(card)
    grouped = plan.column.name if plan and plan.column else ""
    return {"kind": kind.name, "cards": cards, "grouped": grouped}


def _shown_folder(folder: Path) -> str:
    """The folder as a command can name it from here, without what lies above the working directory."""
    absolute, here = Path(os.path.abspath(folder)), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) and absolute != here else str(folder)


def _going_on(run: Run) -> dict[str, Any]:
    """Commands for this run, as far as its family offers the verbs, and its recipe."""
    from pushforward.catalog import FAMILIES

    known = FAMILIES.get(run.family)
    verbs = known.verbs if known else ("sample",)
    path = _shown_folder(run.folder)
    folder = shlex.quote(path)
    kind = run.schema.example.name if run.schema else ""
    out = {"table": "samples.csv", "image": "samples.png", "tokens": "samples.txt"}.get(kind, "samples.npy")
    new = {"table": "new.csv", "image": "folder-of-images", "tokens": "new.txt"}.get(kind, "new.npy")
    commands = []
    if not run.error:
        if "sample" in verbs:
            commands.append(("draw 1000 samples", f"pushforward sample {folder} --n 1000 --out {out}"))
        if "score" in verbs:
            commands.append(("score new data", f"pushforward score {folder} {new}"))
        for verb, about in (("encode", "encode new data"), ("complete", "fill in what is missing"), ("predict", "predict")):
            if verb in verbs:
                commands.append((about, f"pushforward {verb} {folder} {new}"))
    resume = f"pushforward fit DATA {shlex.quote(run.family)} --out {folder} --resume"
    commands.append(("go on training, with the same data and options", resume))
    recipe = {k: v for k, v in run.recipe.items() if k != "schema"}
    return {
        "run": run,
        "commands": commands,
        "recipe": json.dumps(recipe, indent=2, ensure_ascii=False, default=str),
        "python": "" if run.error else f"import pushforward as pf\n\nmodel = pf.load({json.dumps(path, ensure_ascii=False)})",
    }


def _page(runs: Sequence[Run], title: str | None) -> dict[str, Any]:
    from pushforward.catalog import FAMILIES

    source = next((r for r in runs if r.preview is not None), runs[0])
    data = source.data
    rows: dict[str, Any] = data["rows"] if isinstance(data.get("rows"), dict) else {}
    notes = list(dict.fromkeys(str(n) for r in runs for n in (r.data.get("notes") or ())))
    name = str(data.get("name") or "data")
    if title is None:
        title = f"{name} — {runs[0].label}" if len(runs) == 1 else f"{name} — {len(runs)} models compared"
    versions = source.recipe.get("versions")
    known = [(r, FAMILIES.get(r.family)) for r in runs]
    preview: dict[str, Any] = {"sheet": None, "texts": None, "table": None}
    kind = source.schema.example if source.schema else None
    if source.preview is not None and len(source.preview) and source.schema is not None:
        if isinstance(kind, Image):
            count = max(6, min(40, int(60_000 / min(kind.height * kind.width, 96**2))))
            preview["sheet"] = _sheet(kind, Rows(source.preview.x, {}), SheetPlan(min(20, count), max(1, count // 20)))
        elif isinstance(kind, Tokens):
            preview["texts"] = _texts(source, source.preview, PREVIEW_ROWS)
        else:
            preview["table"] = _tabulated(source, source.preview, PREVIEW_ROWS)
    return {
        "title": title,
        "name": name,
        "rows": [(k, rows[k]) for k in ("train", "validation", "test") if isinstance(rows.get(k), int)],
        "notes": notes,
        "date": datetime.date.today().isoformat(),
        "families": [{"run": r, "title": f.title if f else "", "source": f.source if f else ""} for r, f in known],
        "kind": _kind_sentence(kind) if kind else "",
        "schema": _schema_rows(source.schema, source.preview) if source.schema else [],
        "preview": preview,
        "leaderboard": _leaderboard(runs),
        "learning": [_learning(r) for r in runs if r.records or r.events or not r.error],
        "beside": _beside(runs, source),
        "tabular": _tabular(runs, source),
        "plane": _plane(runs, source),
        "going_on": [_going_on(r) for r in runs],
        "version": versions.get("pushforward", "") if isinstance(versions, dict) else "",
    }


def _render(page: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    place = importlib.resources.files("pushforward") / "fitting" / "templates" / "report.html.j2"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(place.read_text(encoding="utf-8")).render(page)


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write the report of the run folders ``runs``, which learn the same data, as one HTML file ``out``; returns ``out``.

    Raises CheckpointError where a file of a run is missing or damaged, DataError where the runs do not learn the same data.
    """
    if not runs:
        raise DataError("there are no runs to report: give at least one run folder")
    read = [read_run(Path(folder)) for folder in runs]
    _same_data(read)
    _name_runs(read)
    # Lone surrogates in names cannot be written as UTF-8; and a page needs no control characters.
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", _render(_page(read, title)))
    with whole(Path(out)) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return Path(out)
