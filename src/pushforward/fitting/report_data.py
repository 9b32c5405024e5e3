"""What a report shows of the data: the schema, some rows, and samples of every model beside real rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pushforward.core.errors import PushforwardError
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Part, Points, Schema, Signal, Table, Tokens, Vector
from pushforward.data.describe import part_words
from pushforward.data.images import to_display
from pushforward.data.like import decode
from pushforward.fitting import pictures, shapes
from pushforward.fitting.report_values import cell, text_of
from pushforward.fitting.runs import Codes, Run, all_columns, column_codes, damaged

PREVIEW_ROWS = 8
WIDEST = 30
# Pixels of all contact sheets together, so that a comparison of ten runs stays below five megabytes.
SHEET_PIXELS = 900_000
ROLES = {ColumnKind.IDENTIFIER: "left out: identifier", ColumnKind.CONSTANT: "left out: constant"}


def schema_rows(schema: Schema, preview: Codes | None) -> list[dict[str, str]]:
    """Each column with its kind, values and role."""

    def row(column: Column, role: str) -> dict[str, str]:
        return {
            "name": column.name,
            "kind": column.kind.value,
            "values": _range(column, column_codes(schema, preview, column.name) if preview is not None else None),
            "step": f"{column.resolution:g}" if column.resolution else "",
            "missing": "yes" if column.missing else "",
            "role": role,
        }

    def part(c: Part) -> dict[str, str]:
        how = "condition, made from the example" if c.made else "condition"
        return {"name": c.name, "kind": c.kind.name, "values": part_words(c), "step": "", "missing": "", "role": how}

    own = schema.example.columns if isinstance(schema.example, Table) else ()
    return [
        *(row(c, ROLES.get(c.kind, "learned")) for c in own),
        *(part(c) if isinstance(c, Part) else row(c, "condition") for c in schema.conditions),
        *([row(schema.target, "target")] if schema.target else []),
    ]


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
    return f"{text_of(column, low)} to {text_of(column, high)}"


def kind_sentence(kind: Kind) -> str:
    """What one example is."""
    if isinstance(kind, Table):
        return f"A table: each row has {len(kind.columns)} columns, of which {len(kind.learned)} are learned."
    if isinstance(kind, Image):
        colours = {1: "grey", 3: "colour", 4: "colour and alpha"}.get(kind.channels, f"{kind.channels} channels")
        return f"Images of {kind.height}×{kind.width} pixels (height×width), {colours}, {kind.levels} levels."
    if isinstance(kind, Tokens):
        symbols = sum(1 for s in kind.vocabulary if s != "\0")
        return f"Texts of up to {kind.length} symbols out of {symbols} different ones."
    if isinstance(kind, Signal):
        lasts = f", {kind.length / kind.rate:.3g} seconds at {kind.rate} Hz" if kind.rate else ""
        return f"Signals of {kind.channels} channel{'s' if kind.channels > 1 else ''} and {kind.length} samples{lasts}."
    if isinstance(kind, Points):
        return f"Sets of {kind.count} points in {kind.dims} dimension{'s' if kind.dims > 1 else ''}."
    return f"Vectors of {kind.size} numbers."


def first_look(source: Run) -> dict[str, Any]:
    """Some real rows: {sheet, texts, table}, of which one is there."""
    if source.schema is None or source.preview is None or not len(source.preview):
        return {"sheet": None, "texts": None, "table": None}
    kind, layout = source.schema.example, None
    if isinstance(kind, Image):
        count = max(6, min(40, int(60_000 / min(kind.height * kind.width, 96**2))))
        layout = Layout(min(20, count), max(1, count // 20))
    elif isinstance(kind, (Signal, Points)):
        layout = Layout(*((4, 2) if isinstance(kind, Signal) else (8, 1)), extent=extent_of(kind, source.preview))
    return _shown(source, source.preview, PREVIEW_ROWS, layout)


def beside(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Samples beside real data: {kind, cards, grouped}, the first card real."""
    if source.schema is None or source.preview is None:
        return None
    kind, real = source.schema.example, source.preview
    sampled = [run for run in runs if run.samples is not None and len(run.samples)]
    if not sampled or (isinstance(kind, Vector) and kind.size == 2):
        return None  # vectors of two numbers are shown in the plane
    layout = _layout(kind, sampled, real) if isinstance(kind, (Image, Signal, Points)) else None
    count = 8 if isinstance(kind, Tokens) else 6
    cards = [{"label": "real data", "colour": "", **_shown(source, real, count, layout)}] if len(real) else []
    for run in sampled:
        assert run.samples is not None
        cards.append({"label": run.label, "colour": run.colour, **_shown(run, run.samples, count, layout)})
    return {"kind": kind.name, "cards": cards, "grouped": layout.column.name if layout and layout.column else ""}


def _shown(run: Run, rows: Codes, count: int, layout: Layout | None) -> dict[str, Any]:
    """Rows as {sheet, texts, table}, of which one is there: pictures where there is a layout, else the first ``count`` rows."""
    assert run.schema is not None
    found: dict[str, Any] = {"sheet": None, "texts": None, "table": None}
    if layout is not None:
        found["sheet"] = _sheet(run.schema.example, rows, layout, pictures.REAL if rows is run.preview else run.colour)
    elif isinstance(run.schema.example, Tokens):
        found["texts"] = _texts(run, rows, count)
    else:
        found["table"] = _table(run, rows, count)
    return found


# ------------------------------------------------------------------------------------------------------ tables and texts


def _decoded(run: Run, rows: Codes, count: int) -> Any:
    """The first rows in the user's own types."""
    assert run.schema is not None
    first = rows.take(slice(count))
    dtype = np.int64 if isinstance(run.schema.example, Tokens) else np.float64
    columns = {n: torch.from_numpy(v.astype(np.float64) if v.ndim == 1 else v) for n, v in first.columns.items()}
    try:
        return decode(run.schema, torch.from_numpy(first.x.astype(dtype)), columns)
    except PushforwardError as error:
        raise damaged(run.folder / ("preview.npz" if rows is run.preview else "samples.npz"), error) from error


def _table(run: Run, rows: Codes, count: int) -> dict[str, Any]:
    """The first rows as a table: {head, body, note}; the head says which columns are numbers."""
    schema = run.schema
    assert schema is not None
    if isinstance(schema.example, Table):
        frame = _decoded(run, rows, count)
        # Identifiers of samples are made up, and those of the preview would be too.
        hidden = {c.name for c in schema.example.columns if c.kind is ColumnKind.IDENTIFIER}
        names = [n for n in frame.columns if str(n) not in hidden]
        body = [[cell(v) for v in line] for line in zip(*(list(frame[n]) for n in names[:WIDEST]), strict=True)]
    else:
        first = rows.take(slice(count))
        whole = "int" in getattr(schema.example, "dtype", "")
        names = [c.name for c in all_columns(schema)[: schema.example.size]]
        body = [[cell(round(v) if whole and math.isfinite(v) else v) for v in line] for line in first.x[:, :WIDEST].tolist()]
        for column in schema.conditions:
            if isinstance(column, Column) and column.name in first.columns and len(names) < WIDEST:
                names.append(column.name)
                for line, code in zip(body, first.columns[column.name].tolist(), strict=True):
                    line.append({"text": text_of(column, code), "kind": "text"})
    note = f"The first {WIDEST} of {len(names)} columns are shown." if len(names) > WIDEST else ""
    head = [(str(name), any(line[i]["kind"] == "number" for line in body)) for i, name in enumerate(names[:WIDEST])]
    return {"head": head, "body": body, "note": note}


def _texts(run: Run, rows: Codes, count: int) -> list[dict[str, str]]:
    assert run.schema is not None
    lines = [line if len(line) <= 400 else line[:399] + "…" for line in _decoded(run, rows, count)]
    column = next((c for c in run.schema.conditions if isinstance(c, Column) and c.name in rows.columns), None)
    tags = [f"{column.name} = {text_of(column, v)}" for v in rows.columns[column.name][:count].tolist()] if column else None
    return [{"tag": tag, "text": line} for tag, line in zip(tags or [""] * len(lines), lines, strict=True)]


# -------------------------------------------------------------------------------------------------------- contact sheets


@dataclass(frozen=True)
class Layout:
    """How contact sheets are laid out, the same for real images and for those of every model.

    With a ``column`` there is a row of images for each of its ``values``. ``extent`` are the ends of the axes of signals
    (low, high) and points (low and high of each coordinate).
    """

    across: int
    rows: int
    column: Column | None = None
    values: tuple[float, ...] = ()
    extent: tuple[float, ...] = ()


def extent_of(kind: Kind, rows: Codes) -> tuple[float, ...]:
    """The range of most signals, or the cube around nearly all points; both follow the real data."""
    x = rows.x[:200].astype(float)
    if not isinstance(kind, Points):
        # of the extremes of most rows: a signal may be silent nearly all the time
        low, high = float(np.quantile(x.min((1, 2)), 0.05)), float(np.quantile(x.max((1, 2)), 0.95))
        low, high = (low, high) if low > 0 or high < 0 else (min(low, -high), max(high, -low))
        pad = 0.08 * (high - low) or 0.5 * (1 + abs(low))
        return low - pad, high + pad
    ends = [pictures.bulk(x[..., i], 0.12) for i in range(kind.dims)]
    half = max(high - low for low, high in ends) / 2
    return tuple(end for low, high in ends for end in ((low + high) / 2 - half, (low + high) / 2 + half))


def _layout(kind: Kind, sampled: Sequence[Run], real: Codes) -> Layout:
    extent: tuple[float, ...] = ()
    if isinstance(kind, Image):
        scale = min(1.0, 96 / max(kind.height, kind.width))
        each = kind.height * kind.width * scale**2 * (1.0 if kind.channels > 1 else 0.4)
        budget = max(4, int(min(300_000, SHEET_PIXELS / (1 + len(sampled))) / each))
    else:
        extent, budget = extent_of(kind, real), 40 if isinstance(kind, Signal) else 20
    told = (c for r in sampled if r.schema for c in r.schema.conditions)
    first = next((c for c in told if isinstance(c, Column)), None)
    if first is not None:
        held = [rows.columns.get(first.name, ()) for rows in (real, *(r.samples for r in sampled)) if rows]
        values = sorted({float(v) for codes in held for v in codes if math.isfinite(v)})
        if values and (first.discrete or len(values) <= 10):
            values = values[: max(1, min(10, budget // 4))]
            across = max(2, min(8 if isinstance(kind, Image) else 4, budget // len(values)))
            return Layout(across, len(values), first, tuple(values), extent)
    if not isinstance(kind, Image):
        return Layout(4, 2 if isinstance(kind, Signal) else 4, extent=extent)
    side = max(2, min(8, math.isqrt(budget)))
    return Layout(side, side)


def _sheet(kind: Kind, rows: Codes, layout: Layout, colour: str) -> dict[str, Any] | None:
    """One contact sheet: {picture or drawing, labels, small}; None where there is nothing to show."""
    labels: list[str] = []
    if layout.column is not None and layout.column.name in rows.columns:
        held = rows.columns[layout.column.name]
        index = [np.flatnonzero(held == value)[: layout.across] for value in layout.values]
        labels = [text_of(layout.column, value) for value in layout.values]
    else:
        chosen = np.arange(min(len(rows), layout.rows * layout.across))
        index = [chosen[i : i + layout.across] for i in range(0, len(chosen), layout.across)]
    if not any(len(i) for i in index):
        return None
    found: dict[str, Any] = {"picture": "", "drawing": "", "labels": labels, "small": False}
    if isinstance(kind, Signal):
        seconds = kind.length / kind.rate if kind.rate else None
        picture = shapes.waves([rows.x[i] for i in index], layout.across, layout.extent, colour, labels, seconds)
        return found | {"drawing": picture, "labels": []}
    if isinstance(kind, Points):
        return found | {"picture": shapes.clouds([rows.x[i] for i in index], layout.across, layout.extent, colour)}
    assert isinstance(kind, Image)
    shown = [to_display(kind, torch.from_numpy(np.ascontiguousarray(rows.x[i]))) for i in index]
    across = layout.across if labels or len(index) > 1 else len(index[0])
    return found | {"picture": pictures.sheet(shown, across), "small": max(kind.height, kind.width) < 80}
