"""``open_data``: anything the user has, as ``Data``; ``open_like``: new data under a schema already learned; ``decode``:
codes back into the user's types."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Column, Image, Kind, Schema, Table, Tokens, Vector
from pushforward.data import arrays, infer, stream, tables
from pushforward.data.dataset import Data, Store, TensorStore

MEMORY = 2 * 1024**3
TABLES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson", ".json")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*TABLES, *ARRAYS, ".txt")


# ----------------------------------------------------------------------------------------------------- what a source is


def _is_frame(source: Any) -> bool:
    """Whether ``source`` is a pandas or polars frame or an Arrow table, without importing what is not imported yet."""
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(source).__mro__}
    frames = {("pandas", "DataFrame"), ("polars", "DataFrame"), ("polars", "LazyFrame")}
    return bool(kinds & (frames | {("pyarrow", "Table"), ("pyarrow", "RecordBatch")}))


def _is_hub(source: Any) -> bool:
    """Whether ``source`` is of the ``datasets`` library."""
    return any(cls.__module__.split(".")[0] == "datasets" for cls in type(source).__mro__)


def _is_texts(source: Any) -> bool:
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(item, str) for item in source)


def _existing(source: str | Path) -> Path | None:
    """The file or folder that ``source`` names, None where there is none."""
    try:
        path = Path(source).expanduser()
        return path if str(source) and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _hub_name(source: Any) -> bool:
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None
        and Path(source).suffix.lower() not in SUFFIXES
    )


def _absent(source: str | Path) -> DataError:
    """What to say of a name that is nothing."""
    from pushforward.data import bundled

    path, shown = Path(source), "".join(c if c.isprintable() else "?" for c in str(source)[:200])
    if isinstance(source, Path) or path.suffix.lower() in SUFFIXES or "/" in str(source) or "\\" in str(source):
        folder = path.expanduser().parent
        near = ""
        if folder.is_dir():
            hint = did_you_mean(path.name, sorted(p.name for p in folder.iterdir()))
            near = f": {hint}" if hint.startswith("did you mean") else f" (the folder {folder} is there)"
        return DataError(f"there is no file or folder '{shown}'{near}")
    return DataError(f"'{shown}' is neither a file nor a bundled data set: {did_you_mean(str(source), bundled.NAMES)}")


def _from_hub(name: str) -> Any:
    from pushforward.data import bundled

    try:
        import datasets

        return datasets.load_dataset(name)
    except Exception as error:  # many kinds: no network, no such name, a script, a gated set
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = did_you_mean(name, bundled.NAMES)
        raise DataError(
            f"'{name}' is neither a file nor a bundled data set ({hint}), "
            f"and it could not be fetched from the Hugging Face hub, which could not be reached or does not have it ({reason})"
        ) from error


# -------------------------------------------------------------------------------------------------------------- opening


def open_data(
    source: Any,
    *,
    target: str | None = None,
    condition: str | Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    length: int = 64,
    name: str | None = None,
    memory_limit: int = MEMORY,
) -> Data:
    """Anything as ``Data``; the caller's objects are never changed.

    ``source``: a pandas or polars DataFrame, an Arrow table, a ``datasets.Dataset``; a numpy array or torch tensor; a
    torch dataset of tensors or (tensor, label) pairs; a list of texts; a file (.csv, .tsv, .parquet, .jsonl, .npy, .npz,
    .txt); a folder of images or of .txt files; the name of a bundled data set or of one on the Hugging Face hub
    ("user/name"); or ``Data``, whose roles are then set.

    ``target`` and ``condition`` name columns that are taken out of the example: what a predictor predicts, and what a
    model is conditioned on. ``types`` {column: number, integer, category, boolean, date or identifier} overrides what is
    inferred, ``drop`` leaves columns out (tables only). ``resize`` is the side of images in pixels or (height, width),
    ``length`` the number of characters of a text. A table whose codes take more than ``memory_limit`` bytes stays on
    disk. Raises DataError, in one line, for anything that cannot be read.
    """
    data = _open(source, types=types, drop=_listed(drop), resize=resize, length=length, name=name, memory_limit=memory_limit)
    if name is not None:
        data = replace(data, name=name)
    return assign_roles(data, target, condition)


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _open(
    source: Any,
    *,
    types: Mapping[str, str] | None,
    drop: Sequence[str],
    resize: Any,
    length: int,
    name: str | None,
    **rest: Any,
) -> Data:
    def tabular(reader: Any) -> Data:
        return open_table(reader, types=types, drop=drop, name=name, **rest)

    if _is_frame(source):
        return tabular(source)
    if _is_hub(source):
        return _open_hub(source, types=types, drop=drop, resize=resize, length=length, name=name or "data", **rest)
    path = _existing(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.is_file() and path.suffix.lower() in TABLES:
        return tabular(path)
    if path is None and isinstance(source, (str, Path)):
        from pushforward.data import bundled

        if source in bundled.NAMES:
            data = bundled.open_bundled(str(source), resize=resize, length=length, types=types)
            return _dropped(data, drop) if drop else data
        if not _hub_name(source):
            raise _absent(source)
        fetched = _from_hub(str(source))
        return _open_hub(fetched, types=types, drop=drop, resize=resize, length=length, name=str(source), **rest)
    if isinstance(source, Data):
        _only_tables(types, drop, source.name)
        return source
    _only_tables(types, drop, str(source) if path else "this source")
    if path is not None:
        return _open_path(path, resize, length, rest["memory_limit"])
    if _is_texts(source):
        from pushforward.data import text

        return text.open_text(list(source), length=length)
    place = name or "data"
    if isinstance(source, (np.ndarray, Tensor)):
        return _resized(arrays.open_array(source, name=place), resize)
    if isinstance(source, torch.utils.data.Dataset):
        values, labels = arrays.read_dataset(source, place)
        return _resized(arrays.open_array(values, labels, name=place), resize)
    raise DataError(
        f"a {type(source).__name__} is no data: "
        "pass a DataFrame, an array, a tensor, a dataset, a list of texts, a path or a name"
    )


def _only_tables(types: Any, drop: Any, what: str) -> None:
    if types or drop:
        raise DataError(f"{'types' if types else 'drop'} is for tables that are read here, which {what} is not")


def _dropped(data: Data, drop: Sequence[str]) -> Data:
    """A table without the columns ``drop``. Raises DataError for an unknown column and where none is left to learn."""
    kind = data.schema.example
    if not isinstance(kind, Table):
        raise DataError(f"{data.name} is no table: drop does not apply")
    names = [c.name for c in kind.columns]
    for name in drop:
        if name not in names:
            raise DataError(f"{data.name} has no column '{name}' to drop: {did_you_mean(name, names)}")
    kept = tuple(c for c in kind.columns if c.name not in drop)
    if not any(c.learned for c in kept):
        raise DataError(f"{data.name} has no column left to learn")
    extra = dict(data.schema.extra)
    extra["order"] = [name for name in names if name not in drop]
    extra["missing"] = {name: n for name, n in extra.get("missing", {}).items() if name not in drop}
    schema = replace(data.schema, example=replace(kind, columns=kept), extra=extra)
    notes = tuple(note for note in data.notes if not any(f"'{name}'" in note for name in drop))
    return replace(data, schema=schema, store=_arranged(data, [c for c in kept if c.learned], []), notes=notes)


def _resized(data: Data, resize: Any) -> Data:
    if resize is None or not isinstance(data.schema.example, Image):
        return data
    from pushforward.data import images

    return images.resized(data, resize)


def _open_path(path: Path, resize: Any, length: int, memory_limit: int) -> Data:
    """A file or folder that is no table."""
    from pushforward.data import images, text

    suffix = path.suffix.lower()
    if path.is_dir():
        return text.open_text(path, length=length) if _has_text(path) else images.open_folder(path, resize=resize)
    if suffix == ".txt":
        return text.open_text(path, length=length)
    if suffix in ARRAYS:
        values, labels = arrays.read_file(path)
        data = arrays.open_array(values, labels, name=path.name, memory_limit=memory_limit, origin=str(path))
        return replace(_resized(data, resize), name=path.stem)
    if suffix in images.SUFFIXES:
        raise DataError(f"{path.name} is one image: pass the folder that holds it")
    raise DataError(f"{path.name} has the unknown ending '{suffix}': expected {', '.join(SUFFIXES)} or a folder")


def _has_text(folder: Path) -> bool:
    """Whether a folder holds .txt files and no images in the same places."""
    from pushforward.data import images

    found = {p.suffix.lower() for p in folder.iterdir() if p.is_file()}
    deep = any(p.is_dir() for p in folder.iterdir())
    if not found & {".txt", *images.SUFFIXES} and deep:
        found = {p.suffix.lower() for p in folder.rglob("*") if p.is_file()}
    return ".txt" in found and not found & set(images.SUFFIXES)


def _reader(
    source: Any, place: str, drop: Sequence[str] = (), only: Collection[str] | None = None, text: Sequence[str] = ()
) -> stream.Reader | None:
    """The reader of a source of table rows, None where it is none."""
    if _is_frame(source):
        return stream.FrameReader(source, place, drop, only)
    if isinstance(source, (str, Path)):
        path = _existing(source)
        if path is not None and path.is_file() and path.suffix.lower() in TABLES:
            return stream.file_reader(path, drop, only, text)
        return None
    if _is_hub(source) and hasattr(source, "select_columns") and hasattr(source, "features"):
        return stream.DatasetReader(source, place, drop, only)
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
    reader = _reader(source, name or "the table", drop)
    if reader is None:
        raise _absent(source) if isinstance(source, (str, Path)) else DataError(f"a {type(source).__name__} is no table")
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

    found = stream.settled(read)
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


# ------------------------------------------------------------------------------------------------- the datasets library


def _open_hub(source: Any, *, types: Any, drop: Sequence[str], resize: Any, length: int, name: str, **rest: Any) -> Data:
    """A ``datasets.Dataset`` or ``DatasetDict`` as images, texts or a table. A test split is set aside."""
    dataset, test, notes = _splits(source, name)
    pictures = [n for n, feature in dataset.features.items() if type(feature).__name__ == "Image"]
    others = [n for n in dataset.column_names if n not in pictures]
    text_like = "text" in others and all(n in ("text", "label", "labels") for n in others)
    if pictures:
        _only_tables(types, (), name)
        data = _hub_images(dataset, pictures[0], [n for n in others if n not in drop], resize, name, test)
    elif text_like and str(getattr(dataset.features["text"], "dtype", "")).endswith("string") and not types:
        from pushforward.data import text

        data = text.open_text(list(dataset["text"]), length=length)
        if test is not None:
            data = replace(data, test=test, index=np.setdiff1d(data.index, test))
    else:
        data = open_table(dataset, types=types, drop=drop, name=name, **rest)
        if test is not None:
            data = replace(data, test=test, index=np.setdiff1d(data.index, test))
    return replace(data, name=name, notes=(*data.notes, *notes))


def _splits(source: Any, name: str) -> tuple[Any, np.ndarray | None, tuple[str, ...]]:
    import datasets

    if isinstance(source, datasets.Dataset):
        return source, None, ()
    if not isinstance(source, datasets.DatasetDict) or not source:
        raise DataError(f"{name} is a {type(source).__name__}: expected a datasets.Dataset or DatasetDict")
    first = "train" if "train" in source else next(iter(source))
    train, test = source[first], source.get("test")
    unused = [split for split in source if split not in (first, "test")]
    notes = (f"of its splits, {', '.join(unused)} are not used",) if unused else ()
    if test is None or first == "test" or test.features != train.features:
        return train, None, notes
    aside = np.arange(len(train), len(train) + len(test))
    return datasets.concatenate_datasets([train, test]), aside, notes


def _hub_images(dataset: Any, column: str, others: Sequence[str], resize: Any, name: str, test: Any) -> Data:
    from pushforward.data import images

    pictures = list(dataset[column])
    mode = "L" if all(p.mode in ("1", "L") for p in pictures) else "RGB"
    sizes = {p.size for p in pictures}
    if len(sizes) > 1 and resize is None:
        raise DataError(f"the images of {name} have {len(sizes)} different sizes: use --resize N to bring them to one size")
    if resize is not None:
        height, width = (resize, resize) if isinstance(resize, int) else resize
        pictures = [p.convert(mode).resize((width, height)) for p in pictures]
    side = {}
    for other in others:
        feature, values = dataset.features[other], list(dataset[other])
        names = getattr(feature, "names", None)
        if names:
            values = [names[v] if v is not None and v >= 0 else None for v in values]
        if all(isinstance(v, (int, str, bool, type(None))) for v in values):
            side[other] = np.array(values, dtype=object) if None in values else np.array(values)
    pixels = np.stack([np.asarray(p.convert(mode)) for p in pictures])
    return images.from_array(pixels, side, name=name, levels=256, test=test)


# ---------------------------------------------------------------------------------------------------------------- roles


def _pool(schema: Schema) -> list[Column]:
    """All columns that may take a role, in the user's order."""
    own = schema.example.columns if isinstance(schema.example, Table) else tuple(schema.extra.get("columns", ()))
    roles = [*schema.conditions, *([schema.target] if schema.target else [])]
    order = {name: i for i, name in enumerate(schema.extra.get("order", ()))}
    return sorted([*own, *roles], key=lambda c: order.get(c.name, len(order)))


def assign_roles(data: Data, target: str | None = None, condition: str | Sequence[str] = ()) -> Data:
    """``data`` with its ``target`` and ``condition`` columns taken out of the example into the schema's roles.

    Side columns of images and arrays that get no role leave the schema; their codes stay in
    ``Rows.columns``. Without any roles given, those there are stay.
    Raises DataError for an unknown column, one named twice, and one that is not learned.
    """
    conditions = _listed(condition)
    schema = data.schema
    if target is None and not conditions:
        if "columns" not in schema.extra:
            return data
        taken = [*schema.conditions, *([schema.target] if schema.target else [])]
        spare = [c for c in schema.extra["columns"] if c not in taken]
        offers = tuple(f"column '{c.name}' is not part of the example: it can be a --condition or the --target" for c in spare)
        return replace(_with_roles(data, schema.target, tuple(schema.conditions), taken), notes=(*data.notes, *offers))
    pool = {c.name: c for c in _pool(schema)}
    named = [*conditions, *([target] if target is not None else [])]
    for name in named:
        role = "target" if name == target else "condition"
        if not pool:
            raise DataError(f"{data.name} has no columns, so '{name}' cannot be its {role}")
        if name not in pool:
            raise DataError(f"{data.name} has no column '{name}' for the {role}: {did_you_mean(name, pool)}")
        if named.count(name) > 1:
            raise DataError(f"column '{name}' of {data.name} is named twice: it can be the target or one condition")
        if not pool[name].learned:
            raise DataError(
                f"column '{name}' of {data.name} is of type {pool[name].kind.value}, so it cannot be the {role}: "
                f"choose another, or set its type (--types {name}=category)"
            )
    chosen = tuple(pool[name] for name in conditions)
    return _with_roles(data, pool[target] if target is not None else None, chosen, [pool[name] for name in named])


def _with_roles(data: Data, target: Column | None, conditions: tuple[Column, ...], side: Sequence[Column]) -> Data:
    schema = data.schema
    extra = {key: value for key, value in schema.extra.items() if key != "columns"}
    example: Kind = schema.example
    learned: list[Column] = []
    if isinstance(example, Table):
        names = {c.name for c in side}
        example = replace(example, columns=tuple(c for c in _pool(schema) if c.name not in names))
        learned = list(example.learned)
        if not learned:
            raise DataError(f"{data.name} has no column left to learn besides {', '.join(sorted(names))}")
    store = _arranged(data, learned, side)
    return replace(data, schema=Schema(example, conditions, target, extra), store=store)


def _arranged(data: Data, learned: Sequence[Column], side: Sequence[Column]) -> Store:
    """The store with the columns ``learned`` in x and ``side`` apart."""
    store, example = data.store, data.schema.example
    if isinstance(store, stream.ArrowStore):
        return store.with_columns(learned, side)
    if isinstance(example, Table) and isinstance(store, TensorStore):
        codes = {c.name: store.x[:, i] for i, c in enumerate(example.learned)} | store.columns
        return _tensor_store(codes, learned, side)
    return store  # side columns without a role stay readable: probes of representations want labels


def _tensor_store(codes: Mapping[str, Tensor], learned: Sequence[Column], side: Sequence[Column]) -> TensorStore:
    x = torch.stack([codes[c.name] for c in learned], dim=1)
    return TensorStore(x, {c.name: codes[c.name].clone() for c in side})


# ------------------------------------------------------------------------------------- new data under an existing schema


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
    and target are in ``Rows.columns``. Raises DataError for missing columns, values and levels that were never seen
    (with row and column), and wrong shapes (found and expected).
    """
    wanted = (*schema.conditions, *((schema.target,) if schema.target else ()))
    needed = {c.name for c in schema.conditions} | ({schema.target.name} if schema.target and need_target else set())
    if isinstance(schema.example, Table):
        data = _like_table(source, schema, schema.example, wanted, needed, holes, name, memory_limit)
    else:
        data = _like_tensor(source, schema, wanted, needed, holes, resize, name)
    return replace(data, name=name) if name else data


def _like_table(
    source: Any,
    schema: Schema,
    kind: Table,
    roles: Sequence[Column],
    needed: Collection[str],
    holes: bool,
    name: str | None,
    memory_limit: int,
) -> Data:
    asked = (*kind.learned, *roles)
    place = name or "the new data"
    note: tuple[str, ...] = ()
    origin: Any = None
    if isinstance(source, Data) or (isinstance(source, str) and _existing(source) is None):
        given = source if isinstance(source, Data) else open_data(source)
        if not isinstance(given.schema.example, Table):
            raise DataError(f"{given.name} is of kind {given.schema.example.name}: expected a table with the learned columns")
        rows = given.rows()
        source, place, origin = decode(given.schema, rows.x, rows.columns), given.name, given.origin
    if _is_hub(source):
        source, _, note = _splits(source, place)
    reader = _reader(source, place, only={c.name for c in asked}, text=[c.name for c in asked if tables.is_text(c)])
    if reader is None:
        if isinstance(source, (str, Path)) and _existing(source) is None:
            raise _absent(source)
        raise DataError(f"{place} is a {type(source).__name__}: expected a table with columns {_names(asked)}")
    if reader.path:
        place, origin = reader.path.stem, str(reader.path)
    have = set(reader.names)
    absent = [c for c in asked if c.name not in have and (c in kind.learned or c.name in needed)]
    if absent:
        raise DataError(f"{reader.place} lacks the columns {_names(absent)}, which were learned")
    side = [c for c in roles if c.name in have]
    columns = [*kind.learned, *side]
    reader.names = [c.name for c in columns]
    held = stream.Held(reader, memory_limit)
    count = stream.settled(lambda: sum(len(next(iter(batch.values()))) for batch in held.first()))
    if not count:
        raise DataError(f"{reader.place} has no rows")
    store = stream.store(held, columns, count, memory_limit, holes=holes, check=True)
    if isinstance(store, stream.ArrowStore):
        store = store.with_columns(kind.learned, side)
    else:
        assert isinstance(store, TensorStore)
        store = _tensor_store({c.name: store.x[:, i] for i, c in enumerate(columns)}, kind.learned, side)
    return Data.of(schema, store, name=place, notes=note, origin=origin)


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(f"'{c.name}'" for c in columns)


def _like_tensor(
    source: Any, schema: Schema, roles: Sequence[Column], needed: Collection[str], holes: bool, resize: Any, name: str | None
) -> Data:
    """New vectors, images or texts."""
    kind, place = schema.example, name or "the new data"
    origin: Any = None
    if _is_frame(source) or (_is_hub(source) and isinstance(kind, Vector)):
        raise DataError(f"{place} is a table: expected {_expected(kind)}")
    found: dict[str, tuple[Column | None, Any]] = {}  # side columns, as codes under a column or as plain values
    path = _existing(source) if isinstance(source, (str, Path)) else None
    if path is not None:
        place, origin = path.stem, str(path)
    values: Any = None
    if isinstance(source, (np.ndarray, Tensor)) or (isinstance(source, (list, tuple)) and not isinstance(kind, Vector)):
        values = source
    elif path is not None and path.suffix.lower() in ARRAYS:
        values, labels = arrays.read_file(path)
        found = {key: (None, value) for key, value in labels.items()}
    elif isinstance(source, torch.utils.data.Dataset) and not _is_hub(source):
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
            if old != column:
                series = raw if old is None else tables.decode_column(old, raw)
                raw = torch.from_numpy(tables.encode_column(column, series, place=place))
            side[column.name] = raw
        elif column.name in needed:
            raise DataError(f"{place} lacks the column '{column.name}', which was learned")
    if any(f.name == "columns" for f in dataclasses.fields(store)):  # type: ignore[arg-type]
        store = replace(store, columns=side)  # type: ignore[type-var]
    if not len(store):
        raise DataError(f"{place} has no rows")
    return Data.of(schema, store, name=place, origin=origin)


def _expected(kind: Kind) -> str:
    if isinstance(kind, Vector):
        return f"an array (N, {kind.length})"
    if isinstance(kind, Image):
        return f"images of {kind.channels} channels, {kind.height}×{kind.width} (height×width)"
    return f"texts of {kind.shape[0]} characters"


def _encode(kind: Kind, values: Any, place: str, holes: bool) -> Tensor:
    """Codes of new arrays, images or texts. The caller's values are copied."""
    from pushforward.data import images, text

    if isinstance(kind, Vector):
        found, _ = arrays.vectors(values, place, kind.length, holes)
        return torch.from_numpy(np.array(found, dtype=np.float64))
    try:
        if isinstance(kind, Image):
            return images.encode(kind, values)
        assert isinstance(kind, Tokens)
        if not _is_texts(values):
            raise DataError(f"found {type(values).__name__}: expected {_expected(kind)}")
        return text.encode(kind, list(values))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _reopened(source: Any, kind: Kind, path: Path | None, resize: Any) -> Data:
    """``source`` opened on its own terms, as near to ``kind`` as its options allow."""
    if isinstance(source, Data):
        return source
    if isinstance(kind, Image) and path is not None and path.is_dir():
        from pushforward.data import images

        return images.open_folder(path, resize=resize, grey={1: True, 3: False}.get(kind.channels))
    length = kind.length if isinstance(kind, Tokens) else 64
    return _open(source, types=None, drop=(), resize=resize, length=length, name=None, memory_limit=MEMORY)


def _recast(given: Data, kind: Kind, place: str) -> tuple[Store, dict[str, tuple[Column | None, Any]]]:
    """The rows of ``given`` as codes of ``kind``, and its side columns. Raises DataError where they do not fit."""
    from pushforward.data import images, text

    other = given.schema.example
    if type(other) is not type(kind) or (not isinstance(kind, Tokens) and other.shape != kind.shape):
        found = _expected(other) if not isinstance(other, Table) else "a table"
        raise DataError(f"{place} holds {found}: expected {_expected(kind)}")
    whole = len(given.index) == len(given.store) and bool((given.index == np.arange(len(given.store))).all())
    rows = None
    if whole and (other == kind or isinstance(kind, Vector)):
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
    known = {c.name: c for c in _pool(given.schema)}
    return store, {n: (known[n], codes) for n, codes in columns.items() if n in known}


# ------------------------------------------------------------------------------------------------------------- decoding


def decode(schema: Schema, x: Tensor, columns: Mapping[str, Tensor] | None = None) -> Any:
    """Codes x (B, *schema.example.shape) in the user's own types.

    A table is a DataFrame of the container it came in, with its column order and types; condition and target columns are
    there where ``columns`` {name: (B,)} holds their codes. Constants come back, identifiers are numbered on from the
    largest seen. A vector is an array or tensor of its dtype, an image a uint8 array, tokens are strings.
    """
    kind = schema.example
    if tuple(x.shape[1:]) != kind.shape:
        raise DataError(f"found codes of shape {tuple(x.shape)}: expected {('B', *kind.shape)}")
    x = x.detach().cpu()
    if isinstance(kind, Vector):
        return _vector(kind, x)
    if isinstance(kind, Table):
        return _frame(schema, kind, x, columns or {})
    from pushforward.data import images, text

    return images.decode(kind, x) if isinstance(kind, Image) else text.decode(kind, x)  # type: ignore[arg-type]


def _vector(kind: Vector, x: Tensor) -> Any:
    name = kind.dtype
    whole = "int" in name or name == "bool"
    if kind.container == "torch":
        dtype = getattr(torch, name)
        return (x.round() if whole else x).to(dtype).clone()
    values = x.numpy()
    return np.array(np.rint(values) if whole else values).astype(name)


def _frame(schema: Schema, kind: Table, x: Tensor, columns: Mapping[str, Tensor]) -> Any:
    codes: dict[str, Any] = {c.name: x[:, i].numpy() for i, c in enumerate(kind.learned)}
    shown = list(kind.columns)
    for column in (*schema.conditions, *((schema.target,) if schema.target else ())):
        if column.name in columns:
            codes[column.name] = columns[column.name].detach().cpu().numpy()
            shown.append(column)
    order = {name: i for i, name in enumerate(schema.extra.get("order", ()))}
    shown.sort(key=lambda c: order.get(c.name, len(order)))
    frame = tables.decode(shown, codes, len(x), kind.container)
    if schema.extra.get("names") == "integer" and kind.container == "pandas":
        frame.columns = [int(name) for name in frame.columns]
    return frame
