"""Table sources: frames, Arrow tables, ``datasets.Dataset`` and table files, by the reader of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pushforward.core.errors import DataError
from pushforward.core.schema import Schema, Table
from pushforward.data import infer, stream
from pushforward.data.dataset import Data
from pushforward.data.readers import DatasetReader, FrameReader, ParquetReader, Reader, settled
from pushforward.data.recognise import MEMORY, TABLES, existing, is_frame, is_hub, no_such
from pushforward.data.textfiles import CsvReader, JsonReader


def file_reader(path: Path, drop: Sequence[str] = (), only: Collection[str] | None = None, text: Sequence[str] = ()) -> Reader:
    """The reader of a .csv, .tsv, .jsonl or .parquet file, of all columns but ``drop`` or of those among ``only``.

    ``text`` are columns of a CSV file to read as text.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return CsvReader(path, drop, only, text)
    return ParquetReader(path, drop, only) if suffix in (".parquet", ".pq") else JsonReader(path, drop, only)


def reader_of(
    source: Any, place: str, drop: Sequence[str] = (), only: Collection[str] | None = None, text: Sequence[str] = ()
) -> Reader | None:
    """The reader of a source of table rows, None where it is none."""
    if is_frame(source):
        return FrameReader(source, place, drop, only)
    if isinstance(source, (str, Path)):
        path = existing(source)
        if path is not None and path.is_file() and path.suffix.lower() in TABLES:
            return file_reader(path, drop, only, text)
        return None
    if is_hub(source) and hasattr(source, "select_columns") and hasattr(source, "features"):
        return DatasetReader(source, place, drop, only)
    return None


def open_table(
    source: Any,
    *,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    name: str | None = None,
    memory_limit: int = MEMORY,
) -> Data:
    """A frame, Arrow table, ``datasets.Dataset`` or table file as ``Data`` whose columns are all in the example.

    Raises DataError where it cannot be read or typed.
    """
    reader = reader_of(source, name or "the table", drop)
    if reader is None:
        raise no_such(source) if isinstance(source, (str, Path)) else DataError(f"a {type(source).__name__} is no table")
    held = stream.Held(reader, memory_limit)

    def read() -> infer.Inference:
        return infer.infer_columns(
            held.first(),
            types,
            names=reader.names,
            dtypes=reader.dtypes,
            levels=reader.levels,
            place=reader.place,
            row=reader.row,
        )

    found = settled(read)
    learned = [c for c in found.columns if c.learned]
    if not learned:
        raise DataError(f"{reader.place} has nothing to learn: all its columns are constants or identify rows")
    extra: dict[str, Any] = {"order": list(reader.names), "missing": found.missing}
    if not reader.plain_names:
        extra["names"] = "integer"
    schema = Schema(Table(found.columns, reader.container), extra=extra)
    store = stream.store(held, learned, found.rows, memory_limit)
    origin = str(reader.path) if reader.path else None
    title = name or (reader.path.stem if reader.path else "data")
    return Data.of(schema, store, name=title, notes=(*reader.notes, *found.notes), origin=origin)
