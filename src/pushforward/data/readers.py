"""Readers of tables: rows as batches {column: Arrow array}, one held at a time, again and again from the start."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pushforward.core.errors import DataError, did_you_mean
from pushforward.data import dtypes

CELLS = 2**18  # values of a batch

Batch = Mapping[str, pa.Array]
T = TypeVar("T")


class Retyped(Exception):
    """A reader met values that its types did not foresee and has changed them: read again from the start."""


def settled(read: Callable[[], T]) -> T:
    """``read()``, repeated until the reader's types hold to the end of the file."""
    while True:
        with contextlib.suppress(Retyped):
            return read()


class Reader(ABC):
    """Rows in batches. ``names`` are the columns in order, ``dtypes`` the types to give back, ``levels`` the levels of
    columns that the container holds as categories, ``place`` the name for messages, ``path`` the file, if any."""

    container = "pandas"
    plain_names = True  # False where the frame's column names are integers

    def __init__(self, place: str, path: Path | None = None, only: Collection[str] | None = None) -> None:
        self.place, self.path, self.only = place, path, only
        self.names: list[str] = []
        self.dtypes: dict[str, str] = {}
        self.levels: dict[str, list[Any]] = {}
        self.notes: list[str] = []

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """All rows, from the first. May raise Retyped; raises DataError where the source is damaged."""

    @property
    def batch(self) -> int:
        """Rows of a batch: fewer where there are many columns."""
        return max(CELLS // max(len(self.names), 1), 256)

    def row(self, at: int) -> str:
        """A 0-based row in words."""
        return f"row {at + 1}"

    def _keep(self, names: Sequence[str], drop: Sequence[str]) -> list[str]:
        """``names`` less those to drop, or those among ``only``. Raises DataError for unknown and repeated names."""
        if self.only is not None:
            names = [name for name in names if name in self.only]
        for name in drop:
            if name not in names:
                raise DataError(f"{self.place} has no column '{name}' to drop: {did_you_mean(name, names)}")
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise DataError(f"{self.place} has more than one column named '{twice}': rename all but one")
        kept = [name for name in names if name not in drop]
        if not kept and self.only is None:
            raise DataError(f"{self.place} has no columns left")
        return kept


class FrameReader(Reader):
    """A pandas or polars DataFrame or an Arrow table."""

    def __init__(self, frame: Any, place: str, drop: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        super().__init__(place, only=only)
        if isinstance(frame, pa.RecordBatch):
            frame = pa.Table.from_batches([frame])
        if hasattr(frame, "collect"):  # a lazy polars frame
            frame = frame.collect()
        arrow = isinstance(frame, pa.Table)
        polars = not arrow and not hasattr(frame, "iloc")
        self.container = "polars" if polars else "pandas"
        labels = frame.column_names if arrow else list(frame.columns)
        if not arrow and getattr(getattr(frame, "columns", None), "nlevels", 1) > 1:
            raise DataError(f"{place} has several levels of column names: join them into one")
        integers = bool(labels) and all(isinstance(label, (int, np.integer)) for label in labels)
        self.plain_names = not integers
        odd = next((label for label in labels if not isinstance(label, str)), None)
        if odd is not None and not integers:
            raise DataError(f"{place} has a column named {odd!r}, which is no text: rename it")
        self.names = self._keep([str(label) for label in labels], drop)
        self.arrays: dict[str, pa.Array] = {}
        for name, label in zip([str(label) for label in labels], labels, strict=True):
            if name in self.names:
                self._add(name, frame.column(label) if arrow else frame[label], arrow, polars)
        self.rows = frame.num_rows if arrow else len(frame)

    def _add(self, name: str, series: Any, arrow: bool, polars: bool) -> None:
        array = dtypes.plain(series, name, self.place) if arrow else dtypes.arrow_column(series, name, self.place)
        self.arrays[name] = array
        if arrow:
            self.dtypes[name] = dtypes.file_dtype(series.type)
            return
        self.dtypes[name] = dtypes.polars_dtype(series) if polars else dtypes.pandas_dtype(series, array)
        if self.dtypes[name].startswith("category"):
            self.levels[name] = list(series.cat.categories)
        elif self.dtypes[name] == "Enum":
            self.levels[name] = series.dtype.categories.to_list()
        elif self.dtypes[name] == "Categorical":
            self.levels[name] = sorted(series.unique().drop_nulls().cast(str).to_list(), key=dtypes.natural)

    def batches(self) -> Iterator[Batch]:
        for start in range(0, self.rows, self.batch):
            yield {name: self.arrays[name].slice(start, self.batch) for name in self.names}


def open_error(path: Path, error: Exception) -> DataError:
    """What to say of a file that a library cannot read."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(f"{path.name} cannot be read: {reason}")


class ParquetReader(Reader):
    """A Parquet file."""

    def __init__(self, path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        super().__init__(path.name, path, only)
        schema = self._open().schema_arrow
        index = [name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)]
        self.names = self._keep([name for name in schema.names if name not in index], drop)
        self.dtypes = {name: dtypes.file_dtype(schema.field(name).type) for name in self.names}
        if index:
            self.notes.append("the frame's own row index, stored in the file, is left out")

    def _open(self) -> Any:
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(str(self.path), pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            assert self.path is not None
            raise open_error(self.path, error) from error

    def batches(self) -> Iterator[Batch]:
        try:
            for batch in self._open().iter_batches(batch_size=self.batch, columns=self.names):
                yield {name: dtypes.plain(batch[name], name, self.place) for name in self.names}
        except (pa.ArrowInvalid, OSError) as error:
            assert self.path is not None
            raise open_error(self.path, error) from error


class DatasetReader(Reader):
    """A ``datasets.Dataset``; columns of class labels become categories by their names."""

    def __init__(self, dataset: Any, place: str, drop: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        super().__init__(place, only=only)
        self.names = self._keep(dataset.column_names, drop)
        self.dataset = dataset.select_columns(self.names).with_format("arrow")
        self.classes: dict[str, list[str]] = {}
        for f in dataset.features.arrow_schema:
            if f.name in self.names:
                names = getattr(dataset.features[f.name], "names", None)
                self.dtypes[f.name] = "str" if names else dtypes.file_dtype(f.type)
                if names:
                    self.classes[f.name] = self.levels[f.name] = list(names)

    def batches(self) -> Iterator[Batch]:
        for start in range(0, len(self.dataset), self.batch):
            table = self.dataset[start : start + self.batch]
            yield {name: named(table[name], name, self.classes.get(name), self.place) for name in self.names}


def named(array: Any, name: str, classes: Sequence[str] | None, place: str) -> pa.Array:
    """The column as plain Arrow; class labels, where it has ``classes``, as their names."""
    array = dtypes.plain(array, name, place)
    if not classes:
        return array
    index = array.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(float)
    unknown = ~((index >= 0) & (index < len(classes)))  # -1 stands for no label
    return pa.array(list(classes), pa.large_string()).take(pa.array(np.where(unknown, 0, index).astype(int), mask=unknown))
