"""The table codec: columns of a pandas, polars or Arrow table to float64 codes and back.

Times are exact to the microsecond, integers up to 2**53. Numbers in text come back in their own spelling where all have
the same number of decimals and no plus signs, spaces or exponents; otherwise they come back as plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind
from pushforward.data.dtypes import (
    DAY,
    EXACT,
    NUMBER,
    arrow_column,
    as_text,
    family,
    is_date_type,
    is_text_type,
    parse_dates,
    part_of,
    plain,
    write_dates,
    write_numbers,
)

# ------------------------------------------------------------------------------------------------------------- encoding


def _bad(array: pa.Array, at: np.ndarray, first: int, name: str, place: str) -> tuple[str, Any]:
    row = int(np.argmax(at))
    return f"column '{name}' of {place or 'the data'}, row {first + row + 1}", array[row].as_py()


def _level_codes(column: Column, array: pa.Array, first: int, place: str) -> np.ndarray:
    levels = pa.array(list(column.categories))
    if family(levels.type) == "text":
        levels, array = as_text(levels), as_text(array)
    elif array.type != levels.type and family(array.type) != "null":
        wide = pa.float64() if family(levels.type) != "boolean" or family(array.type) != "boolean" else pa.bool_()
        try:
            array, levels = array.cast(wide), levels.cast(wide)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            array, levels = as_text(array), as_text(levels)
    if family(array.type) == "null":
        return np.full(len(array), np.nan)
    codes = pc.index_in(array, value_set=levels)
    unseen = pc.and_(pc.is_null(codes), pc.is_valid(array))
    if pc.any(unseen).as_py():
        where, value = _bad(array, np.asarray(unseen), first, column.name, place)
        known = ", ".join(map(repr, column.categories[:8])) + (", …" if len(column.categories) > 8 else "")
        raise DataError(f"{where}: {value!r} was not among the {len(column.categories)} known levels ({known})")
    return codes.cast(pa.float64()).to_numpy(zero_copy_only=False)


def number_codes(array: pa.Array, name: str, first: int = 0, place: str = "") -> np.ndarray:
    """Numbers, booleans, dates (days since 1970) or text that holds numbers as float64; missing values NaN."""
    kind = family(array.type)
    if kind == "null":
        return np.full(len(array), np.nan)
    if kind == "text":
        array = pc.utf8_trim_whitespace(array)
        good = pc.match_substring_regex(array, pattern=NUMBER)
        if pc.any(pc.invert(good)).as_py():
            where, value = _bad(array, ~np.asarray(pc.fill_null(good, True)), first, name, place)
            raise DataError(f"{where}: {value!r} is not a number")
        array = pc.cast(pc.replace_substring_regex(array, pattern=r"^\+", replacement=""), pa.float64())
    if kind in ("date", "moment"):
        return date_codes(array, name, first, place)
    codes = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    infinite = np.isinf(codes)
    if infinite.any():
        where, value = _bad(array, infinite, first, name, place)
        raise DataError(f"{where}: {value} is infinite: replace it or leave it missing")
    return codes


def date_codes(array: pa.Array, name: str, first: int = 0, place: str = "") -> np.ndarray:
    """Dates, times or ISO text as days since 1970, float64; missing values NaN."""
    kind = family(array.type)
    if kind == "null":
        return np.full(len(array), np.nan)
    if kind == "date":
        return array.cast(pa.int32()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    if kind == "text":
        try:
            array = parse_dates(array)
        except pa.ArrowInvalid:
            for row, value in enumerate(array.to_pylist()):
                try:
                    parse_dates(pa.array([value], pa.large_string()))
                except pa.ArrowInvalid:
                    where = f"column '{name}' of {place or 'the data'}, row {first + row + 1}"
                    raise DataError(f"{where}: {value!r} is not an ISO date such as 2024-01-31") from None
    elif kind != "moment":
        raise DataError(f"column '{name}' of {place or 'the data'} holds {array.type}, not dates")
    valid = np.asarray(pc.is_valid(array))
    micros = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    days, rest = np.divmod(micros, DAY)  # days and parts apart, so that the sum is rounded once
    return np.where(valid, days + rest / DAY, np.nan)


def snap(values: np.ndarray, resolution: float | None) -> np.ndarray:
    """``values`` on the grid of step ``resolution`` = 10**-k: each becomes the float64 nearest to its decimal."""
    if resolution is None:
        return values
    per_unit = round(1 / resolution)
    return np.rint(values * per_unit) / per_unit


def outside(codes: np.ndarray, column: Column) -> np.ndarray:
    """Which codes are beyond the column's bounds by more than rounding; missing ones are not."""
    low, high = column.bounds or (-np.inf, np.inf)
    spread = column.upper - column.lower if np.isfinite([column.lower, column.upper]).all() else 0.0
    below, above = (1e-12 * (abs(end) + spread) if np.isfinite(end) else 0.0 for end in (low, high))
    return (codes < low - below) | (codes > high + above)


def refuse_outside(codes: np.ndarray, column: Column, first: int = 0, place: str = "") -> None:
    """Raises DataError with the first row and value beyond the column's bounds."""
    beyond = outside(codes, column)
    if beyond.any():
        from pushforward.data.bounds import words

        row = int(np.argmax(beyond))
        value = _canonical(column, codes[row : row + 1])[0].as_py()
        raise DataError(
            f"column '{column.name}' of {place or 'the data'}, row {first + row + 1}: {value} is outside its bounds, "
            f"{words(column.bounds or (-np.inf, np.inf), column)}: correct it, leave the row out, or widen them"
        )


def encode_column(column: Column, values: Any, *, first: int = 0, place: str = "", holes: bool = False) -> np.ndarray:
    """Codes (n,) float64 of one column's ``values`` (an Arrow array, series, array or list).

    ``first`` is the number of rows before these, for messages. A missing value is NaN in a number or date and the code
    ``len(categories)`` among levels; it must have been seen when the column was typed. With ``holes`` any value may be
    missing and all missing ones are NaN. Raises DataError with row, column and value.
    """
    array = values if isinstance(values, pa.Array) and family(values.type) else arrow_column(values, column.name, place)
    if column.discrete:
        codes = _level_codes(column, array, first, place)
    elif column.kind is ColumnKind.DATE:
        codes = date_codes(array, column.name, first, place)
    else:
        codes = number_codes(array, column.name, first, place)
        if column.kind is ColumnKind.INTEGER:
            broken = np.isfinite(codes) & (np.rint(codes) != codes)
            if broken.any():
                where, value = _bad(array, broken, first, column.name, place)
                raise DataError(f"{where}: {value} is not a whole number")
        else:
            codes = snap(codes, column.resolution)
    if column.bounds is not None:
        refuse_outside(codes, column, first, place)
    missing = np.isnan(codes)
    if holes or not missing.any():
        return np.array(codes, dtype=np.float64)
    if not column.missing:
        where, _ = _bad(array, missing, first, column.name, place)
        raise DataError(f"{where} is missing, but no value of this column was missing when it was learned")
    return np.where(missing, float(len(column.categories)), codes) if column.discrete else np.array(codes)


def encode(
    columns: Sequence[Column],
    batch: Mapping[str, pa.Array] | pa.RecordBatch | pa.Table,
    *,
    first: int = 0,
    place: str = "",
    holes: bool = False,
) -> np.ndarray:
    """Codes (n, len(columns)) float64 of the rows in ``batch``. Raises DataError with row, column and value."""
    arrays = [plain(batch[c.name], c.name, place) for c in columns]
    rows = len(arrays[0]) if arrays else len(batch)
    out = np.empty((rows, len(columns)))
    for i, (column, array) in enumerate(zip(columns, arrays, strict=True)):
        out[:, i] = encode_column(column, array, first=first, place=place, holes=holes)
    return out


# ------------------------------------------------------------------------------------------------------------- decoding


def _canonical(column: Column, codes: np.ndarray) -> pa.Array:
    """Codes as an Arrow array in the column's own terms, before the container's types."""
    codes = np.asarray(codes, dtype=np.float64)
    missing = np.isnan(codes)
    if column.discrete:
        index = np.rint(np.where(missing, 0, codes)).astype(np.int64)
        missing = missing | ((index >= len(column.categories)) & column.missing)
        index = np.clip(index, 0, max(len(column.categories) - 1, 0))
        return pa.array(list(column.categories)).take(pa.array(index, mask=missing))
    values = np.where(missing, 0.0, codes)
    form = part_of(column.dtype, "date")
    if form or column.kind is ColumnKind.DATE or is_date_type(column.dtype):
        values = snap(values, column.resolution)
        days = np.floor(values)
        micros = days.astype(np.int64) * DAY + np.rint((values - days) * DAY).astype(np.int64)
        if form:
            return pa.array(write_dates(micros, form).astype(object), mask=missing, type=pa.large_string())
        return pa.array(micros, mask=missing).cast(pa.timestamp("us"))
    if column.kind in (ColumnKind.INTEGER, ColumnKind.IDENTIFIER):
        values = np.rint(values)
    else:
        values = snap(values, column.resolution)
    form = part_of(column.dtype, "number")
    if form:
        return pa.array(np.array(write_numbers(values, form), dtype=object), mask=missing, type=pa.large_string())
    return pa.array(values, mask=missing)


def _clip(values: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers within the range of the integer type ``name``."""
    if values.dtype.kind in "iu":
        return values.astype(name)
    limits = np.iinfo(np.dtype(name))
    return np.clip(np.rint(values), float(limits.min), float(min(limits.max, EXACT))).astype(name)


def _pandas(array: pa.Array, dtype: str, categories: Sequence[Any] = ()) -> Any:
    """A pandas series of type ``dtype`` from an Arrow array."""
    import pandas as pd

    base, *parts = dtype.split("|")
    missing = np.asarray(pc.is_null(array))
    kind = family(array.type)
    if base == "category":
        inner = _pandas(array, parts[1])
        levels = _pandas(pa.array(list(categories)), parts[1]) if len(categories) else inner.dropna().unique()
        return inner.astype(pd.CategoricalDtype(pd.Index(levels), ordered=parts[0] == "ordered"))
    if base == "arrow":
        try:
            wanted = pa.type_for_alias(parts[0])
            return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([array]).cast(wanted, safe=False)))
        except (TypeError, ValueError, pa.ArrowNotImplementedError):  # a type whose name does not say all of it
            return array.to_pandas()
    if base.startswith("datetime64"):
        if kind == "text":
            array = parse_dates(array)
        unit, _, zone = base[11:-1].partition(", ")
        moments = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype("datetime64[us]")
        moments = np.where(missing, np.datetime64("NaT"), moments).astype(f"datetime64[{unit}]")
        series = pd.Series(moments)
        return series.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else series
    if base == "object":
        inner = parts[0] if parts else "string"
        if inner.startswith("date"):
            array = (parse_dates(array) if kind == "text" else array).cast(pa.date32(), safe=False)
        elif inner.startswith(("int", "uint")) and kind not in ("text", "integer"):
            array = array.cast(pa.int64(), safe=False)
        elif inner == "bool":
            array = array.cast(pa.bool_())
        out = pd.Series(array.to_pylist(), dtype=object)
        return out.where(~missing, np.nan) if "nan" in parts else out
    if kind == "text":
        if base == "str" or base.startswith("string"):
            return pd.Series(array.to_numpy(zero_copy_only=False), dtype=base)
        array = parse_dates(array) if base == "Date" else array.cast(pa.float64())
    if base == "str" or base.startswith("string"):
        return pd.Series(array.cast(pa.large_string()).to_numpy(zero_copy_only=False), dtype=base)
    whole = base[:3] in ("int", "uin", "Int", "UIn") and kind == "integer"  # beyond 2**53 a float would not be exact
    filled = (array if whole else array.cast(pa.float64(), safe=False)).fill_null(0).to_numpy(zero_copy_only=False)
    if base in ("boolean", "bool"):
        truth = np.rint(filled) != 0
        return pd.Series(pd.arrays.BooleanArray(truth, missing)) if base == "boolean" or missing.any() else pd.Series(truth)
    if base[:3] in ("Int", "UIn") or (base[:3] in ("int", "uin") and missing.any()):
        return pd.Series(pd.arrays.IntegerArray(_clip(filled, base.lower()), missing))
    if base[:3] in ("int", "uin"):
        return pd.Series(_clip(filled, base))
    if base in ("Float32", "Float64"):
        return pd.Series(pd.arrays.FloatingArray(filled.astype(base.lower()), missing))
    return pd.Series(np.where(missing, np.nan, filled).astype(base if base.startswith("float") else "float64"))


def _polars(array: pa.Array, dtype: str, categories: Sequence[Any] = ()) -> Any:
    """A polars series of type ``dtype`` from an Arrow array."""
    import polars as pl

    base, *parts = dtype.split("|")
    series = pl.Series(pl.from_arrow(array))
    if base == "Enum":
        return series.cast(pl.Enum(list(categories))) if len(categories) else series.cast(pl.String)
    if base in ("Date", "Datetime") and family(array.type) == "text":
        series = pl.Series(pl.from_arrow(parse_dates(array)))
    if base == "Datetime":
        series = series.cast(pl.Datetime(parts[0]))  # type: ignore[arg-type]
        return series.dt.replace_time_zone("UTC").dt.convert_time_zone(parts[1]) if parts[1] else series
    if re.fullmatch(r"U?Int\d+", base) and not series.dtype.is_integer():
        limits = np.iinfo(np.dtype(base.lower()))
        series = series.cast(pl.Float64).round().clip(float(limits.min), float(min(limits.max, EXACT)))
    if base == "Boolean" and series.dtype != pl.Boolean:
        series = series != 0
    series = series.cast(getattr(pl, base, pl.Float64))
    return series.fill_null(float("nan")) if "nan" in parts else series


def _identifiers(column: Column, n: int) -> tuple[pa.Array, str]:
    """``n`` new identifiers above the largest seen, and the type that holds them."""
    upper = column.upper if np.isfinite(column.upper) else 0.0
    start = int(upper if abs(upper) < EXACT else np.nextafter(upper, np.inf)) + 1  # a large one may have been rounded
    numbers = np.arange(start, start + n)
    dtype = column.dtype
    if is_text_type(dtype):
        dtype = "String" if dtype == "Enum" else dtype
        return pa.array([f"{column.name}-{i}" for i in numbers.tolist()], pa.large_string()), dtype
    base = dtype.split("|")[0]
    if base.startswith(("datetime", "Date")) or "date32" in dtype:
        return pa.array(numbers * DAY).cast(pa.timestamp("us")), dtype
    if re.fullmatch(r"[uU]?[iI]nt\d+", base) and n and numbers[-1] > np.iinfo(np.dtype(base.lower())).max:
        dtype = "Int64" if base[0] in "IU" else "int64"  # a narrow type that has no room above the largest seen
    return pa.array(numbers), dtype


def decode_column(column: Column, codes: Any, container: str = "pandas") -> Any:
    """The series ('pandas' or 'polars') that codes (n,) stand for, in the type the column came in.

    For a constant or an identifier only the number of codes counts.
    """
    codes = np.asarray(codes, dtype=np.float64)
    dtype, categories = column.dtype or "float64", column.categories
    if column.kind is ColumnKind.IDENTIFIER:
        array, dtype = _identifiers(column, len(codes))
        categories = ()
    elif column.kind is ColumnKind.CONSTANT:
        array = pa.array([column.constant] * len(codes))
    else:
        array = _canonical(column, codes)
    series = (_polars if container == "polars" else _pandas)(array, dtype, categories)
    return series.alias(column.name) if container == "polars" else series.rename(column.name)


def decode(columns: Sequence[Column], codes: Mapping[str, Any], rows: int, container: str = "pandas") -> Any:
    """A DataFrame of ``rows`` rows from codes {name: (rows,)}; identifiers and constants need no codes."""
    blank = np.zeros(rows)
    series = {c.name: decode_column(c, codes[c.name] if c.learned else blank, container) for c in columns}
    if container == "polars":
        import polars as pl

        return pl.DataFrame(list(series.values()))
    import pandas as pd

    return pd.DataFrame(series, index=pd.RangeIndex(rows))
