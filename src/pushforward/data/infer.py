"""Typing of columns: one pass over record batches, with state that does not grow with the number of rows.

Distinct values are counted exactly up to a cap and frozen there; from then on the share of distinct values is the one
seen up to the cap. Means and variances of batches are merged stably (Chan, Golub and LeVeque, 1983).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Column, ColumnKind
from pushforward.data import dtypes, tables
from pushforward.data.dtypes import plain
from pushforward.data.tallies import Distinct, Numbers, Text

TYPES = ("number", "integer", "category", "boolean", "date", "identifier")
LEVELS = 1000  # most levels of a category that is recognised by itself
FORCED_LEVELS = 100_000  # most levels of a category that the user asks for
DISTINCT = 100_000  # distinct numbers counted exactly
_ID = re.compile(r"(^|[_\s.-])(id|ids|idx|index|uuid|guid|rowid|rownames?|row_?number)$|^unnamed: ?\d+$", re.IGNORECASE)
_ID_CAMEL = re.compile(r"[a-z]I[Dd]$")


@dataclass(frozen=True)
class Inference:
    """What a pass over the rows found: typed columns, the number of rows, missing values per column, and notes."""

    columns: tuple[Column, ...]
    rows: int
    missing: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Tracker:
    """All that is kept of one column while its batches pass."""

    def __init__(
        self, name: str, forced: str | None, levels: Sequence[Any] | None, dtype: str, place: str, row: Callable[[int], str]
    ) -> None:
        self.name, self.forced, self.levels, self.dtype, self.place, self.row = name, forced, levels, dtype, place, row
        self.rows, self.missing = 0, 0
        self.kind = "null"
        self.numbers, self.distinct, self.text = Numbers(), Distinct(0), Text()
        self.single = False
        self.midnight = True
        self.large: tuple[int, int] | None = None  # first integer that float64 cannot hold

    def add(self, array: pa.Array) -> None:
        first = self.rows
        self.rows += len(array)
        self.missing += array.null_count
        kind = dtypes.family(array.type)
        if array.null_count == len(array):
            return
        if self.kind == "null":
            self.kind = kind
            cap = DISTINCT if kind in ("integer", "float") else LEVELS
            self.distinct.cap = FORCED_LEVELS if self.forced in ("category", "boolean") or self.levels is not None else cap
            self.single = pa.types.is_float32(array.type)
        elif kind != self.kind:
            raise DataError(f"column '{self.name}' of {self.place} changes from {self.kind} to {kind} in row {first + 1}")
        if kind == "text" or not self.distinct.frozen:
            pairs = pc.value_counts(array.drop_null())
            values, counts = pairs.field("values"), pairs.field("counts").to_numpy()
            if kind == "text":
                self.text.add(array, values, counts, first)
            self.distinct.add(values, counts)
        if kind == "integer":
            bounds = pc.min_max(array)
            if self.large is None and (bounds["max"].as_py() > dtypes.EXACT or bounds["min"].as_py() < -dtypes.EXACT):
                values = array.fill_null(0).to_numpy(zero_copy_only=False)
                row = int(np.argmax((values > dtypes.EXACT) | (values < -dtypes.EXACT)))
                self.large = (first + row, array[row].as_py())
        if kind in ("integer", "float", "date", "moment"):
            codes = tables.number_codes(array, self.name, first, self.place)
            codes = codes[~np.isnan(codes)]
            self.midnight = self.midnight and (kind == "date" or (kind == "moment" and bool((codes == np.rint(codes)).all())))
            self.numbers.add(codes, single=self.single)

    # what the column is --------------------------------------------------------------------------------------------

    def finish(self) -> tuple[Column, str | None]:
        """The typed column and a note. Raises DataError where it cannot be typed."""
        if self.missing == self.rows:
            raise DataError(
                f"column '{self.name}' of {self.place} has no values: leave it out with --drop {_quoted(self.name)}"
            )
        kind = self.forced or self._kind()
        if self.forced is None and self.distinct.number == 1 and not self.missing and not self.distinct.frozen:
            kind = "constant"
        return getattr(self, f"_as_{kind}")()

    def _kind(self) -> str:
        distinct = self.distinct
        few = not distinct.frozen and distinct.number <= max(20, min(LEVELS, self.rows / 2))
        if self.levels is not None:
            return "category" if few else "identifier"
        if self.kind == "boolean":
            return "boolean"
        if self.kind in ("date", "moment"):
            return "date"
        if self.kind == "text":
            return self._text_kind(few)
        if self._identifies():
            return "identifier"
        return "integer" if self.kind == "integer" or self.numbers.digits == 0 else "number"

    def _text_kind(self, few: bool) -> str:
        text = self.text
        if text.form:
            return "date"
        if not text.coded:
            if text.numeric == text.count:
                return "integer" if text.numbers is not None and text.numbers.digits == 0 else "number"
            if text.numeric >= 0.8 * text.count and text.odd is not None:
                row, value = text.odd
                raise DataError(
                    f"column '{self.name}' of {self.place}, {self.row(row)}: {value!r} is not a number, while "
                    f"{text.numeric} of {text.count} values are: fix it, or keep the column as text with "
                    f"--types {_quoted(self.name)}=category"
                )
        return "category" if few else "identifier"

    def _identifies(self) -> bool:
        whole = self.kind == "integer" or self.numbers.digits == 0
        if not whole or self.missing:
            return False
        if self.large is not None and self.distinct.all:
            return True
        counted = self.numbers.steps and self.rows >= 20  # each row is the one before plus 1
        named = bool(_ID.search(self.name) or _ID_CAMEL.search(self.name))
        return counted or (named and self.distinct.all)

    # columns of each kind ------------------------------------------------------------------------------------------

    def _column(self, kind: ColumnKind, numbers: Numbers | None = None, dtype: str = "", **rest: Any) -> Column:
        found = numbers or self.numbers
        stats: dict[str, Any] = {}
        if found.count:
            stats = {"lower": found.lower, "upper": found.upper, "mean": found.mean, "std": found.std}
        dtype = dtype or dtypes.settle_dtype(self.dtype, self.missing > 0)
        return Column(self.name, kind, dtype=dtype, missing=self.missing > 0, **(stats | rest))

    def _numeric(self) -> tuple[Numbers, str]:
        """Statistics of the numbers and the type to give back."""
        dtype = dtypes.settle_dtype(self.dtype, self.missing > 0)
        if self.kind != "text":
            if self.kind == "boolean":
                values, counts = self._levels()
                self.numbers.add(np.array(values, dtype=float), counts.astype(float))
            return self.numbers, dtype
        if self.text.numbers is None:
            row, value = self.text.odd or (0, "")
            raise DataError(f"column '{self.name}' of {self.place}, {self.row(row)}: {value!r} is not a number")
        return self.text.numbers, f"{dtype}|number={self.text.number_form}"

    def _too_large(self) -> None:
        if self.large is not None:
            row, value = self.large
            raise DataError(
                f"column '{self.name}' of {self.place}, {self.row(row)}: {value} is beyond 2**53, more than a number can hold "
                f"exactly: leave it out with --types {_quoted(self.name)}=identifier, or divide it"
            )

    def _as_number(self) -> tuple[Column, None]:
        self._too_large()
        numbers, dtype = self._numeric()
        resolution = None
        if numbers.digits is not None and self.rows >= 50 and self.distinct.number < self.distinct.seen / 2:
            resolution = 10.0**-numbers.digits
        return self._column(ColumnKind.NUMBER, numbers, dtype, resolution=resolution), None

    def _as_integer(self) -> tuple[Column, None]:
        self._too_large()
        numbers, dtype = self._numeric()
        if numbers.digits != 0:
            raise DataError(f"column '{self.name}' of {self.place} is not made of whole numbers: type it as number")
        return self._column(ColumnKind.INTEGER, numbers, dtype, resolution=1.0), None

    def _as_date(self) -> tuple[Column, None]:
        if self.kind in ("date", "moment"):
            return self._column(ColumnKind.DATE, resolution=1.0 if self.midnight else None), None
        if self.kind != "text" or not self.text.form:
            raise DataError(f"column '{self.name}' of {self.place} does not hold ISO dates such as 2024-01-31 in one format")
        dtype = f"{self.dtype}|date={self.text.form}"
        resolution = 1.0 if self.text.days.digits == 0 else None
        return self._column(ColumnKind.DATE, self.text.days, dtype, resolution=resolution), None

    def _levels(self) -> tuple[list[Any], np.ndarray]:
        """Distinct values in natural order, as plain values, and how often each was seen."""
        if self.distinct.frozen or self.distinct.values is None:
            raise DataError(f"column '{self.name}' of {self.place} has more than {self.distinct.cap} levels: drop it")
        values = self.distinct.values
        if self.kind in ("date", "moment"):
            values = dtypes.as_text(values)
        found = values.to_pylist()
        order = sorted(range(len(found)), key=lambda i: dtypes.natural(found[i]))
        return [found[i] for i in order], self.distinct.counts[order]

    def _discrete(self, kind: ColumnKind, levels: Sequence[Any], found: list[Any], counts: np.ndarray) -> Column:
        places = {level: i for i, level in enumerate(levels)}
        codes = np.array([places[value] for value in found], dtype=float)
        numbers = Numbers()
        if self.missing:
            codes, counts = np.append(codes, len(levels)), np.append(counts, self.missing)
        numbers.add(codes, counts.astype(float))
        return self._column(kind, numbers, categories=tuple(levels))

    def _as_category(self) -> tuple[Column, None]:
        found, counts = self._levels()
        levels = found if self.levels is None else self._given_levels(found)
        return self._discrete(ColumnKind.CATEGORY, levels, found, counts), None

    def _given_levels(self, found: list[Any]) -> list[Any]:
        """The container's own levels in its own order; all values are among them."""
        levels = dtypes.arrow_column(list(self.levels or ()), self.name, self.place)
        if self.kind in ("date", "moment"):
            levels = dtypes.as_text(levels)
        plain = levels.to_pylist()
        return plain if set(found) <= set(plain) else found

    def _as_boolean(self) -> tuple[Column, None]:
        found, counts = self._levels()
        levels = [False, True] if self.kind == "boolean" else found
        if len(levels) != 2:
            raise DataError(f"column '{self.name}' of {self.place} has {len(levels)} distinct values: a boolean has two")
        return self._discrete(ColumnKind.BOOLEAN, levels, found, counts), None

    def _as_constant(self) -> tuple[Column, str]:
        found, _ = self._levels()
        levels = () if self.levels is None else tuple(self._given_levels(found))
        column = self._column(ColumnKind.CONSTANT, constant=found[0], categories=levels)
        return column, f"column '{self.name}' is always {found[0]!r}: it is carried along, not learned"

    def _as_identifier(self) -> tuple[Column, str]:
        column = self._column(ColumnKind.IDENTIFIER)
        if self.kind in ("text", "boolean"):
            column = self._column(ColumnKind.IDENTIFIER, lower=1.0, upper=float(self.rows))
        if self.forced or self.kind != "text" or self.distinct.all:
            return column, f"column '{self.name}' identifies rows: it is left out and numbered anew"
        return column, (
            f"column '{self.name}' is free text (more than {max(20, min(LEVELS, self.rows // 2))} levels): it is left out; "
            f"--types {_quoted(self.name)}=category learns it"
        )


def _quoted(name: str) -> str:
    return f"'{name}'" if re.search(r"[^\w.-]", name) else name


def check_types(types: Mapping[str, str] | None, names: Iterable[str], place: str) -> dict[str, str]:
    """``types`` as a dict, its columns and types known. Raises DataError with a suggestion."""
    names, checked = list(names), dict(types or {})
    for name, kind in checked.items():
        if name not in names:
            raise DataError(f"{place} has no column '{name}' to type: {did_you_mean(name, names)}")
        if kind not in TYPES:
            raise DataError(f"column '{name}' cannot have type '{kind}': {did_you_mean(kind, TYPES)}")
    return checked


def infer_columns(
    batches: Iterable[Mapping[str, pa.Array] | pa.RecordBatch],
    types: Mapping[str, str] | None = None,
    *,
    names: Sequence[str],
    dtypes: Mapping[str, str],
    levels: Mapping[str, Sequence[Any]] | None = None,
    place: str = "the data",
    row: Callable[[int], str] | None = None,
    least: int = 4,
) -> Inference:
    """The columns ``names``, typed in one pass over ``batches`` (mappings of names to Arrow arrays of equal length).

    ``types`` {name: one of TYPES} overrides what is inferred; ``dtypes`` are the types to give back; ``levels`` are the
    levels of columns that the container itself holds as categories; ``row`` words a 0-based row for messages.
    Raises DataError with the place, row and column of what is wrong, and where there are fewer than ``least`` rows.
    """
    forced = check_types(types, names, place)
    word = row or (lambda at: f"row {at + 1}")
    trackers = [_Tracker(n, forced.get(n), (levels or {}).get(n), dtypes.get(n, ""), place, word) for n in names]
    rows = 0
    for batch in batches:
        for tracker in trackers:
            array = plain(batch[tracker.name], tracker.name, place)
            tracker.add(array)
        rows += len(array) if trackers else 0
    if rows < least:
        raise DataError(f"{place} has {rows} rows: at least {least} are needed")
    columns, notes, missing = [], [], {}
    for tracker in trackers:
        column, note = tracker.finish()
        columns.append(column)
        missing[tracker.name] = tracker.missing
        if note:
            notes.append(note)
        if tracker.missing and column.learned:
            notes.append(f"column '{tracker.name}' has {tracker.missing} missing values of {rows}: they are learned as such")
    return Inference(tuple(columns), rows, missing, tuple(notes))
