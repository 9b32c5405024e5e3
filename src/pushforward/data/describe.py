"""What was found in the data: every column, its type, its range, and what happens to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pushforward.core.schema import Column, ColumnKind, Image, Part, Points, Signal, Table, Tokens, Vector
from pushforward.data.bounds import words
from pushforward.data.dataset import Data

if TYPE_CHECKING:
    from rich.table import Table as RichTable

SHOWN = 5  # levels that are named
LOOKED_AT = 1000  # rows of signals and points whose range is told


def summary(data: Data) -> dict[str, Any]:
    """``data`` in plain JSON values: name, origin, rows, rows set aside for testing, kind, columns and notes.

    Each column has ``name``, ``type``, ``role`` (learned, condition, target, carried or left out), ``values`` (its range
    or first levels, in words), ``levels`` (their number, None for numbers) and ``missing`` (rows without a value). Columns of
    signals are their channels, those of points the coordinates.
    """
    schema = data.schema
    missing = schema.extra.get("missing", {})
    rows = []
    if isinstance(schema.example, Table):
        rows = [_row(c, _role(c), missing) for c in schema.example.columns]
    if isinstance(schema.example, (Signal, Points)):
        rows += _axes(data, schema.example)
    side = [*schema.extra.get("columns", ())] if not isinstance(schema.example, Table) else []
    rows += [_row(c, "side column", missing) for c in side]
    rows += [_row(c, "condition", missing) for c in schema.conditions]
    rows += [_row(schema.target, "target", missing)] if schema.target else []
    order = {name: i for i, name in enumerate(schema.extra.get("order", ()))}
    rows.sort(key=lambda row: order.get(row["name"], len(order)))
    return {
        "name": data.name,
        "origin": None if data.origin is None else str(data.origin),
        "rows": len(data),
        "test_rows": 0 if data.test is None else len(data.test),
        "kind": schema.example.name,
        "example": _example(data),
        "columns": rows,
        "notes": list(data.notes),
    }


def describe(data: Data) -> RichTable:
    """``summary(data)`` as a table for the terminal."""
    from rich.table import Table as RichTable

    found = summary(data)
    shown = RichTable(title=f"{found['name']}: {found['rows']} rows, {found['example']}", title_justify="left")
    for heading in ("column", "type", "values", "missing", "role"):
        shown.add_column(heading, justify="right" if heading == "missing" else "left", overflow="fold")
    for row in found["columns"]:
        gaps = str(row["missing"]) if row["missing"] else ""
        shown.add_row(*(_safe(text) for text in (row["name"], row["type"], row["values"], gaps, row["role"])))
    if found["notes"]:
        shown.caption = _safe("\n".join(found["notes"]))
        shown.caption_justify = "left"
    return shown


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _axes(data: Data, kind: Signal | Points) -> list[dict[str, Any]]:
    """A row for each channel of signals or coordinate of points."""
    rows = data.sample(min(LOOKED_AT, max(1, 20_000_000 // kind.size))).x
    if isinstance(kind, Signal):
        values, names = rows.transpose(0, 1).flatten(1), [f"channel {i + 1}" for i in range(kind.channels)]
    else:
        values = rows.flatten(0, 1).T
        names = list("xyz")[: kind.dims] if kind.dims <= 3 else [f"coordinate {i + 1}" for i in range(kind.dims)]
    found = []
    for name, x in zip(names, values, strict=True):
        said = f"{float(x.min()):.4g} to {float(x.max()):.4g}, mean {float(x.mean()):.4g}, deviation {float(x.std()):.4g}"
        if isinstance(kind, Signal) and (silent := float((x == 0).double().mean())) > 0.01:
            said += f", {silent:.0%} zero"
        found.append({"name": name, "type": "number", "role": "learned", "values": said, "levels": None, "missing": 0})
    return found


def _role(column: Column) -> str:
    if column.learned:
        return "learned"
    return "carried" if column.kind is ColumnKind.CONSTANT else "left out"


def _row(column: Column | Part, role: str, missing: dict[str, int]) -> dict[str, Any]:
    if isinstance(column, Part):
        role = f"{role}, made from the example" if column.made else role
        found = {"name": column.name, "type": "text" if isinstance(column.kind, Tokens) else column.kind.name, "role": role}
        return found | {"values": part_words(column), "levels": None, "missing": 0}
    return {
        "name": column.name,
        "type": column.kind.value,
        "role": role,
        "values": _values(column),
        "levels": len(column.categories) if column.discrete else None,
        "missing": missing.get(column.name, 0),
    }


def part_words(part: Part) -> str:
    """What a condition of more than one number is, in words."""
    kind = part.kind
    if isinstance(kind, Tokens):
        return f"up to {kind.length} words out of {len(kind.vocabulary) - 2}"
    if isinstance(kind, Image):
        return f"{kind.height}×{kind.width} pixels, {kind.channels} channel{'s' if kind.channels > 1 else ''}"
    return f"{kind.size} numbers"


def _values(column: Column) -> str:
    if column.kind is ColumnKind.CONSTANT:
        return f"always {column.constant}"
    if column.discrete:
        more = len(column.categories) - SHOWN
        return ", ".join(str(level) for level in column.categories[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    if not (math.isfinite(column.lower) and math.isfinite(column.upper)) or column.kind is ColumnKind.IDENTIFIER:
        return ""
    can = f"; can be {words(column.bounds, column)}" if column.bounds is not None else ""
    if column.kind is ColumnKind.DATE:
        unit = "D" if column.resolution == 1 else "s"
        ends = [np.datetime64(round(day * 86_400), "s").astype(f"datetime64[{unit}]") for day in (column.lower, column.upper)]
        return f"{ends[0]} to {ends[1]}{can}"
    step = f", in steps of {column.resolution:g}" if column.resolution not in (None, 1.0) else ""
    return f"{column.lower:.10g} to {column.upper:.10g}{step}{can}"


def _example(data: Data) -> str:
    kind = data.schema.example
    if isinstance(kind, Vector):
        return f"vectors of {kind.length} numbers"
    if isinstance(kind, Image):
        channels = f"{kind.channels} channel{'s' if kind.channels > 1 else ''}"
        return f"images of {kind.height}×{kind.width} pixels (height×width), {channels}, {kind.levels} levels"
    if isinstance(kind, Tokens):
        return f"texts of {kind.length} characters out of {len(kind.vocabulary)}"
    if isinstance(kind, Signal):
        lasts = f" ({kind.length / kind.rate:.3g} s at {kind.rate} Hz)" if kind.rate else ""
        return f"signals of {kind.channels} channel{'s' if kind.channels > 1 else ''} and {kind.length} samples{lasts}"
    if isinstance(kind, Points):
        return f"sets of {kind.count} points in {kind.dims} dimension{'s' if kind.dims > 1 else ''}"
    return f"a table of {len(kind.learned)} learned columns" if isinstance(kind, Table) else kind.name
