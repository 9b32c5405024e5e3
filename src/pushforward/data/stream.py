"""Where table rows are kept: in memory, or, where they are too many, in ``ArrowStore``.

A file that is too large is copied once, batch by batch, into an Arrow file in the cache (``PUSHFORWARD_CACHE``, by default
``~/.cache/pushforward``), which the ``datasets`` library maps into memory: rows are fetched and encoded when asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pushforward.core.schema import Column
from pushforward.data import tables
from pushforward.data.dataset import Rows, Store, TensorStore
from pushforward.data.readers import Batch, DatasetReader, FrameReader, Reader, named, settled

FORMAT = 1  # of the cache; copies of another one are made anew
CHUNK = 4_096  # rows of a record batch in the cache: random access reads whole ones
DENSE = 64  # rows wanted of a block from which on the whole block is read


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
        batch = {c.name: named(table[c.name], c.name, self.classes.get(c.name), self.place) for c in columns}
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
