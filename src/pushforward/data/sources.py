"""``open_data``: anything the user has, as ``Data``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Image
from pushforward.data import arrays
from pushforward.data.bounds import Ends, with_bounds
from pushforward.data.dataset import Data
from pushforward.data.hub import fetch, only_tables, open_hub
from pushforward.data.recognise import (
    ARRAYS,
    MEMORY,
    SUFFIXES,
    TABLES,
    existing,
    is_frame,
    is_hub,
    is_hub_name,
    is_texts,
    no_such,
)
from pushforward.data.roles import assign_roles, listed, without
from pushforward.data.tabular import open_table


def open_data(
    source: Any,
    *,
    target: str | None = None,
    condition: str | Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    bounds: Mapping[Any, Ends] | Ends | None = None,
    drop: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    length: int | None = None,
    kind: str | None = None,
    name: str | None = None,
    memory_limit: int = MEMORY,
) -> Data:
    """Anything as ``Data``; the caller's objects are never changed.

    ``source``: a pandas or polars DataFrame, an Arrow table, a ``datasets.Dataset``; a numpy array or torch tensor, or a dict
    of arrays as in an .npz file; a torch dataset of tensors or (tensor, label) pairs; a list of texts; a file (.csv, .tsv,
    .parquet, .jsonl, .npy, .npz, .txt); a folder of images, of .wav recordings or of .txt files; the name of a bundled data set
    or of one on the Hugging Face hub ("user/name"); or ``Data``, whose roles are then set.

    ``target`` and ``condition`` name columns that are taken out of the example: what a predictor predicts, and what a
    model is conditioned on. Of an .npz file, or a dict, any array of as many rows can be a condition: numbers, categories,
    texts, vectors, images. Conditions made from images themselves are "grey", "small:2" (or another factor) and "visible".

    ``types`` {column: number, integer, category, boolean, date or identifier} overrides what is inferred in tables; text makes
    a condition of strings a text, as more than 200 different ones are, and category keeps them from it. ``drop`` leaves columns
    out (tables only). ``bounds`` {column: (lower, upper)}, or for vectors {index: …} or one pair for all, say what numbers can
    be, with None where there is no end; a model keeps to them. ``resize`` is the side of images in pixels or (height, width);
    ``length`` the number of characters of a text (64), of samples of a signal (that of the data) or of points in a set (all).
    ``kind``, one of vector, image, signal and points, says what the rows of an array are where its shape does not. A table
    whose codes take more than ``memory_limit`` bytes stays on disk. Raises DataError, in one line, for anything that cannot be
    read.
    """
    how: dict[str, Any] = {"types": types, "drop": listed(drop), "resize": resize, "length": length, "kind": kind}
    wanted = (*listed(condition), *([target] if target is not None else []))
    data = open_raw(source, **how, name=name, memory_limit=memory_limit, wanted=wanted)
    if name is not None:
        data = replace(data, name=name)
    return assign_roles(with_bounds(data, bounds), target, condition, types)


def open_raw(
    source: Any,
    *,
    types: Mapping[str, str] | None,
    drop: Sequence[str],
    resize: Any,
    length: int | None,
    name: str | None,
    kind: str | None = None,
    wanted: Sequence[str] = (),
    **rest: Any,
) -> Data:
    """``open_data`` before roles are assigned: side columns are offered in the schema; of an .npz file, those ``wanted``."""
    if kind is not None and kind not in arrays.READINGS:
        raise DataError(f"kind is one of {', '.join(arrays.READINGS)}, found {kind!r}")
    how: dict[str, Any] = {"types": types, "drop": drop, "resize": resize, "length": length, "name": name, "kind": kind}
    data = _open(source, **how, wanted=wanted, **rest)
    found = data.schema.example.name
    if kind is not None and found != kind:
        what = "a table" if found == "table" else f"{found} data"
        raise DataError(f"{data.name} is {what} and cannot be read as {kind}: kind (--kind) is for arrays; leave it out")
    return data


def _open(
    source: Any,
    *,
    types: Any,
    drop: Sequence[str],
    resize: Any,
    length: int | None,
    name: str | None,
    kind: Any,
    wanted: Sequence[str],
    **rest: Any,
) -> Data:
    # strings are categories at first, of which roles.py makes texts; beside images and arrays they always are
    others = {column: word for column, word in (types or {}).items() if word not in ("text", "category")}
    types = {column: "category" if word == "text" else word for column, word in (types or {}).items()} or None

    def tabular(reader: Any) -> Data:
        return open_table(reader, types=types, drop=drop, name=name, **rest)

    if is_frame(source):
        return tabular(source)
    if is_hub(source):
        return open_hub(source, types=types, drop=drop, resize=resize, length=length, name=name or "data", **rest)
    path = existing(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.is_file() and path.suffix.lower() in TABLES:
        return tabular(path)
    if path is None and isinstance(source, (str, Path)):
        from pushforward.data import bundled, known

        if source in known.NAMES:
            table = known.CATALOG[source].kind == "table"
            data = bundled.open_bundled(str(source), resize=resize, length=length, types=types if table else others)
            return without(data, drop) if drop else data
        if not is_hub_name(source):
            raise no_such(source)
        fetched = fetch(str(source))
        return open_hub(fetched, types=types, drop=drop, resize=resize, length=length, name=str(source), **rest)
    if isinstance(source, Data):
        only_tables(others, drop, source.name)
        return source
    only_tables(others, drop, str(source) if path else "this source")
    if path is not None:
        return _open_path(path, resize, length, kind, rest["memory_limit"], wanted)
    if isinstance(source, Mapping) and source and all(hasattr(values, "__len__") for values in source.values()):
        picked, columns, rate = arrays.pick(source, name or "the dict", wanted)
        how = {"kind": kind, "rate": rate, "length": length, "memory_limit": rest["memory_limit"]}
        return _with_wanted(picked, columns, resize, name=name or "data", **how)
    if is_texts(source):
        from pushforward.data import text

        return text.open_text(list(source), length=length)
    place = name or "data"
    if isinstance(source, (np.ndarray, Tensor)):
        return _resized(arrays.open_array(source, name=place, kind=kind, length=length), resize)
    if isinstance(source, torch.utils.data.Dataset):
        values, labels = arrays.read_dataset(source, place)
        return _resized(arrays.open_array(values, labels, name=place, kind=kind, length=length), resize)
    raise DataError(
        f"a {type(source).__name__} is no data: "
        "pass a DataFrame, an array, a tensor, a dataset, a list of texts, a path or a name"
    )


def _resized(data: Data, resize: Any) -> Data:
    if resize is None or not isinstance(data.schema.example, Image):
        return data
    from pushforward.data import images

    return images.resized(data, resize)


def _with_wanted(values: Any, columns: dict[str, Any], resize: Any, **how: Any) -> Data:
    """An array and the columns beside it."""
    from pushforward.data import sides

    data = _resized(arrays.open_array(values, {n: columns.pop(n) for n in ("label",) if n in columns}, **how), resize)
    return sides.with_sides(data, columns) if columns else data


def _open_path(path: Path, resize: Any, length: int | None, kind: str | None, memory_limit: int, wanted: Sequence[str]) -> Data:
    """A file or folder that is no table."""
    from pushforward.data import folders, imagefiles, signals, text

    suffix = path.suffix.lower()
    if path.is_dir():
        holds = kind if kind in ("image", "signal") else _held(path)
        if holds == "signal":
            return signals.open_recordings(path, length=length)
        return text.open_text(path, length=length) if holds == "text" else folders.open_folder(path, resize=resize)
    if suffix == ".txt":
        return text.open_text(path, length=length)
    if suffix in ARRAYS:
        values, columns, rate = arrays.read_file(path, wanted)
        how: dict[str, Any] = {"kind": kind, "rate": rate, "length": length, "memory_limit": memory_limit}
        return replace(_with_wanted(values, columns, resize, name=path.name, origin=str(path), **how), name=path.stem)
    if suffix in (*imagefiles.SUFFIXES, *signals.SUFFIXES):
        what = "image" if suffix in imagefiles.SUFFIXES else "recording"
        raise DataError(f"{path.name} is one {what}: pass the folder that holds it")
    raise DataError(f"{path.name} has the unknown ending '{suffix}': expected {', '.join(SUFFIXES)} or a folder")


def _held(folder: Path) -> str:
    """What a folder holds: images where there are any; else recordings, which often lie beside texts about them; else texts."""
    from pushforward.data import imagefiles, signals

    pictures, sounds = set(imagefiles.SUFFIXES), {*signals.SUFFIXES, *signals.OTHERS}
    found = {p.suffix.lower() for p in folder.iterdir() if p.is_file()}
    if not found & (pictures | sounds) and any(p.is_dir() for p in folder.iterdir()):
        deep = {p.suffix.lower() for p in folder.rglob("*") if p.is_file()}
        found = deep if ".txt" not in found or deep & sounds else found
    if found & pictures:
        return "image"
    return "signal" if found & sounds else "text" if ".txt" in found else "image"
