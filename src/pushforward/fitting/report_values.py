"""Numbers, durations and the user's own values as the text a report shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pushforward.core.schema import Column, ColumnKind
from pushforward.fitting.pictures import short


def decimals(error: float | None) -> int | None:
    """Decimals that show two digits of a standard error; None where there is none to go by."""
    if error is None or not math.isfinite(error) or error < 1e-9:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def number(value: Any, error: float | None = None) -> str:
    """A value with as many decimals as its standard error bears, or four digits."""
    if value is None:
        return "—"
    given, value = value, float(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    size, digits = abs(value), decimals(error)
    if digits is None:
        if size != 0 and (size < 1e-3 or size >= 1e7):
            return f"{value:.3g}".replace("-", "−")
        digits = 0 if isinstance(given, int) or size >= 1000 or size == 0 else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if not math.isfinite(seconds):
        return "—"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cell(value: Any) -> dict[str, Any]:
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


def level(column: Column, code: int) -> str:
    """The name of a category."""
    names = [str(c) for c in column.categories] or (["False", "True"] if column.kind is ColumnKind.BOOLEAN else [])
    return names[code] if 0 <= code < len(names) else "missing" if code == len(names) else str(code)


def day(code: float) -> str:
    """The date so many days after 1970 began."""
    try:
        return str(np.datetime64("1970-01-01") + np.timedelta64(round(code), "D"))
    except (OverflowError, ValueError):
        return short(code)


def text_of(column: Column, code: float) -> str:
    """One code of a column as the user would write it."""
    if not math.isfinite(code):
        return "missing"
    if column.discrete:
        return level(column, int(code))
    return day(code) if column.kind is ColumnKind.DATE else f"{code:.6g}"
