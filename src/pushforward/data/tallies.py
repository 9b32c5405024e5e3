"""What is counted of a column batch by batch, in state that does not grow with the number of rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pushforward.data import dtypes, tables


class Numbers:
    """Count, mean, variance, range and grid of float64 values, merged batch by batch."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, 0.0, 0.0
        self.lower, self.upper = math.inf, -math.inf
        self.digits: int | None = 0  # decimals that all values so far fit in; None: more than 6
        self.steps = True  # whether each value is the one before plus 1
        self.last: float | None = None

    def add(self, values: np.ndarray, weights: np.ndarray | None = None, single: bool = False) -> None:
        if not len(values):
            return
        n = float(len(values) if weights is None else weights.sum())
        mean = float(np.average(values, weights=weights))
        square = float(np.average((values - mean) ** 2, weights=weights) * n)
        total = self.count + n
        shift = mean - self.mean
        self.mean += shift * n / total
        self.square += square + shift**2 * self.count * n / total
        self.count = int(total)
        self.lower, self.upper = min(self.lower, float(values.min())), max(self.upper, float(values.max()))
        if self.steps:
            line = values if self.last is None else np.concatenate(([self.last], values))
            self.steps = bool((np.diff(line) == 1).all())
            self.last = float(values[-1])
        while self.digits is not None and not on_grid(values, self.digits, single):
            self.digits = self.digits + 1 if self.digits < 6 else None

    @property
    def std(self) -> float:
        return math.sqrt(max(self.square, 0.0) / self.count) if self.count else 0.0


def on_grid(values: np.ndarray, digits: int, single: bool) -> bool:
    """Whether all values have at most ``digits`` decimals, up to the rounding of their type."""
    if digits == 0:
        return bool((np.rint(values) == values).all())
    scaled = values * 10.0**digits
    slack = (1.2e-7 if single else 4.5e-16) * np.abs(scaled)
    if slack.max() > 0.05:  # numbers this large lie on any grid
        return False
    return bool((np.abs(scaled - np.rint(scaled)) <= slack).all())


class Distinct:
    """Distinct values with their counts, up to a cap; frozen above it."""

    def __init__(self, cap: int) -> None:
        self.cap, self.frozen = cap, False
        self.values: pa.Array | None = None
        self.counts = np.zeros(0, dtype=np.int64)
        self.number, self.seen = 0, 0

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        if self.frozen:
            return
        if self.values is None:
            self.values, self.counts = values, counts
        else:
            merged = pa.concat_arrays([self.values, values]).dictionary_encode()
            weights = np.concatenate((self.counts, counts))
            self.values = merged.dictionary
            self.counts = np.bincount(merged.indices.to_numpy(), weights=weights).astype(np.int64)
        self.number, self.seen = len(self.values), self.seen + int(counts.sum())
        if self.number > self.cap:
            self.frozen, self.values = True, None

    @property
    def all(self) -> bool:
        """Whether no value was seen twice."""
        return self.number == self.seen


class Text:
    """Whether text values are all numbers or all dates, and in which format."""

    def __init__(self) -> None:
        self.count, self.numeric = 0, 0
        self.coded = False  # leading zeros: codes such as 007, not numbers
        self.odd: tuple[int, str] | None = None  # first value that is not a number
        self.whole, self.decimals = True, -1  # all canonical integers; the common number of decimals (-2: none)
        self.form: str | None = ""  # the common date format ('' before the first value, None if there is none)
        self.numbers: Numbers | None = Numbers()
        self.days = Numbers()

    def add(self, array: pa.Array, values: pa.Array, counts: np.ndarray, first: int) -> None:
        self.count += int(counts.sum())
        trimmed = pc.utf8_trim_whitespace(values)
        number = np.asarray(pc.match_substring_regex(trimmed, pattern=dtypes.NUMBER))
        self.numeric += int(counts[number].sum())
        if self.odd is None and not number.all():
            row = int(np.argmax(np.asarray(pc.is_in(array, value_set=values.filter(pa.array(~number))))))
            self.odd = (first + row, array[row].as_py())
        if number.any():
            self.coded |= bool(pc.any(pc.match_substring_regex(trimmed, pattern=r"^[-+]?0\d")).as_py())
        if self.odd is None:
            self._numbers(values, trimmed, counts)
        else:
            self.numbers = None
        if self.form is not None:
            self._dates(values, counts)

    def _numbers(self, values: pa.Array, trimmed: pa.Array, counts: np.ndarray) -> None:
        self.whole = self.whole and bool(pc.all(pc.match_substring_regex(values, pattern=r"^(0|-?[1-9]\d*)$")).as_py())
        if self.decimals != -2:
            plain = pc.match_substring_regex(values, pattern=r"^-?(0|[1-9]\d*)\.\d+$")
            places = np.unique(np.asarray(pc.subtract(pc.utf8_length(values), pc.find_substring(values, "."))) - 1)
            common = bool(pc.all(plain).as_py()) and len(places) == 1 and self.decimals in (-1, places[0])
            self.decimals = int(places[0]) if common else -2
        if self.numbers is not None:
            self.numbers.add(tables.number_codes(trimmed, ""), counts.astype(float))

    def _dates(self, values: pa.Array, counts: np.ndarray) -> None:
        form = dtypes.date_format(values[0].as_py()) if self.form == "" else self.form
        if form and not pc.all(pc.match_substring_regex(values, pattern=dtypes.date_pattern(form))).as_py():
            form = None
        if form:
            try:  # the pattern lets impossible dates such as 2023-02-30 pass
                self.days.add(tables.date_codes(dtypes.parse_dates(values), ""), counts.astype(float))
            except pa.ArrowInvalid:
                form = None
        self.form = form

    @property
    def number_form(self) -> str:
        return "int" if self.whole else str(self.decimals) if self.decimals > 0 else "g"
