"""Types of columns: Arrow's, those the values came in, and dates and numbers written as text.

``Column.dtype`` records the type as it came, as parts joined by ``|``: the type's own name first (``int64``, ``Int64``,
``str``, ``category``, ``object``, polars' ``Utf8`` …), then what else is needed to give the same values back (the level
type of a category, the Arrow type inside an object column, ``date=YYYY-MM-DD`` or ``number=2`` for dates and numbers that
came as text, ``nan`` where missing values were NaN).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pushforward.core.errors import DataError
from pushforward.core.schema import Column

DAY = 86_400_000_000  # microseconds
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
EXACT = 2**53  # the largest integer up to which float64 is exact


# ---------------------------------------------------------------------------------------------------------- arrow types


def family(kind: pa.DataType) -> str:
    """What a plain Arrow type holds: 'boolean', 'integer', 'float', 'text', 'date', 'moment', 'null', or '' if none."""
    types = pa.types
    tests = {
        "boolean": types.is_boolean,
        "integer": types.is_integer,
        "float": types.is_floating,
        "text": lambda t: types.is_string(t) or types.is_large_string(t),
        "date": types.is_date,
        "moment": types.is_timestamp,
        "null": types.is_null,
    }
    return next((name for name, test in tests.items() if test(kind)), "")


def plain(array: pa.Array | pa.ChunkedArray, name: str, place: str = "") -> pa.Array:
    """``array`` as one of the few types the codec knows, missing values as nulls. Raises DataError for any other type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # some versions of pyarrow leave it chunked
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind, types = array.type, pa.types
    # An extension type (a period, an interval) cannot be given back from its storage, so it is refused below.
    if types.is_string(kind) or str(kind) == "string_view":
        array = array.cast(pa.large_string())
    elif types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif types.is_float16(kind):
        array = array.cast(pa.float32())
    elif types.is_date64(kind):
        array = array.cast(pa.date32())
    elif types.is_timestamp(kind) and kind.unit != "us":
        array = array.cast(pa.timestamp("us", kind.tz), safe=False)
    elif not family(kind):
        raise DataError(f"column '{name}' of {place or 'the data'} has type {kind}, which a table cannot learn: drop it")
    if types.is_floating(array.type) and len(array):
        nan = pc.is_nan(array)
        if pc.any(nan).as_py():
            array = pc.if_else(pc.fill_null(nan, False), pa.scalar(None, array.type), array)
    return array


def arrow_column(values: Any, name: str, place: str = "") -> pa.Array:
    """A pandas or polars series, an array or a list as a plain Arrow array. Raises DataError where it mixes types."""
    try:
        if hasattr(values, "to_arrow"):
            found = values.to_arrow()
        else:
            if hasattr(values, "detach"):
                values = values.detach().cpu().numpy()
            found = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        first: dict[str, int] = {}
        for row, value in enumerate(list(values)):
            if value is not None and value == value:
                first.setdefault(type(value).__name__, row + 1)
        kinds = ", ".join(f"{kind} first in row {row}" for kind, row in list(first.items())[:3])
        where = f"column '{name}' of {place or 'the data'}"
        if len(first) > 1:
            raise DataError(f"{where} mixes types ({kinds}): convert it to one type, such as text, or drop it") from error
        raise DataError(f"{where} holds {kinds or 'unknown values'}, which a table cannot learn: drop it") from error
    return plain(found, name, place)


def as_text(array: pa.Array) -> pa.Array:
    """A plain array as text; times are written in UTC."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us"))
    return array.cast(pa.large_string())


# ---------------------------------------------------------------------------------------------------- types as they came


def file_dtype(kind: pa.DataType) -> str:
    """The pandas type for a column of a file. A trailing ``?`` is settled by whether values are missing."""
    types = pa.types
    if types.is_dictionary(kind):
        levels = file_dtype(kind.value_type).rstrip("?")
        return f"category|{'ordered' if kind.ordered else 'unordered'}|{levels}"
    if types.is_integer(kind):
        return f"{kind}?"
    if types.is_boolean(kind):
        return "bool?"
    if types.is_float16(kind):
        return "float16"
    if types.is_floating(kind):
        return "float32" if types.is_float32(kind) else "float64"
    if types.is_date(kind):
        return "object|date32[day]"
    if types.is_timestamp(kind):
        return f"datetime64[{kind.unit}{', ' + kind.tz if kind.tz else ''}]"
    return "float64" if types.is_decimal(kind) else "str"


def settle_dtype(dtype: str, missing: bool) -> str:
    """``dtype`` with a trailing ``?`` replaced by the nullable type where values are missing."""
    if not dtype.endswith("?"):
        return dtype
    base = dtype[:-1]
    if not missing:
        return base
    return "boolean" if base == "bool" else base.replace("uint", "UInt").replace("int", "Int")


def pandas_dtype(series: Any, array: pa.Array) -> str:
    """The type of a pandas series, with what is needed to rebuild it; ``array`` is its Arrow form."""
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return f"category|{'ordered' if dtype.ordered else 'unordered'}|{dtype.categories.dtype}"
    if isinstance(dtype, pd.StringDtype):
        return "str" if dtype.na_value is np.nan else f"string[{dtype.storage}]"
    if isinstance(dtype, pd.ArrowDtype):
        return f"arrow|{dtype.pyarrow_dtype}"
    if dtype != np.dtype(object):
        return str(dtype)
    gaps = series[series.isna()]
    flavour = "|nan" if len(gaps) and isinstance(gaps.iloc[0], float) else ""
    return f"object|{array.type}{flavour}"


def polars_dtype(series: Any) -> str:
    """The type of a polars series, with what is needed to rebuild it."""
    import polars as pl

    dtype = series.dtype
    if isinstance(dtype, pl.Datetime):
        return f"Datetime|{dtype.time_unit}|{dtype.time_zone or ''}"
    if isinstance(dtype, pl.Categorical):
        return "Categorical"
    if isinstance(dtype, pl.Enum):
        return "Enum"
    if isinstance(dtype, pl.Decimal):
        return "Float64"
    if dtype.is_float() and series.is_nan().any():
        return f"{dtype}|nan"
    return str(dtype)


# --------------------------------------------------------------------------------------------- dates and numbers as text

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:([T ])(\d{2}:\d{2})(:\d{2}(\.\d{1,6})?)?(Z)?)?")


def date_format(value: str) -> str | None:
    """The format of an ISO date or time such as ``YYYY-MM-DDThh:mm:ss.fffZ``, or None."""
    match = _DATE.fullmatch(value)
    if not match:
        return None
    _, between, minutes, seconds, fraction, zone = match.groups()
    text = "YYYY-MM-DD" + (f"{between}hh:mm" if minutes else "") + (":ss" if seconds else "")
    return text + ("." + "f" * (len(fraction) - 1) if fraction else "") + (zone or "")


def date_pattern(form: str) -> str:
    """The regular expression of a format from ``date_format``."""
    return "^" + re.sub(r"[YMDhmsf]", r"\\d", form.replace(".", r"\.")) + "$"


def parse_dates(array: pa.Array) -> pa.Array:
    """ISO dates and times in text to timestamps in microseconds. Raises pa.ArrowInvalid for anything else."""
    return pc.cast(pc.replace_substring_regex(array, pattern="Z$", replacement=""), pa.timestamp("us"))


def write_dates(micros: np.ndarray, form: str) -> np.ndarray:
    """Microseconds (N,) as text of the format ``form``, rounded to its finest part."""
    digits = form.count("f")
    step = DAY if "h" not in form else 60_000_000 if "s" not in form else 10 ** (6 - digits)
    micros = (micros + step // 2) // step * step
    text = np.datetime_as_string(micros.astype("datetime64[us]"), unit="us")
    length = len(form.rstrip("Z"))
    text = text.astype(f"<U{length}")
    if " " in form:
        text = np.char.replace(text, "T", " ")
    return np.char.add(text, "Z") if form.endswith("Z") else text


def write_numbers(values: np.ndarray, form: str) -> list[str]:
    """Numbers (N,) as text: whole (``form`` int), with so many decimals (a digit), or as short as is exact."""
    if form == "int":
        return [str(int(v)) for v in np.rint(values)]
    if form.isdigit():
        return [f"{v:.{form}f}" for v in values.tolist()]
    return [str(int(v)) if v == int(v) and abs(v) < EXACT else repr(v) for v in values.tolist()]


def part_of(dtype: str, key: str) -> str | None:
    """What follows ``key=`` in ``dtype``, None where it is not there."""
    return next((part[len(key) + 1 :] for part in dtype.split("|") if part.startswith(key + "=")), None)


def is_text_type(dtype: str) -> bool:
    """Whether values of this type are text."""
    first, *rest = dtype.split("|")
    if first == "category":
        return is_text_type(rest[-1]) if rest else True
    if first in ("object", "arrow"):
        return bool(rest) and "string" in rest[0]
    return first in ("str", "String", "Utf8", "Categorical", "Enum", "object") or first.startswith("string")


def is_date_type(dtype: str) -> bool:
    """Whether values of this type are dates or times."""
    return dtype.startswith(("datetime64", "Date", "object|date", "object|timestamp", "arrow|date", "arrow|timestamp"))


def is_text(column: Column) -> bool:
    """Whether the column's values came as text."""
    return is_text_type(column.dtype)


def natural(value: Any) -> Any:
    """Sort key in which 'x10' comes after 'x9'; values that are no text sort as they are."""
    if not isinstance(value, str):
        return value
    parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", value) if p]
    return parts, value
