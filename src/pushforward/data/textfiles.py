"""Tables in text files: CSV, TSV and JSON lines, whose types are guessed from the first rows and settled as more are read."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pushforward.core.errors import DataError
from pushforward.data import dtypes
from pushforward.data.readers import Batch, Reader, Retyped, T, open_error, settled

BLOCK = 4 * 2**20  # bytes of text parsed at a time
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "null", "NULL", "Null", "None", "<NA>"]


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
            raise open_error(path, error) from error
        if not head.strip():
            raise DataError(f"{path.name} is empty: expected column names in the first line and rows below")
        self.delimiter = _sniff(head, path.suffix.lower() == ".tsv")
        rows = csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter)
        try:
            header = next((row for row in rows if row), [])
        except csv.Error as error:
            raise open_error(path, error) from error
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
                    self.types[f.name] = kind if dtypes.family(kind) in ("boolean", "integer", "float", "null") else pa.string()

        settled(read)
        self.dtypes = {name: dtypes.file_dtype(self.types[name]) for name in self.names}

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
            raise open_error(self._file, error) from error

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
                self.dtypes[name] = dtypes.file_dtype(self.types[name])
                return Retyped(name)
        ragged = self._ragged()
        return ragged or open_error(self._file, error)

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
            yield {name: dtypes.plain(batch[name], name, self.place) for name in self.names}


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
        self.dtypes = {name: dtypes.file_dtype(self.types[name]) for name in self.names}

    def _merge(self, name: str, kind: pa.DataType) -> None:
        if pa.types.is_nested(kind):
            raise DataError(f"column '{name}' of {self.place} holds nested {kind}: a table needs plain values; drop it")
        if dtypes.family(kind) not in ("boolean", "integer", "float", "null"):
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
            yield {name: dtypes.plain(table[name], name, self.place) for name in self.names}
