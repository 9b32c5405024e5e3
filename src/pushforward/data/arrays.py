"""Arrays as data: numpy and torch arrays, .npy and .npz files, torch datasets.

Rows of a 2-D array are vectors (a 1-D array is one number a row); 3-D and 4-D arrays are images where they hold whole
numbers or floats in [0, 1]. Values must be finite: only tables may have missing values.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, Schema, Vector
from pushforward.data.dataset import Data, Rows, Store, TensorStore

_X_KEYS = ("x", "X", "images", "data")
_LABEL_KEYS = ("y", "label", "labels")
_BLOCK = 65_536


@dataclass(frozen=True)
class ArrayStore:
    """Rows of a 2-D array on disk, mapped into memory."""

    array: np.ndarray
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: np.ndarray) -> Rows:
        """Codes float64 (B, D) of the rows at ``index``."""
        at = np.ascontiguousarray(index)
        x = torch.from_numpy(np.asarray(self.array[at], dtype=np.float64))
        return Rows(x, {name: values[torch.from_numpy(at)] for name, values in self.columns.items()})


def to_numpy(array: Any) -> tuple[np.ndarray, str, str]:
    """``array`` as numpy with its container ('numpy' or 'torch') and dtype name. Nothing is copied where it can be shared."""
    if isinstance(array, Tensor):
        if array.is_complex() or array.layout != torch.strided:
            raise DataError(f"the tensor is {array.dtype} ({array.layout}): expected a dense real one")
        name, array = str(array.dtype).removeprefix("torch."), array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy(), "torch", name
    array = np.asarray(array)
    return array, "numpy", array.dtype.name


def vectors(array: Any, place: str, length: int | None = None, holes: bool = False) -> tuple[np.ndarray, Vector]:
    """A real 2-D array (N, D), not copied, and its kind. A 1-D array counts as (N, 1).

    Raises DataError for other ranks and types, for a D other than ``length``, and for values that are not finite (NaN
    passes with ``holes``), with the first row and column (from 1).
    """
    values, container, dtype = to_numpy(array)
    if values.dtype.kind not in "biuf":
        hint = "pass a DataFrame for mixed types" if values.dtype.kind in "OUSM" else "convert it to floats"
        raise DataError(f"{place} is an array of type {values.dtype}: expected real numbers; {hint}")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        wanted = f"(N, {length})" if length else "(N, D) for vectors; (N, H, W) or (N, H, W, C) for images"
        raise DataError(f"{place} is an array of shape {tuple(values.shape)}: expected {wanted}")
    if length is not None and values.shape[1] != length:
        raise DataError(f"{place} has {values.shape[1]} numbers a row: expected {length}")
    if values.dtype.kind == "f":
        _finite(values, place, holes)
    return values, Vector(values.shape[1], container, dtype)


def _finite(values: np.ndarray, place: str, holes: bool) -> None:
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        bad = np.isinf(block) if holes else ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            value = block[row, column]
            what = "missing values are for tables: pass a DataFrame" if np.isnan(value) else "replace it or leave the row out"
            raise DataError(f"{place}, row {start + row + 1}, column {column + 1}: the value is {value}; {what}")


def _side(columns: Mapping[str, Any], rows: int, place: str) -> tuple[list[Column], dict[str, Tensor]]:
    """Side columns {name: (N,)} and their codes. Whole numbers named as labels are categories."""
    from pushforward.data import dtypes, infer, tables

    described: list[Column] = []
    codes: dict[str, Tensor] = {}
    for name, given in columns.items():
        values = to_numpy(given)[0] if isinstance(given, Tensor) else np.asarray(given)
        if values.shape != (rows,):
            raise DataError(f"'{name}' of {place} has shape {tuple(values.shape)}: expected one value for each of {rows} rows")
        array = dtypes.arrow_column(values, name, place)
        few = values.dtype.kind in "iu" and len(np.unique(values)) <= infer.LEVELS
        dtype = values.dtype.name if values.dtype.kind in "biuf" else "str"
        found = infer.infer_columns([{name: array}], {name: "category"} if few else None, names=[name], dtypes={name: dtype},
                                    place=place)  # fmt: skip
        described += found.columns
        if found.columns[0].learned:
            codes[name] = torch.from_numpy(tables.encode_column(found.columns[0], array, place=place))
    return described, codes


def open_array(
    array: Any,
    columns: Mapping[str, Any] | None = None,
    *,
    name: str = "data",
    memory_limit: int = 2 * 1024**3,
    origin: str | None = None,
) -> Data:
    """A numpy or torch array as ``Data``: vectors (N, D) or (N,), or images (N, H, W), (N, H, W, C), (N, C, H, W).

    ``columns`` are side columns {name: (N,)}. Codes are a copy, except that a file mapped into memory whose float64 copy
    would take more than ``memory_limit`` bytes stays there. Raises DataError for anything else and values not finite.
    """
    values, _, _ = to_numpy(array)
    if values.ndim in (3, 4) and values.dtype.kind in "biuf":
        from dataclasses import replace

        from pushforward.data import images

        try:
            return replace(images.from_array(values, dict(columns or {}), name=name), origin=origin)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    values, kind = vectors(array, name)
    if len(values) < 4:
        raise DataError(f"{name} has {len(values)} rows: at least 4 are needed")
    described, side = _side(columns or {}, len(values), name)
    store: Store
    if isinstance(array, np.memmap) and values.size * 8 > memory_limit:
        store = ArrayStore(values, side)
    else:
        store = TensorStore(torch.from_numpy(np.array(values, dtype=np.float64)), side)
    notes: tuple[str, ...] = ()
    if values.dtype.kind in "biu":
        notes = ("whole numbers in an array are learned as real numbers: pass a DataFrame to have them as integers",)
    extra = {"columns": described} if described else {}
    return Data.of(Schema(kind, extra=extra), store, name=name, notes=notes, origin=origin)


def read_file(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of a .npy file (mapped, not read) or of a .npz file with its labels. Objects are never unpickled."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, {}
        with loaded as archive:
            return _pick(archive, path.name)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "objects" in str(error):
            raise DataError(
                f"{path.name} is damaged or holds Python objects, which are not safe to load: save a plain array of numbers"
            ) from error
        raise DataError(f"{path.name} cannot be read as an array: {str(error).splitlines()[0] or 'damaged'}") from error


def _pick(archive: Any, place: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    keys = list(archive.files)
    labels = next((key for key in _LABEL_KEYS if key in keys), None)
    rest = [key for key in keys if key != labels]
    key = next((key for key in _X_KEYS if key in rest), rest[0] if len(rest) == 1 else None)
    if key is None:
        found = ", ".join(keys) or "nothing"
        raise DataError(f"{place} holds {found}: expected one array, or one named {', '.join(_X_KEYS)}")
    return archive[key], {"label": archive[labels]} if labels else {}


def read_dataset(dataset: Any, place: str) -> tuple[np.ndarray | Tensor, dict[str, Any]]:
    """All items of a torch dataset stacked, (N, …), and their labels. An item is a tensor (or array, or image), or a
    pair of one and a label."""
    items: list[np.ndarray] = []
    labels: list[Any] = []
    tensors = False
    source = (dataset[i] for i in range(len(dataset))) if hasattr(dataset, "__len__") else dataset
    for row, item in enumerate(source):
        parts = item if isinstance(item, (tuple, list)) else (item,)
        if not 1 <= len(parts) <= 2:
            raise DataError(f"{place}, item {row + 1} has {len(parts)} parts: expected a tensor, or a tensor and a label")
        tensors = isinstance(parts[0], Tensor)
        items.append(to_numpy(parts[0])[0])
        if items[0].shape != items[-1].shape:
            raise DataError(f"{place}, item {row + 1} has shape {items[-1].shape}, the first one {items[0].shape}")
        if len(parts) == 2:
            label = parts[1]
            labels.append(label.item() if isinstance(label, (Tensor, np.generic)) and np.ndim(label) == 0 else label)
    if not items:
        raise DataError(f"{place} is empty")
    if labels and len(labels) != len(items):
        raise DataError(f"{place}: {len(labels)} of {len(items)} items have a label; give one to all or none")
    stacked = np.stack(items)
    return torch.from_numpy(stacked) if tensors else stacked, {"label": np.asarray(labels)} if labels else {}
