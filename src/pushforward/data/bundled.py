"""Known data sets by name: generated, shipped with scikit-learn, found in a folder, or fetched once from their homes."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Schema, Signal, Vector
from pushforward.data import images, points, signals, text, toys
from pushforward.data.arrays import ArrayStore
from pushforward.data.binarised import binarised
from pushforward.data.dataset import Data, TensorStore
from pushforward.data.homes import files
from pushforward.data.known import CATALOG, TOY_POINTS

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# ---------------------------------------------------------------------------------------------------------------------
# Formats

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(content: bytes) -> np.ndarray:
    """The array in an IDX file, gzipped or not: two zero bytes, a type, the number of axes, big-endian sizes and values.

    Raises DataError where it is damaged.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"the gzipped IDX file is damaged ({error}): fetch it again") from error
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in _IDX_TYPES:
        raise DataError(f"not an IDX file: it begins with {content[:4]!r}")
    dtype, axes = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(f"the IDX file has {len(content)} bytes, but {expected} for its shape {shape}: fetch it again")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _npz(path: Path, *keys: str) -> list[np.ndarray]:
    """Arrays ``keys`` of an .npz file; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[key] for key in keys]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged or not the expected file ({error}): replace it") from error


# ---------------------------------------------------------------------------------------------------------------------
# The sets


def _pictures(name: str, train: np.ndarray, test: np.ndarray, labels: np.ndarray, levels: int) -> Data:
    pixels = np.concatenate([train, test])
    aside = np.arange(len(train), len(pixels))
    return images.from_array(pixels, {"label": labels.astype(np.int64)}, name=name, levels=levels, test=aside)


def _mnist(name: str) -> Data:
    local, fetched = files(name)
    if local is not None:
        train, train_labels, test, test_labels = _npz(local, "x_train", "y_train", "x_test", "y_test")
    else:
        train, train_labels, test, test_labels = (read_idx(path.read_bytes()) for path in fetched)
    data = _pictures(name, train, test, np.concatenate([train_labels, test_labels]), 256)
    if name == "fashion-mnist":
        classes = ", ".join(f"{i} {label}" for i, label in enumerate(_FASHION_CLASSES))
        return replace(data, notes=(f"the labels are {classes}",))
    return data


def _binarized(name: str) -> Data:
    local, _ = files(name)
    assert local is not None
    keys = ("train", "valid", "test", "y_train", "y_valid", "y_test")
    train, valid, test, *labels = _npz(local, *keys)
    # Each row packs the 784 pixels of an image, eight a byte.
    learn, aside = (np.unpackbits(packed, axis=1).reshape(-1, 28, 28) for packed in (np.concatenate([train, valid]), test))
    return _pictures(name, learn, aside, np.concatenate(labels), 2)


def _emoji(name: str) -> Data:
    local, _ = files(name)
    assert local is not None
    keys = ("images", "set", "category", "category_names", "subcategory", "subcategory_names", "caption")
    pixels, sets, categories, category_names, finer, finer_names, captions = _npz(local, *keys)
    columns = {
        "set": np.array(["twemoji", "noto"])[sets],
        "category": category_names[categories],
        "subcategory": finer_names[finer],
        "caption": captions,
    }
    return images.from_array(pixels, columns, name=name, levels=256)


def _digits(name: str) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return images.from_array(bunch.images.astype(np.uint8), {"label": bunch.target}, name=name, levels=17)


def _spoken(name: str, length: int | None) -> Data:
    local, _ = files(name)
    assert local is not None
    keys = ("audio", "offsets", "digit", "speaker", "speaker_names", "index", "sample_rate")
    audio, offsets, digit, speaker, names, index, sample_rate = _npz(local, *keys)
    lengths, rate = np.diff(offsets).tolist(), int(sample_rate)
    if length is not None:
        signals.check_length(length)
    size = signals.fitting(lengths) if length is None else length
    x = np.zeros((len(lengths), 1, size), np.float32)
    for row, (start, n) in enumerate(zip(offsets, np.minimum(lengths, size), strict=False)):
        x[row, 0, :n] = audio[start : start + n] / 32768
    described, side = images.side_columns({"label": digit.astype(np.int64), "speaker": names[speaker]}, len(x))
    kind = Signal(1, size, rate, flat=True, dtype="float32")
    notes = signals.fitting_note(lengths, size, rate)
    store = ArrayStore(x, side)
    # the official split is by the number of the recording
    aside = np.flatnonzero(index < 5)
    return Data.of(Schema(kind, extra={"columns": described}), store, name=name, test=aside, notes=tuple(notes))


def _modelnet(name: str, length: int | None) -> Data:
    local, _ = files(name)
    assert local is not None
    stored, scale, label, classes, split = _npz(local, "points", "scale", "label", "class_names", "split")
    x, kind = points.arranged(stored.astype(np.float32) * scale, name)
    x, kind, notes = points.thinned(x, kind, length, name)
    described, side = images.side_columns({"label": classes[label]}, len(x))
    schema = Schema(kind, extra={"columns": described})
    aside = np.flatnonzero(split == 1)
    return Data.of(schema, ArrayStore(x, side), name=name, test=aside, notes=("the second coordinate points up", *notes))


def _toy(name: str) -> Data:
    drawn = toys.sample(name, TOY_POINTS, seed=0).astype(np.float32)
    return Data.of(Schema(Vector(2, dtype="float32")), TensorStore(torch.from_numpy(drawn.astype(np.float64))), name=name)


def _table(name: str, types: Mapping[str, Any] | None) -> Data:
    from pushforward.data.tabular import open_table

    local, fetched = files(name)
    return open_table(local or fetched[0], types=types, name=name)


_IMAGES: dict[str, Callable[[str], Data]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _mnist,
    "binarized-mnist": _binarized,
    "dynamic-mnist": lambda name: binarised(_mnist(name)),
    "emoji": _emoji,
}


def open_bundled(
    name: str,
    *,
    resize: int | tuple[int, int] | None = None,
    length: int | None = None,
    types: Mapping[str, Any] | None = None,
) -> Data:
    """The data set ``name``, one of ``NAMES``.

    ``resize`` (pixels) is for images, ``types`` (column types) for tables, ``length`` for text (characters a row), signals
    (samples) and points (points in a set). Official test rows are set aside in ``Data.test``. Toys are 10 000 points from a
    fixed seed.

    Raises DataError for an unknown name, an option that does not apply, and a set that can neither be found nor fetched.
    """
    if name not in CATALOG:
        raise DataError(f"there is no data set {name!r}: {did_you_mean(name, CATALOG)}")
    kind = CATALOG[name].kind
    if resize is not None and kind != "image":
        raise DataError(f"{name} has no images: resize does not apply")
    if types and kind != "table":
        raise DataError(f"{name} is no table: types does not apply")
    if kind == "table":
        data = _table(name, types)
    elif kind == "text":
        local, fetched = files(name)
        data = replace(text.open_text(local or fetched[0], length=length), name=name)
    elif kind == "signal":
        data = _spoken(name, length)
    elif kind == "points":
        data = _modelnet(name, length)
    elif kind == "toy":
        data = _toy(name)
    else:
        data = _IMAGES[name](name)
        if resize is not None:
            data = images.resized(data, resize)
    return replace(data, origin=name)
