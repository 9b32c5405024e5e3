"""Readers of tables in batches, and ``ArrowStore`` for tables larger than memory.

A reader yields the rows of a file or frame again and again as batches {column: Arrow array}, holding one batch at a time.
A file that is too large is copied once, batch by batch, into an Arrow file in the cache (``PUSHFORWARD_CACHE``, by default
``~/.cache/pushforward``), which the ``datasets`` library maps into memory: rows are fetched and encoded when asked for.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Column
from pushforward.data import tables
from pushforward.data.dataset import Rows, Store, TensorStore

CELLS = 2**18  # values of a batch
FORMAT = 1  # of the cache; copies of another one are made anew
CHUNK = 4_096  # rows of a record batch in the cache: random access reads whole ones
DENSE = 64  # rows wanted of a block from which on the whole block is read
BLOCK = 4 * 2**20  # bytes of text parsed at a time
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "Null", "None", "<NA>"]

Batch = Mapping[str, pa.Array]
T = TypeVar("T")


class Retyped(Exception):
    """A reader met values that its types did not foresee and has changed them: read again from the start."""


def settled(read: Callable[[], T]) -> T:
    """``read()``, repeated until the reader's types hold to the end of the file."""
    while True:
        with contextlib.suppress(Retyped):
            return read()


class Reader:
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

    def batches(self) -> Iterator[Batch]:
        """All rows, from the first. May raise Retyped; raises DataError where the source is damaged."""
        raise NotImplementedError

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
        array = tables.plain(series, name, self.place) if arrow else tables.arrow_column(series, name, self.place)
        self.arrays[name] = array
        if arrow:
            self.dtypes[name] = tables.file_dtype(series.type)
            return
        self.dtypes[name] = tables.polars_dtype(series) if polars else tables.pandas_dtype(series, array)
        if self.dtypes[name].startswith("category"):
            self.levels[name] = list(series.cat.categories)
        elif self.dtypes[name] == "Enum":
            self.levels[name] = series.dtype.categories.to_list()
        elif self.dtypes[name] == "Categorical":
            self.levels[name] = sorted(series.unique().drop_nulls().cast(str).to_list(), key=tables.natural)

    def batches(self) -> Iterator[Batch]:
        for start in range(0, self.rows, self.batch):
            yield {name: self.arrays[name].slice(start, self.batch) for name in self.names}


def _open_error(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(f"{path.name} cannot be read: {reason}")


def _bad_bytes(path: Path) -> DataError:
    """Which byte of ``path`` is no UTF-8."""
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            piece = file.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                at = start - pending + error.start
                found = error.object[error.start]
                return DataError(f"{path.name} is not UTF-8 text (byte {found:#04x} at position {at}): save it as UTF-8")
            if not piece:
                return DataError(f"{path.name} holds text that is not UTF-8: save it as UTF-8")
            start += len(piece)


class CsvReader(Reader):
    """A CSV file: comma, semicolon, tab or bar between fields (found by looking), UTF-8, names in the first line."""

    _NEXT: Mapping[str, tuple[pa.DataType, ...]] = {
        # A column that turns out not to be what its first block showed is tried as these, in turn.
        "null": (pa.int64(), pa.float64(), pa.bool_(), pa.string()),
        "int64": (pa.float64(), pa.string()),
    }

    def __init__(
        self, path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None, text: Sequence[str] = ()
    ) -> None:
        super().__init__(path.name, path, only)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                head = file.read(2**18)
        except UnicodeDecodeError:
            raise _bad_bytes(path) from None
        except OSError as error:
            raise _open_error(path, error) from error
        if not head.strip():
            raise DataError(f"{path.name} is empty: expected column names in the first line and rows below")
        self.delimiter = _sniff(head, path.suffix.lower() == ".tsv")
        rows = csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter)
        try:
            header = next((row for row in rows if row), [])
        except csv.Error as error:
            raise _open_error(path, error) from error
        self.skip = rows.line_num
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            if not any(line.strip() for i, line in enumerate(file) if i >= self.skip):
                raise DataError(f"{path.name} has no rows below the names of its columns")
        self.all_names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
        self.names = self._keep(self.all_names, drop)
        self.types: dict[str, pa.DataType] = {name: pa.string() for name in text if name in self.names}
        self.rest: dict[str, list[pa.DataType]] = {}
        self._settle()

    def _open(self) -> Any:
        from pyarrow import csv as arrow_csv

        return arrow_csv.open_csv(
            str(self.path),
            read_options=arrow_csv.ReadOptions(block_size=BLOCK, column_names=self.all_names, skip_rows=self.skip),
            parse_options=arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=self.types,
                include_columns=self.names,
                null_values=MISSING,
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
                strings_can_be_null=True,
            ),
        )

    def _settle(self) -> None:
        """Fix the type of every column by the first block; dates stay text, as they would in pandas."""

        def read() -> None:
            for f in self._guard(self._open).schema:
                kind = f.type
                if pa.types.is_binary(kind):
                    raise _bad_bytes(self._file)
                if f.name not in self.types:
                    self.types[f.name] = kind if tables.family(kind) in ("boolean", "integer", "float", "null") else pa.string()

        settled(read)
        self.dtypes = {name: tables.file_dtype(self.types[name]) for name in self.names}

    @property
    def _file(self) -> Path:
        assert self.path is not None
        return self.path

    def _guard(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except pa.ArrowInvalid as error:
            raise self._explained(error) from error
        except OSError as error:
            raise _open_error(self._file, error) from error

    def _explained(self, error: Exception) -> Exception:
        text = str(error)
        if "UTF8" in text:
            return _bad_bytes(self._file)
        found = re.search(r"column #(\d+): ", text)
        if found and "conversion error" in text:
            name = self.all_names[int(found.group(1))]
            before = self.types.get(name, pa.null())
            if name not in self.rest:
                self.rest[name] = list(self._NEXT.get(str(before), (pa.string(),)))
            if not pa.types.is_string(before) and self.rest[name]:
                self.types[name] = self.rest[name].pop(0)
                self.dtypes[name] = tables.file_dtype(self.types[name])
                return Retyped(name)
        ragged = self._ragged()
        return ragged or _open_error(self._file, error)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The first line (1-based) and the fields of each record, the names left out; slow, for messages only."""
        with self._file.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file, delimiter=self.delimiter)
            line = 1
            for row in rows:
                if row and rows.line_num > self.skip:
                    yield line, row
                line = rows.line_num + 1

    def _ragged(self) -> DataError | None:
        expected = len(self.all_names)
        with contextlib.suppress(csv.Error):
            for line, row in self._records():
                if len(row) != expected:
                    found = f"{len(row)} field{'s' * (len(row) != 1)}"
                    return DataError(f"{self.place}, line {line}: {found}, but the first line names {expected} columns")
        return None

    def row(self, at: int) -> str:
        with contextlib.suppress(csv.Error, OSError):
            for line, _ in itertools.islice(self._records(), at, at + 1):
                return f"row {at + 1} (line {line})"
        return f"row {at + 1}"

    def batches(self) -> Iterator[Batch]:
        reader = self._guard(self._open)
        while True:
            try:
                batch = self._guard(reader.read_next_batch)
            except StopIteration:
                break
            yield {name: tables.plain(batch[name], name, self.place) for name in self.names}


def _sniff(head: str, tabs: bool) -> str:
    """The delimiter that cuts the first lines most evenly into several fields."""
    best, score = "\t" if tabs else ",", 1
    lines = head.splitlines(keepends=True)[:20]
    for delimiter in (best, *[d for d in ",;\t|" if d != best]):
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        # Nearly all lines: one ragged line must not hide the delimiter it breaks.
        even = sum(width == widths[0] for width in widths) >= 0.5 * len(widths) if widths else False
        if even and widths[0] > score:
            best, score = delimiter, widths[0]
    return best


class JsonReader(Reader):
    """A JSON lines file of flat records."""

    def __init__(self, path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        super().__init__(path.name, path, only)
        self.types: dict[str, pa.DataType] = {}
        first = 0
        for chunk in self._chunks():
            table = self._parse(chunk, None, first)
            first += len(table)
            for f in table.schema:
                if f.name not in drop and (only is None or f.name in only):
                    self._merge(f.name, f.type)
                else:
                    self.types.setdefault(f.name, f.type)
        if not first:
            raise DataError(f"{path.name} is empty: expected one JSON object a line")
        self.names = self._keep(list(self.types), drop)
        self.dtypes = {name: tables.file_dtype(self.types[name]) for name in self.names}

    def _merge(self, name: str, kind: pa.DataType) -> None:
        if pa.types.is_nested(kind):
            raise DataError(f"column '{name}' of {self.place} holds nested {kind}: a table needs plain values; drop it")
        if tables.family(kind) not in ("boolean", "integer", "float", "null"):
            kind = pa.string()  # dates too: they are recognised as text and given back as text
        before = self.types.get(name, pa.null())
        if before == kind or pa.types.is_null(kind):
            kind = before
        elif not pa.types.is_null(before):
            if {str(before), str(kind)} != {"int64", "double"}:
                raise DataError(f"column '{name}' of {self.place} changes from {before} to {kind}: make it one type")
            kind = pa.float64()
        self.types[name] = kind

    def _chunks(self) -> Iterator[bytes]:
        assert self.path is not None
        pending = b""
        with self.path.open("rb") as file:
            if file.read(3) != codecs.BOM_UTF8:
                file.seek(0)
            while piece := file.read(BLOCK):
                cut = piece.rfind(b"\n") + 1
                if cut:
                    yield pending + piece[:cut]
                    pending = piece[cut:]
                else:
                    pending += piece
        if pending.strip():
            yield pending

    def _parse(self, chunk: bytes, types: Mapping[str, pa.DataType] | None, first: int) -> pa.Table:
        from pyarrow import json as arrow_json

        if chunk.lstrip()[:1] == b"[":
            raise DataError(f"{self.place} is a JSON list: expected one JSON object a line (JSON lines)")
        schema = pa.schema(list(types.items())) if types else None
        try:
            return arrow_json.read_json(
                io.BytesIO(chunk),
                read_options=arrow_json.ReadOptions(block_size=len(chunk) + 1, use_threads=False),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema),
            )
        except pa.ArrowInvalid as error:
            text = str(error).splitlines()[0]
            text = re.sub(r"in row (\d+)", lambda m: f"in row {int(m.group(1)) + 1 + first}", text)
            raise DataError(f"{self.place} cannot be read: {text}") from error

    def batches(self) -> Iterator[Batch]:
        first = 0
        for chunk in self._chunks():
            table = self._parse(chunk, self.types, first)
            first += len(table)
            yield {name: tables.plain(table[name], name, self.place) for name in self.names}


class ParquetReader(Reader):
    """A Parquet file."""

    def __init__(self, path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        super().__init__(path.name, path, only)
        schema = self._open().schema_arrow
        index = [name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)]
        self.names = self._keep([name for name in schema.names if name not in index], drop)
        self.dtypes = {name: tables.file_dtype(schema.field(name).type) for name in self.names}
        if index:
            self.notes.append("the frame's own row index, stored in the file, is left out")

    def _open(self) -> Any:
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(str(self.path), pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            assert self.path is not None
            raise _open_error(self.path, error) from error

    def batches(self) -> Iterator[Batch]:
        try:
            for batch in self._open().iter_batches(batch_size=self.batch, columns=self.names):
                yield {name: tables.plain(batch[name], name, self.place) for name in self.names}
        except (pa.ArrowInvalid, OSError) as error:
            assert self.path is not None
            raise _open_error(self.path, error) from error


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
                self.dtypes[f.name] = "str" if names else tables.file_dtype(f.type)
                if names:
                    self.classes[f.name] = self.levels[f.name] = list(names)

    def batches(self) -> Iterator[Batch]:
        for start in range(0, len(self.dataset), self.batch):
            table = self.dataset[start : start + self.batch]
            yield {name: _named(table[name], name, self.classes.get(name), self.place) for name in self.names}


def _named(array: Any, name: str, classes: Sequence[str] | None, place: str) -> pa.Array:
    array = tables.plain(array, name, place)
    if not classes:
        return array
    index = array.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(float)
    unknown = ~((index >= 0) & (index < len(classes)))  # -1 stands for no label
    return pa.array(list(classes), pa.large_string()).take(pa.array(np.where(unknown, 0, index).astype(int), mask=unknown))


def file_reader(path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None, text: Sequence[str] = ()) -> Reader:
    """The reader of a .csv, .tsv, .jsonl or .parquet file, of all columns but ``drop`` or of those among ``only``.

    ``text`` are columns of a CSV file to read as text.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return CsvReader(path, drop, only, text)
    return ParquetReader(path, drop, only) if suffix in (".parquet", ".pq") else JsonReader(path, drop, only)


# ---------------------------------------------------------------------------------------------------------------- stores


def cache_folder() -> Path:
    """Where converted files are kept."""
    given = os.environ.get("PUSHFORWARD_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "pushforward") / "arrow"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()[:16]


def arrow_file(reader: Reader) -> Path:
    """The Arrow copy of the reader's file, made where it is not there yet. One record batch is held at a time."""
    assert reader.path is not None
    path = reader.path.resolve()
    status = path.stat()
    prefix = f"{_digest(path)}-"
    state = f"{prefix}{_digest(FORMAT, status.st_mtime_ns, status.st_size)}-"
    folder = cache_folder()
    target = folder / f"{state}{_digest(reader.names, sorted(reader.dtypes.items()))}.arrow"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{prefix}*.arrow"):
        if not old.name.startswith(state):  # a copy of the file as it was once
            with contextlib.suppress(OSError):
                old.unlink()
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".arrow-")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(reader, file)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return target


def _write(reader: Reader, file: Any) -> None:
    writer = None
    for batch in reader.batches():
        record = pa.record_batch([batch[name] for name in reader.names], names=reader.names)
        if writer is None:
            writer = pa.ipc.new_stream(file, record.schema)
        for start in range(0, len(record), CHUNK):
            writer.write_batch(record.slice(start, CHUNK))
    if writer is not None:
        writer.close()


@dataclass(frozen=True)
class ArrowStore:
    """Rows in an Arrow table mapped into memory (a ``datasets.Dataset``); those asked for are fetched and encoded.

    ``learned`` are the columns of ``x``, ``side`` those given apart; ``classes`` the names of class labels.
    """

    dataset: Any
    learned: tuple[Column, ...]
    side: tuple[Column, ...] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    place: str = "the data"
    holes: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, index: np.ndarray) -> Rows:
        """Codes of the rows at ``index``: x float64 (B, len(learned)) and columns {name: (B,)}."""
        index = np.asarray(index, dtype=np.int64)
        dataset = self.dataset.with_format("arrow")
        blocks = index // CHUNK
        present = np.unique(blocks)
        if len(index) < DENSE * len(present):
            codes = self._encode(dataset[index])
        else:
            # Rows that lie close together: whole blocks are sliced without copying, much faster than row by row.
            codes = np.empty((len(index), len(self.learned) + len(self.side)))
            for block in present.tolist():
                at = np.flatnonzero(blocks == block) if len(present) > 1 else np.arange(len(index))
                local = index[at] - block * CHUNK
                low, high = int(local.min()), int(local.max()) + 1
                piece = self._encode(dataset[block * CHUNK + low : block * CHUNK + high])
                codes[at] = piece[local - low]
        split = len(self.learned)
        x = torch.from_numpy(np.ascontiguousarray(codes[:, :split]))
        return Rows(x, {c.name: torch.from_numpy(codes[:, split + i].copy()) for i, c in enumerate(self.side)})

    def _encode(self, table: pa.Table) -> np.ndarray:
        columns = (*self.learned, *self.side)
        batch = {c.name: _named(table[c.name], c.name, self.classes.get(c.name), self.place) for c in columns}
        return tables.encode(columns, batch, place=self.place, holes=self.holes)

    def with_columns(self, learned: Sequence[Column], side: Sequence[Column]) -> ArrowStore:
        """The same rows with other columns in ``x`` and apart."""
        return replace(self, learned=tuple(learned), side=tuple(side))


class Held:
    """A reader's batches, kept while they pass for the first time as long as they take at most ``limit`` bytes."""

    def __init__(self, reader: Reader, limit: int) -> None:
        self.reader, self.limit = reader, limit
        self.kept: list[Batch] | None = None

    def first(self) -> Iterator[Batch]:
        """All rows, read from the source."""
        kept: list[Batch] | None = []
        size = 0
        for batch in self.reader.batches():
            if kept is not None:
                size += sum(array.nbytes for array in batch.values())
                kept.append(batch)
                if size > self.limit:
                    kept = None
            yield batch
        self.kept = kept

    def again(self) -> Iterator[Batch]:
        """All rows, from memory where they were kept."""
        return iter(self.kept) if self.kept is not None else self.reader.batches()


def store(held: Held, columns: Sequence[Column], rows: int, limit: int, holes: bool = False, check: bool = False) -> Store:
    """A store of the learned ``columns``: in memory where their codes take at most ``limit`` bytes, mapped otherwise.

    ``check`` has every row encoded here even if it is mapped, so that one that does not fit the columns is found at once.
    Raises DataError with its place.
    """
    reader = held.reader
    if rows * len(columns) * 8 > limit:
        if check:
            _check(held, columns, holes)
        return _mapped(held, columns, holes)

    def encode() -> Store:
        x = np.empty((rows, len(columns)))
        first = 0
        for batch in held.again():
            codes = tables.encode(columns, batch, first=first, place=reader.place, holes=holes)
            x[first : first + len(codes)] = codes
            first += len(codes)
        return TensorStore(torch.from_numpy(x))

    return settled(encode)


def _check(held: Held, columns: Sequence[Column], holes: bool) -> None:
    first = 0
    for batch in held.again():
        first += len(tables.encode(columns, batch, first=first, place=held.reader.place, holes=holes))


def _mapped(held: Held, columns: Sequence[Column], holes: bool) -> ArrowStore:
    import datasets
    from datasets.table import InMemoryTable

    reader, classes = held.reader, {}
    if isinstance(reader, DatasetReader):
        dataset, classes = reader.dataset, reader.classes
    elif isinstance(reader, FrameReader):
        dataset = datasets.Dataset(InMemoryTable(pa.table(reader.arrays)))
    else:
        dataset = datasets.Dataset.from_file(str(settled(lambda: arrow_file(reader))))
    return ArrowStore(dataset, tuple(columns), classes=classes, place=reader.place, holes=holes)
