"""Arrays as data: numpy and torch arrays, .npy and .npz files, torch datasets.

Rows of a 2-D array are vectors (a 1-D array is one number a row); 3-D and 4-D arrays are images where they hold whole
numbers or floats in [0, 1]; other 3-D arrays of floats are sets of points or signals, by their shape. What is meant can also
be said: ``READINGS``. Values must be finite: only tables may have missing values.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, Points, Schema, Signal, Vector
from pushforward.data.dataset import Data, Rows, Store, TensorStore

READINGS = ("vector", "image", "signal", "points")
_X_KEYS = ("x", "X", "images", "points", "signals", "audio", "data")
_LABEL_KEYS = ("y", "label", "labels")
_RATE_KEYS = ("rate", "sample_rate")
_CROWD = 8  # a row of fewer points than that is hardly a set of points
_BLOCK = 65_536


@dataclass(frozen=True)
class ArrayStore:
    """Rows of an array (N, …) that is mapped into memory, or is in it in less than 64 bits a number."""

    array: np.ndarray
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: np.ndarray) -> Rows:
        """Codes float64 (B, …) of the rows at ``index``."""
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
    values, container, dtype = real(array, place)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        wanted = f"(N, {length})" if length else "(N, D) for vectors; (N, H, W) or (N, H, W, C) for images"
        raise DataError(f"{place} is an array of shape {tuple(values.shape)}: expected {wanted}")
    if length is not None and values.shape[1] != length:
        raise DataError(f"{place} has {values.shape[1]} numbers a row: expected {length}")
    check_finite(values, place, ("column",), holes)
    return values, Vector(values.shape[1], container, dtype)


def real(array: Any, place: str) -> tuple[np.ndarray, str, str]:
    """As ``to_numpy``. Raises DataError for an array of something else than real numbers."""
    values, container, dtype = to_numpy(array)
    if values.dtype.kind not in "biuf":
        hint = "pass a DataFrame for mixed types" if values.dtype.kind in "OUSM" else "convert it to floats"
        raise DataError(f"{place} is an array of type {values.dtype}: expected real numbers; {hint}")
    return values, container, dtype


def check_finite(values: np.ndarray, place: str, axes: Sequence[str], holes: bool = False) -> None:
    """Raises DataError with the place along ``axes`` (from 1) of the first value not finite; NaN pass with ``holes``."""
    if values.dtype.kind != "f":
        return
    rows = max(1, _BLOCK // max(1, math.prod(values.shape[2:])))
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        bad = np.isinf(block) if holes else ~np.isfinite(block)
        if bad.any():
            row, *rest = np.argwhere(bad)[0]
            value = block[(row, *rest)]
            table = np.isnan(value) and axes == ("column",)
            what = "missing values are for tables: pass a DataFrame" if table else "replace it or leave the row out"
            where = ", ".join(f"{axis} {at + 1}" for axis, at in zip(axes, rest, strict=True))
            raise DataError(f"{place}, row {start + row + 1}, {where}: the value is {value}; {what}")


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
    kind: str | None = None,
    rate: int | None = None,
    length: int | None = None,
    memory_limit: int = 2 * 1024**3,
    origin: str | None = None,
) -> Data:
    """A numpy or torch array as ``Data``.

    ``kind`` says what its rows are, one of ``READINGS``: vectors (N, D) or (N,), images (N, H, W), (N, H, W, C) or
    (N, C, H, W), signals (N, L) or (N, C, L), or points (N, P, d). Where it does not, type and shape do, and a note says so
    where that is a guess. ``rate`` is how many samples of a signal make a second, ``length`` the samples or points to keep of
    each row.

    ``columns`` are side columns {name: (N,)}. Codes are a copy, except that a file mapped into memory whose float64 copy
    would take more than ``memory_limit`` bytes stays there. Raises DataError for anything else and values not finite.
    """
    values = to_numpy(array)[0]
    notes: list[str] = []
    if kind is None and rate is not None:
        kind = "signal"
    if kind is None:
        kind, notes = _guessed(values)
    if kind == "image":
        return _images(values, columns, name, origin, notes)
    values, example, more = _read_as(kind, array, name, rate, length)
    notes += more
    if len(values) < 4:
        raise DataError(f"{name} has {len(values)} rows: at least 4 are needed")
    described, side = _side(columns or {}, len(values), name)
    store: Store
    if isinstance(array, np.memmap) and values.size * 8 > memory_limit:
        store = ArrayStore(values, side)
    else:
        store = TensorStore(torch.from_numpy(np.array(values, dtype=np.float64)), side)
    if values.dtype.kind in "biu":
        hint = ": pass a DataFrame to have them as integers" if kind == "vector" else ""
        notes.append(f"whole numbers in an array are learned as real numbers{hint}")
    extra = {"columns": described} if described else {}
    return Data.of(Schema(example, extra=extra), store, name=name, notes=tuple(notes), origin=origin)


def _read_as(
    kind: str, array: Any, name: str, rate: int | None, length: int | None
) -> tuple[np.ndarray, Vector | Signal | Points, list[str]]:
    from pushforward.data import points, signals

    if kind == "signal":
        return signals.resized(*signals.arranged(array, name, rate), length)
    if kind == "points":
        return points.thinned(*points.arranged(array, name), length, name)
    return *vectors(array, name), []


def _guessed(values: np.ndarray) -> tuple[str, list[str]]:
    """What the rows of an array are by its type and shape, and a note where that is a guess."""
    if values.ndim not in (3, 4) or values.dtype.kind not in "biuf":
        return "vector", []
    if values.ndim == 4 or values.dtype.kind != "f" or not values.size:
        return "image", []
    _, middle, last = values.shape
    crowd = last in (2, 3) and middle >= _CROWD
    taken = f"an array of shape {tuple(values.shape)} is read as"
    if _pixels(values):
        return "image", [f"{taken} images: kind=points (--kind points) reads sets of points"] if crowd else []
    if crowd:
        return "points", [f"{taken} {middle} points in {last} dimensions: kind= (--kind) says otherwise"]
    if last > middle:
        shape = f"{middle} channel{'s' if middle > 1 else ''} of {last} samples"
        return "signal", [f"{taken} signals, {shape}: kind= (--kind) says otherwise"]
    return "image", []


def _pixels(values: np.ndarray) -> bool:
    """Whether floats (N, …) can be pixels: all in [0, 1], or all whole numbers up to 255."""
    rows = max(1, _BLOCK // max(1, math.prod(values.shape[2:])))
    fractions = whole = True
    for start in range(0, len(values), rows):
        # what is not finite is refused later, whatever it is
        block = np.nan_to_num(values[start : start + rows], nan=0.0, posinf=0.0, neginf=0.0)
        fractions &= bool(((block >= 0) & (block <= 1)).all())
        whole &= bool(((block >= 0) & (block <= 255) & (block == np.rint(block))).all())
        if not (fractions or whole):
            return False
    return True


def _images(values: np.ndarray, columns: Mapping[str, Any] | None, name: str, origin: Any, notes: Sequence[str]) -> Data:
    from pushforward.data import images

    try:
        data = images.from_array(values, dict(columns or {}), name=name)
    except DataError as error:
        other = values.ndim == 3 and values.dtype.kind == "f"
        hint = "; for signals (N, C, L) give kind=signal, for points (N, P, d) kind=points (--kind)" if other else ""
        raise DataError(f"{name}: {error}{hint}") from error
    return replace(data, origin=origin, notes=(*data.notes, *notes))


def read_file(path: Path, wanted: Sequence[str] = ()) -> tuple[np.ndarray, dict[str, np.ndarray], int | None]:
    """The array of a .npy file (mapped, not read) or of a .npz file, with its labels, the arrays ``wanted`` and its sampling
    rate where these are there. Objects are never unpickled."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, {}, None
        with loaded as archive:
            return pick(archive, path.name, wanted)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "objects" in str(error):
            raise DataError(
                f"{path.name} is damaged or holds Python objects, which are not safe to load: save a plain array of numbers"
            ) from error
        raise DataError(f"{path.name} cannot be read as an array: {str(error).splitlines()[0] or 'damaged'}") from error


def pick(
    archive: Mapping[str, Any], place: str, wanted: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, np.ndarray], int | None]:
    """The examples among named arrays, their labels and the arrays ``wanted`` besides, and their sampling rate."""
    keys = list(archive)
    labels = next((key for key in _LABEL_KEYS if key in keys), None)
    rate = next((key for key in _RATE_KEYS if key in keys and np.ndim(archive[key]) == 0), None)
    named = [key for key in wanted if key in keys and key not in (labels, rate)]
    rest = [key for key in keys if key not in (labels, rate, *named)]
    key = next((key for key in _X_KEYS if key in rest), rest[0] if len(rest) == 1 else None)
    if key is None:
        found = ", ".join(keys) or "nothing"
        raise DataError(f"{place} holds {found}: expected one array, or one named {', '.join(_X_KEYS)}")
    if rate is not None and (np.asarray(archive[rate]).dtype.kind not in "iuf" or not archive[rate] > 0):
        raise DataError(f"'{rate}' of {place} is {archive[rate]}: expected one number of samples a second")
    columns = {"label": archive[labels]} if labels else {}
    columns |= {name: archive[name] for name in named}
    return archive[key], columns, round(float(archive[rate])) if rate else None


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
