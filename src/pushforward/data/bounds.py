"""Bounds that the user declares: what a number or date can be, whatever was seen of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, TypeAlias

import numpy as np

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Column, ColumnKind, Table, Vector
from pushforward.data import stream, tables
from pushforward.data.dataset import Data

Ends: TypeAlias = Sequence[Any]
"""(lower, upper), both included; None or an infinity where there is no end. Numbers, or ISO dates for a column of dates."""

_KINDS = (ColumnKind.NUMBER, ColumnKind.INTEGER, ColumnKind.DATE)
_BLOCK = 65_536


def with_bounds(data: Data, bounds: Mapping[Any, Ends] | Ends | None) -> Data:
    """``data`` with ``bounds`` declared in its schema: {column: (lower, upper)} for a table, {index: …} or one pair for all
    coordinates of vectors.

    Raises DataError for an unknown column, one that holds no numbers, ends that leave no room, and, with row and value, for
    data outside their bounds.
    """
    if not bounds:
        return data
    kind = data.schema.example
    if isinstance(kind, Table):
        if not isinstance(bounds, Mapping):
            raise DataError(f"{data.name} is a table: say whose bounds they are, such as bounds={{'price': (0, None)}}")
        return _bound_table(data, kind, bounds)
    if isinstance(kind, Vector):
        bounded = replace(kind, bounds=vector_ends(bounds, kind.length, data.name))
        check_vectors(data, bounded)
        return replace(data, schema=replace(data.schema, example=bounded))
    raise DataError(f"bounds are for tables and vectors, and {data.name} is of kind {kind.name}")


def vector_ends(bounds: Mapping[Any, Ends] | Ends, length: int, place: str) -> tuple[tuple[float, float], ...]:
    """One pair for all, or {index: pair}, as a pair for each of ``length`` coordinates. Raises DataError as ``with_bounds``."""
    ends = [(-math.inf, math.inf)] * length
    for key, pair in bounds.items() if isinstance(bounds, Mapping) else [(i, bounds) for i in range(length)]:
        ends[_index(key, length, place)] = _pair(pair, f"column {key} of {place}")
    return tuple(ends)


def _bound_table(data: Data, kind: Table, bounds: Mapping[Any, Ends]) -> Data:
    columns = {c.name: c for c in kind.columns}
    for key, pair in bounds.items():
        name = str(key)
        if name not in columns:
            raise DataError(f"{data.name} has no column '{name}' to bound: {did_you_mean(name, columns)}")
        column = columns[name]
        if column.kind not in _KINDS:
            raise DataError(f"column '{name}' of {data.name} is of type {column.kind.value}: bounds are for numbers and dates")
        ends = _pair(pair, f"column '{name}' of {data.name}", column)
        columns[name] = replace(column, bounds=ends)
        if tables.outside(np.array([column.lower, column.upper]), columns[name]).any():
            _find(data, columns[name], list(kind.learned).index(column))
    example = replace(kind, columns=tuple(columns.values()))
    store = data.store
    if isinstance(store, stream.ArrowStore):
        store = store.with_columns([columns[c.name] for c in store.learned], store.side)
    return replace(data, schema=replace(data.schema, example=example), store=store)


def _pair(pair: Any, where: str, column: Column | None = None) -> tuple[float, float]:
    """The two ends as codes."""
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(f"the bounds of {where} are (lower, upper), one of them None where there is none: found {pair!r}")
    low, high = (_end(value, where, column) for value in pair)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if math.isinf(low) and math.isinf(high) and low < high:
        raise DataError(f"the bounds of {where} bound nothing: give a lower or an upper end")
    if not low < high:
        raise DataError(f"the bounds of {where} leave no room: found {pair[0]} … {pair[1]}, expected lower < upper")
    return low, high


def _end(value: Any, where: str, column: Column | None) -> float | None:
    if value is None:
        return None
    try:
        if column is not None and column.kind is ColumnKind.DATE and isinstance(value, (str, date, np.datetime64)):
            return float(tables.date_codes(tables.arrow_column([value], column.name, where), column.name)[0])
        found = float(value)
    except (TypeError, ValueError, DataError):
        found = math.nan
    if math.isnan(found):
        what = "an ISO date such as 2024-01-31" if column is not None and column.kind is ColumnKind.DATE else "a number"
        raise DataError(f"the bounds of {where}: {value!r} is not {what}")
    return found


def _index(key: Any, length: int, place: str) -> int:
    try:
        at = int(key)
    except (TypeError, ValueError):
        at = -1
    if not 0 <= at < length:
        raise DataError(f"{place} has no column {key!r} to bound: its columns are 0 … {length - 1}")
    return at


def _find(data: Data, column: Column, at: int) -> None:
    """Raises DataError with the first row outside the bounds of a column."""
    for start in range(0, len(data.store), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(data.store)))
        codes = data.store.take(rows).x[:, at].numpy()
        tables.refuse_outside(codes, column, start, data.name)


def check_vectors(data: Data, kind: Vector) -> None:
    """Raises DataError with the first row and column outside the bounds of vectors."""
    if kind.bounds is None:
        return
    low, high = np.array(kind.bounds).T
    for start in range(0, len(data.store), _BLOCK):
        x = data.store.take(np.arange(start, min(start + _BLOCK, len(data.store)))).x.numpy()
        beyond = (x < low) | (x > high)
        if beyond.any():
            row, column = np.argwhere(beyond)[0]
            raise DataError(
                f"{data.name}, row {start + row + 1}, column {column} (from 0): {x[row, column]:.10g} is outside the bounds "
                f"{words(kind.bounds[column])}: leave the row out, or widen them"
            )


def words(bounds: tuple[float, float], column: Column | None = None) -> str:
    """Bounds in words: at least 0, at most 5, 0 to 1; dates as dates where ``column`` is one of dates."""
    low, high = (None if math.isinf(end) else _said(end, column) for end in bounds)
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"


def _said(end: float, column: Column | None) -> str:
    if column is not None and column.kind is ColumnKind.DATE:
        return str(np.datetime64(round(end * 86_400), "s").astype("datetime64[D]" if end == round(end) else "datetime64[s]"))
    return f"{end:.10g}"
