"""``open_like``: new data under a schema already learned; ``decode``: codes back into the user's types."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Part, Points, Schema, Signal, Table, Tokens, Vector
from pushforward.data import arrays, captions, dtypes, stream, tables
from pushforward.data.bounds import check_vectors
from pushforward.data.dataset import Data, Store, TensorStore
from pushforward.data.hub import splits
from pushforward.data.readers import settled
from pushforward.data.recognise import ARRAYS, MEMORY, existing, is_frame, is_hub, is_texts, no_such
from pushforward.data.roles import role_columns, tensor_store
from pushforward.data.sources import open_data, open_raw
from pushforward.data.tabular import reader_of

_REAL = (Vector, Signal, Points)  # kinds whose codes are the numbers of an array


def open_like(
    source: Any,
    schema: Schema,
    *,
    need_target: bool = False,
    holes: bool = False,
    resize: int | tuple[int, int] | None = None,
    name: str | None = None,
    memory_limit: int = MEMORY,
) -> Data:
    """New data under ``schema``, checked against it: any source that ``open_data`` takes.

    Columns are matched by name; further ones are ignored, identifiers and constants may be absent, and so may the target
    unless ``need_target``. ``holes`` lets any value of the example be missing: its code is then NaN. Codes of conditions
    and target are in ``Rows.columns``; those of conditions made from the example are not. Raises DataError for missing
    columns, values and levels that were never seen (with row and column), and wrong shapes (found and expected).
    """
    held = [c for c in schema.conditions if not (isinstance(c, Part) and c.made)]
    wanted = (*held, *((schema.target,) if schema.target else ()))
    needed = {c.name for c in held} | ({schema.target.name} if schema.target and need_target else set())
    if isinstance(schema.example, Table):
        data = _like_table(source, schema, schema.example, wanted, needed, holes, name, memory_limit)
    else:
        data = _like_tensor(source, schema, wanted, needed, holes, resize, name)
    return replace(data, name=name) if name else data


def _like_table(
    source: Any,
    schema: Schema,
    kind: Table,
    roles: Sequence[Column | Part],
    needed: Collection[str],
    holes: bool,
    name: str | None,
    memory_limit: int,
) -> Data:
    asked: tuple[Column | Part, ...] = (*kind.learned, *roles)
    place = name or "the new data"
    note: tuple[str, ...] = ()
    origin: Any = None
    if isinstance(source, Data) or (isinstance(source, str) and existing(source) is None):
        given = source if isinstance(source, Data) else open_data(source)
        if not isinstance(given.schema.example, Table):
            raise DataError(f"{given.name} is of kind {given.schema.example.name}: expected a table with the learned columns")
        rows = given.rows()
        source, place, origin = decode(given.schema, rows.x, rows.columns), given.name, given.origin
    if is_hub(source):
        source, _, note = splits(source, place)
    text = [c.name for c in asked if isinstance(c, Part) or dtypes.is_text(c)]
    reader = reader_of(source, place, only={c.name for c in asked}, text=text)
    if reader is None:
        if isinstance(source, (str, Path)) and existing(source) is None:
            raise no_such(source)
        what = f"{source} is no table file" if isinstance(source, (str, Path)) else f"{place} is a {type(source).__name__}"
        raise DataError(f"{what}: expected a table with columns {_names(asked)}")
    if reader.path:
        place, origin = reader.path.stem, str(reader.path)
    have = set(reader.names)
    absent = [c for c in asked if c.name not in have and (c in kind.learned or c.name in needed)]
    if absent:
        raise DataError(f"{reader.place} lacks the columns {_names(absent)}, which were learned")
    texts = [c for c in roles if c.name in have and isinstance(c, Part)]
    side = [c for c in roles if c.name in have and isinstance(c, Column)]
    columns = [*kind.learned, *side]
    reader.names = [*(c.name for c in columns), *(c.name for c in texts)]
    held = stream.Held(reader, memory_limit)
    count = settled(lambda: sum(len(next(iter(batch.values()))) for batch in held.first()))
    if not count:
        raise DataError(f"{reader.place} has no rows")
    store = stream.store(held, columns, count, memory_limit, holes=holes, check=True)
    if isinstance(store, stream.ArrowStore):
        if texts:
            raise DataError(f"{reader.place} stays on disk, where conditions cannot be texts: give fewer rows at a time")
        store = store.with_columns(kind.learned, side)
    else:
        assert isinstance(store, TensorStore)
        store = tensor_store({c.name: store.x[:, i] for i, c in enumerate(columns)}, kind.learned, side)
        for part in texts:
            values = [value for batch in settled(lambda: list(held.again())) for value in batch[part.name].to_pylist()]
            assert isinstance(part.kind, Tokens)
            store.columns[part.name] = captions.encode(part.kind, values, f"'{part.name}' of {reader.place}")
    return Data.of(schema, store, name=place, notes=note, origin=origin)


def identified(frame: Any, source: Any, schema: Schema) -> Any:
    """``frame``, decoded rows of the table ``source``, whose identifying columns are as they are there."""
    kind = schema.example
    wanted = [c for c in kind.columns if c.kind is ColumnKind.IDENTIFIER] if isinstance(kind, Table) else []
    if not wanted or isinstance(source, Data):
        return frame
    source = splits(source, "the data")[0] if is_hub(source) else source
    reader = reader_of(source, "the data", only={c.name for c in wanted}, text=[c.name for c in wanted if dtypes.is_text(c)])
    if reader is None or not reader.names:
        return frame
    batches = settled(lambda: list(reader.batches()))
    for name in reader.names:
        values = [value for batch in batches for value in batch[name].to_pylist()]
        at = [str(label) for label in frame.columns].index(name)
        if hasattr(frame, "isetitem"):
            frame.isetitem(at, values)
        else:
            frame.replace_column(at, type(frame[name])(name, values, strict=False))
    return frame


def _names(columns: Sequence[Column | Part]) -> str:
    return ", ".join(f"'{c.name}'" for c in columns)


def _like_tensor(
    source: Any,
    schema: Schema,
    roles: Sequence[Column | Part],
    needed: Collection[str],
    holes: bool,
    resize: Any,
    name: str | None,
) -> Data:
    """New data that are no table."""
    kind, place = schema.example, name or "the new data"
    origin: Any = None
    path = existing(source) if isinstance(source, (str, Path)) else None
    if path is not None:
        place, origin = path.stem, str(path)
    if is_frame(source) or (is_hub(source) and isinstance(kind, _REAL)):
        raise DataError(f"{place} is a table: expected {_expected(kind)}")
    found: dict[str, tuple[Column | Part | None, Any]] = {}  # side columns, as codes under a column or as plain values
    values: Any = None
    if isinstance(source, (np.ndarray, Tensor)) or (isinstance(source, (list, tuple)) and not isinstance(kind, _REAL)):
        values = source
    elif path is not None and path.suffix.lower() in ARRAYS:
        values, labels, rate = arrays.read_file(path, [c.name for c in roles])
        _same_rate(kind, rate, place)
        found = {key: (None, value) for key, value in labels.items()}
    elif isinstance(source, Mapping) and not is_hub(source):
        values, labels, rate = arrays.pick(source, place, [c.name for c in roles])
        _same_rate(kind, rate, place)
        found = {key: (None, value) for key, value in labels.items()}
    elif isinstance(source, torch.utils.data.Dataset) and not is_hub(source):
        values, labels = arrays.read_dataset(source, place)
        found = {key: (None, value) for key, value in labels.items()}
    store: Store
    if values is not None:
        store = TensorStore(_encode(kind, values, place, holes))
    else:
        given = _reopened(source, kind, path, resize)
        place, origin = name or given.name, given.origin
        store, found = _recast(given, kind, place)
    side: dict[str, Tensor] = {}
    for column in roles:
        if column.name in found:
            old, raw = found[column.name]
            side[column.name] = raw if old == column else _recoded(column, old, raw, place)
            if len(side[column.name]) != len(store):
                rows = f"{len(side[column.name])} rows: expected {len(store)}, as the examples"
                raise DataError(f"'{column.name}' of {place} has {rows}")
        elif column.name in needed:
            raise DataError(f"{place} lacks the column '{column.name}', which was learned")
    if any(f.name == "columns" for f in dataclasses.fields(store)):  # type: ignore[arg-type]
        store = replace(store, columns=side)  # type: ignore[type-var]
    if not len(store):
        raise DataError(f"{place} has no rows")
    data = Data.of(schema, store, name=place, origin=origin)
    if isinstance(kind, Vector):
        check_vectors(data, kind)
    return data


def _recoded(column: Column | Part, old: Column | Part | None, raw: Any, place: str) -> Tensor:
    """Codes of ``column`` for values, or for the codes that they have as the column ``old``."""
    from pushforward.data import sides

    if isinstance(old, Part):
        raw = sides.decode(old, raw)
    elif old is not None:
        raw = tables.decode_column(old, raw)
    if isinstance(column, Part):
        return sides.encode(column, raw, place)
    return torch.from_numpy(tables.encode_column(column, raw, place=place))


def _expected(kind: Kind) -> str:
    if isinstance(kind, Vector):
        return f"an array (N, {kind.length})"
    if isinstance(kind, Image):
        return f"images of {kind.channels} channels, {kind.height}×{kind.width} (height×width)"
    if isinstance(kind, Signal):
        return f"signals of {kind.channels} channel{'s' if kind.channels > 1 else ''} and {kind.length} samples"
    if isinstance(kind, Points):
        return f"sets of {kind.count} points in {kind.dims} dimensions"
    return f"texts of {kind.shape[0]} characters"


def _same_rate(kind: Kind, rate: int | None, place: str) -> None:
    known = kind.rate if isinstance(kind, Signal) else None
    if known is not None and rate is not None and rate != known:
        raise DataError(f"{place} has {rate} samples a second: the model has learned {known}; resample it")


def _encode(kind: Kind, values: Any, place: str, holes: bool) -> Tensor:
    """Codes of new arrays, images or texts. The caller's values are copied."""
    from pushforward.data import images, points, signals, text

    if isinstance(kind, Signal):
        return signals.encode(kind, values, place, holes)
    if isinstance(kind, Points):
        return points.encode(kind, values, place, holes)
    if isinstance(kind, Vector):
        found, _ = arrays.vectors(values, place, kind.length, holes)
        return torch.from_numpy(np.array(found, dtype=np.float64))
    try:
        if isinstance(kind, Image):
            return images.encode(kind, values)
        assert isinstance(kind, Tokens)
        if not is_texts(values):
            raise DataError(f"found {type(values).__name__}: expected {_expected(kind)}")
        return text.encode(kind, list(values))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _reopened(source: Any, kind: Kind, path: Path | None, resize: Any) -> Data:
    """``source`` opened on its own terms, as near to ``kind`` as its options allow."""
    if isinstance(source, Data):
        return source
    if isinstance(kind, Image) and path is not None and path.is_dir():
        from pushforward.data import folders

        return folders.open_folder(path, resize=resize, grey={1: True, 3: False}.get(kind.channels))
    if isinstance(kind, Signal) and path is not None and path.is_dir():
        from pushforward.data import signals

        return signals.open_recordings(path, like=kind)
    length = kind.length if isinstance(kind, (Tokens, Signal)) else kind.count if isinstance(kind, Points) else None
    return open_raw(source, types=None, drop=(), resize=resize, length=length, name=None, memory_limit=MEMORY)


def _recast(given: Data, kind: Kind, place: str) -> tuple[Store, dict[str, tuple[Column | Part | None, Any]]]:
    """The rows of ``given`` as codes of ``kind``, and its side columns. Raises DataError where they do not fit."""
    from pushforward.data import images, text

    other = given.schema.example
    if type(other) is not type(kind) or (not isinstance(kind, Tokens) and other.shape != kind.shape):
        found = _expected(other) if not isinstance(other, Table) else "a table"
        raise DataError(f"{place} holds {found}: expected {_expected(kind)}")
    _same_rate(kind, getattr(other, "rate", None), place)
    whole = len(given.index) == len(given.store) and bool((given.index == np.arange(len(given.store))).all())
    rows = None
    if whole and (other == kind or isinstance(kind, _REAL)):
        store = given.store
        columns = dict(getattr(store, "columns", {}))
    else:
        rows = given.rows()
        x, columns = rows.x, rows.columns
        if isinstance(kind, Image) and isinstance(other, Image) and other.levels != kind.levels:
            x = images.encode(kind, x.numpy() / (other.levels - 1))
        elif isinstance(kind, Tokens) and isinstance(other, Tokens) and other != kind:
            try:
                x = text.encode(kind, text.decode(other, x))
            except DataError as error:
                raise DataError(f"{place}: {error}") from error
        store = TensorStore(x)
    known = {c.name: c for c in role_columns(given.schema)}
    return store, {n: (known[n], codes) for n, codes in columns.items() if n in known}


def decode(schema: Schema, x: Tensor, columns: Mapping[str, Tensor] | None = None) -> Any:
    """Codes x (B, *schema.example.shape) in the user's own types.

    A table is a DataFrame of the container it came in, with its column order and types; condition and target columns are
    there where ``columns`` {name: (B,)} holds their codes. Constants come back, identifiers are numbered on from the
    largest seen. Vectors, signals and points are arrays or tensors of their dtype, images uint8 arrays, tokens strings.
    """
    kind = schema.example
    if tuple(x.shape[1:]) != kind.shape:
        raise DataError(f"found codes of shape {tuple(x.shape)}: expected {('B', *kind.shape)}")
    x = x.detach().cpu()
    if isinstance(kind, _REAL):
        return _real(kind, x[:, 0] if isinstance(kind, Signal) and kind.flat else x)
    if isinstance(kind, Table):
        return _frame(schema, kind, x, columns or {})
    from pushforward.data import images, text

    return images.decode(kind, x) if isinstance(kind, Image) else text.decode(kind, x)  # type: ignore[arg-type]


def _real(kind: Vector | Signal | Points, x: Tensor) -> Any:
    """Numbers in the container and type of the user's; whole ones rounded, and no further than the type goes."""
    name = kind.dtype
    dtype: Any = getattr(torch, name, None) if kind.container == "torch" else np.dtype(name)
    if name == "bool" or "int" in name:
        ends = (0, 1) if name == "bool" else (np.iinfo(name).min, np.iinfo(name).max)
        x = x.round().clamp(*ends)
    if kind.container == "torch":
        return x.to(dtype).clone()
    return np.array(x.numpy()).astype(dtype)


def _frame(schema: Schema, kind: Table, x: Tensor, columns: Mapping[str, Tensor]) -> Any:
    codes: dict[str, Any] = {c.name: x[:, i].numpy() for i, c in enumerate(kind.learned)}
    shown = list(kind.columns)
    for column in (*schema.conditions, *((schema.target,) if schema.target else ())):
        if column.name in columns and isinstance(column, Column):
            codes[column.name] = columns[column.name].detach().cpu().numpy()
            shown.append(column)
    order = {name: i for i, name in enumerate(schema.extra.get("order", ()))}
    shown.sort(key=lambda c: order.get(c.name, len(order)))
    frame = tables.decode(shown, codes, len(x), kind.container)
    for part in schema.conditions:
        if isinstance(part, Part) and isinstance(part.kind, Tokens) and part.name in columns:
            texts = captions.decode(part.kind, columns[part.name].detach().cpu())
            if kind.container == "polars":
                frame = frame.with_columns(type(frame[frame.columns[0]])(part.name, texts))
            else:
                frame[part.name] = texts
    if schema.extra.get("names") == "integer" and kind.container == "pandas":
        frame.columns = [int(name) for name in frame.columns]
    return frame
