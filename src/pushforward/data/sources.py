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
    inferred, ``drop`` leaves columns out (tables only). ``bounds`` {column: (lower, upper)}, or for vectors {index: …} or one
    pair for all, say what numbers can be, with None where there is no end; a model keeps to them. ``resize`` is the side of
    images in pixels or (height, width), ``length`` the number of characters of a text. A table whose codes take more than
    ``memory_limit`` bytes stays on disk. Raises DataError, in one line, for anything that cannot be read.
    """
    data = open_raw(source, types=types, drop=listed(drop), resize=resize, length=length, name=name, memory_limit=memory_limit)
    if name is not None:
        data = replace(data, name=name)
    return assign_roles(with_bounds(data, bounds), target, condition)


def open_raw(
    source: Any,
    *,
    types: Mapping[str, str] | None,
    drop: Sequence[str],
    resize: Any,
    length: int,
    name: str | None,
    **rest: Any,
) -> Data:
    """``open_data`` before roles are assigned: side columns are still offered in the schema."""

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
        from pushforward.data import bundled

        if source in bundled.NAMES:
            data = bundled.open_bundled(str(source), resize=resize, length=length, types=types)
            return without(data, drop) if drop else data
        if not is_hub_name(source):
            raise no_such(source)
        fetched = fetch(str(source))
        return open_hub(fetched, types=types, drop=drop, resize=resize, length=length, name=str(source), **rest)
    if isinstance(source, Data):
        only_tables(types, drop, source.name)
        return source
    only_tables(types, drop, str(source) if path else "this source")
    if path is not None:
        return _open_path(path, resize, length, rest["memory_limit"])
    if is_texts(source):
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


def _resized(data: Data, resize: Any) -> Data:
    if resize is None or not isinstance(data.schema.example, Image):
        return data
    from pushforward.data import images

    return images.resized(data, resize)


def _open_path(path: Path, resize: Any, length: int, memory_limit: int) -> Data:
    """A file or folder that is no table."""
    from pushforward.data import folders, imagefiles, text

    suffix = path.suffix.lower()
    if path.is_dir():
        return text.open_text(path, length=length) if _has_text(path) else folders.open_folder(path, resize=resize)
    if suffix == ".txt":
        return text.open_text(path, length=length)
    if suffix in ARRAYS:
        values, labels = arrays.read_file(path)
        data = arrays.open_array(values, labels, name=path.name, memory_limit=memory_limit, origin=str(path))
        return replace(_resized(data, resize), name=path.stem)
    if suffix in imagefiles.SUFFIXES:
        raise DataError(f"{path.name} is one image: pass the folder that holds it")
    raise DataError(f"{path.name} has the unknown ending '{suffix}': expected {', '.join(SUFFIXES)} or a folder")


def _has_text(folder: Path) -> bool:
    """Whether a folder holds .txt files and no images in the same places."""
    from pushforward.data import imagefiles

    found = {p.suffix.lower() for p in folder.iterdir() if p.is_file()}
    deep = any(p.is_dir() for p in folder.iterdir())
    if not found & {".txt", *imagefiles.SUFFIXES} and deep:
        found = {p.suffix.lower() for p in folder.rglob("*") if p.is_file()}
    return ".txt" in found and not found & set(imagefiles.SUFFIXES)
