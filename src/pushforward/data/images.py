"""Images: arrays into ``Data``, and codes back into pixels, contact sheets and PNG files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind, Image, Schema
from pushforward.data.dataset import Data, TensorStore
from pushforward.data.imagefiles import (
    BLOCK,
    asked_size,
    fit,
    natural,
    parallel,
    pixels_of,
    shown,
    widen,
)

CHANNELS = (1, 3, 4)


def side_columns(columns: Mapping[str, Any] | None, rows: int) -> tuple[list[Column], dict[str, Tensor]]:
    """Category columns and their codes (float64) for arrays of whole numbers or strings; None is missing."""
    described: list[Column] = []
    codes: dict[str, Tensor] = {}
    for name, given in (columns or {}).items():
        values = np.asarray(given)
        if values.shape != (rows,):
            raise DataError(f"column {name!r} has shape {values.shape}: expected one value for each of the {rows} images")
        listed = [None if isinstance(v, float) and math.isnan(v) else v for v in values.tolist()]
        present = {v for v in listed if v is not None}
        types = {type(v) for v in present}
        if len(types) != 1 or not types <= {int, str, bool}:
            found = " and ".join(sorted(t.__name__ for t in types)) or "nothing"
            raise DataError(f"column {name!r} holds {found}: expected whole numbers or strings")
        categories = sorted(present)
        missing = None in listed
        code = {v: i for i, v in enumerate(categories)} | {None: len(categories)}
        dtype = "str" if types == {str} else values.dtype.name if values.dtype.kind in "biu" else types.pop().__name__
        described.append(Column(name, ColumnKind.CATEGORY, tuple(categories), missing=missing, dtype=dtype))
        codes[name] = torch.tensor([code[v] for v in listed], dtype=torch.float64)
    return described, codes


def _numpy(array: Any) -> np.ndarray:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    try:
        return np.asarray(array)
    except ValueError as error:
        raise DataError(f"the images are no array ({error}): they must have one size") from error


def _channels_first(array: np.ndarray) -> np.ndarray:
    """A (N, C, H, W) view of (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4:
        first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if first and last:
            # Both readings are possible only where a side is 1, 3 or 4 pixels: take the one that makes squares.
            last = array.shape[1] == array.shape[2] or array.shape[2] != array.shape[3]
        if last:
            return array.transpose(0, 3, 1, 2)
        if first:
            return array
    raise DataError(
        f"the array has shape {array.shape}: expected images as (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4"
    )


def _first_bad(pixels: np.ndarray, bad: Callable[[np.ndarray], np.ndarray]) -> int:
    return next((row for row, image in enumerate(pixels) if bad(image).any()), 0)


def _codes(pixels: np.ndarray, levels: int | None) -> tuple[np.ndarray, int]:
    """uint8 copy of ``pixels`` and the number of levels; floats within [0, 1] are fractions of the highest level."""
    if levels is not None and not 2 <= levels <= 256:
        raise DataError(f"levels is {levels}: expected 2 to 256")
    if pixels.dtype.kind not in "biuf":
        raise DataError(f"the array has dtype {pixels.dtype}: expected whole numbers 0 to 255 or floats in [0, 1]")
    if pixels.size == 0:
        return np.zeros(pixels.shape, np.uint8), levels or 256
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(low + high):
        row = _first_bad(pixels, lambda image: ~np.isfinite(image))
        raise DataError(f"image {row} holds NaN or infinite pixels: remove it or fill them")
    if low < 0:
        row = _first_bad(pixels, lambda image: image < 0)
        raise DataError(
            f"image {row} holds negative pixels (lowest {low:g}): expected whole numbers 0 to 255 or floats in [0, 1]"
        )
    blocks = range(0, len(pixels), BLOCK)
    binary = high <= 1 and all(((b == 0) | (b == 1)).all() for b in (pixels[i : i + BLOCK] for i in blocks))
    top = (2 if binary and levels is None else levels or 256) - 1
    fractions = pixels.dtype.kind == "f" and high <= 1
    if not fractions and high > top:
        hint = "" if high <= 255 else "; divide by the highest value for floats in [0, 1]"
        raise DataError(f"the pixels reach {high:g}: expected whole numbers 0 to {top} or floats in [0, 1]{hint}")
    codes = np.empty(pixels.shape, np.uint8)
    for i in blocks:
        block = pixels[i : i + BLOCK]
        if fractions:
            block = np.rint(block.astype(np.float64) * top)
        elif block.dtype.kind == "f" and (block != np.rint(block)).any():
            raise DataError(f"the pixels are fractions from {low:g} to {high:g}: expected whole numbers or floats in [0, 1]")
        codes[i : i + BLOCK] = block
    return codes, top + 1


def from_array(
    array: Any,
    columns: Mapping[str, Any] | None = None,
    *,
    name: str = "images",
    levels: int | None = None,
    test: Any = None,
) -> Data:
    """Images in an array (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4, as ``Data``. The pixels are copied.

    Pixels are whole numbers from 0, or floats in [0, 1] that are scaled to the highest level and rounded. ``levels``
    is 2 where all pixels are 0 or 1, otherwise 256, unless given. ``columns`` are side columns {name: (N,) whole
    numbers or strings}, which become categories in sorted order; ``test`` the rows that are set aside for testing.

    Raises DataError for other shapes, types and values.
    """
    pixels = _channels_first(_numpy(array))
    count = len(pixels)
    if pixels.size == 0:
        raise DataError(f"the array of images is empty (shape {pixels.shape})")
    described, side = side_columns(columns, count)
    codes, found = _codes(pixels, levels)
    aside = None
    if test is not None:
        aside = np.unique(np.asarray(test, dtype=np.int64))
        if len(aside) and (aside[0] < 0 or aside[-1] >= count):
            raise DataError(f"the test rows run from {aside[0]} to {aside[-1]}: expected rows from 0 to {count - 1}")
    _, channels, height, width = codes.shape
    schema = Schema(Image(channels, height, width, found), extra={"columns": described} if described else {})
    return Data.of(schema, TensorStore(torch.from_numpy(codes), side), name=name, test=aside)


# ---------------------------------------------------------------------------------------------------------------------
# Codes and pixels


def _expected(kind: Image) -> str:
    sizes = f"{shown((kind.height, kind.width))} pixels (height×width) and {kind.channels} channel"
    return sizes + ("s" if kind.channels > 1 else "")


def _arranged(kind: Image, array: np.ndarray) -> np.ndarray:
    """A (B, C, H, W) view of an array of images of ``kind``, whichever of the layouts it has."""
    if array.ndim == 4 and array.shape[1:] == kind.shape:
        return array
    if array.ndim == 4 and array.shape[1:] == (kind.height, kind.width, kind.channels):
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 3 and kind.channels == 1 and array.shape[1:] == kind.shape[1:]:
        return array[:, None]
    raise DataError(f"found images of shape {array.shape}: expected {_expected(kind)}, as {('B', *kind.shape)}")


def _encode_one(kind: Image, item: Any, row: int) -> np.ndarray:
    """uint8 (1, C, H, W) of a Pillow image or an array."""
    if not isinstance(item, Pillow.Image):
        try:
            return _codes(_arranged(kind, _numpy(item)[None]), kind.levels)[0]
        except DataError as error:
            raise DataError(f"image {row}: {error}") from error
    image = natural(item.copy())
    have = {"L": 1, "RGB": 3, "RGBA": 4}[image.mode]
    if (image.height, image.width) != (kind.height, kind.width) or have > kind.channels:
        found = f"{shown((image.height, image.width))} pixels and {have} channel{'s' if have > 1 else ''}"
        raise DataError(f"image {row} has {found}: expected {_expected(kind)}; convert or resize it first")
    pixels = widen(pixels_of(image), kind.channels).transpose(2, 0, 1)[None]
    if kind.levels == 256:
        return pixels
    return np.rint(pixels.astype(np.float64) * ((kind.levels - 1) / 255)).astype(np.uint8)


def encode(kind: Image, raw: Any) -> Tensor:
    """Codes uint8 (B, C, H, W) of ``raw``: an array in any of the layouts, or a list of Pillow images or arrays.

    Whole numbers are codes 0 … levels-1; floats in [0, 1] are fractions of the highest level, as are Pillow images of
    255. A Pillow image may have fewer channels than ``kind`` (grey, opaque), never more. Raises DataError where size,
    channels or values do not fit.
    """
    if isinstance(raw, Pillow.Image):
        raw = [raw]
    if isinstance(raw, (list, tuple)):
        items = [item if isinstance(item, Pillow.Image) else _numpy(item) for item in raw]
        if not items:
            return torch.empty((0, *kind.shape), dtype=torch.uint8)
        arrays = [item for item in items if isinstance(item, np.ndarray)]
        if len(arrays) == len(items) and len({item.shape for item in arrays}) == 1:
            raw = np.stack(arrays)
        else:
            return torch.from_numpy(np.concatenate([_encode_one(kind, item, row) for row, item in enumerate(items)]))
    return torch.from_numpy(_codes(_arranged(kind, _numpy(raw)), kind.levels)[0])


def decode(kind: Image, x: Tensor) -> np.ndarray:
    """Pixels 0 … levels-1 as uint8 (B, H, W) for one channel, (B, H, W, C) otherwise, of codes (B, C, H, W)."""
    if x.ndim != 4 or tuple(x.shape[1:]) != kind.shape:
        raise DataError(f"found codes of shape {tuple(x.shape)}: expected {('B', *kind.shape)}")
    x = x.detach()
    if x.dtype != torch.uint8:
        x = (x.round() if x.is_floating_point() else x).clamp(0, kind.levels - 1).to(torch.uint8)
    pixels = x.cpu().numpy()
    return np.ascontiguousarray(pixels[:, 0] if kind.channels == 1 else pixels.transpose(0, 2, 3, 1))


def to_display(kind: Image, x: Tensor) -> np.ndarray:
    """As ``decode``, with the levels spread over 0 … 255."""
    pixels = decode(kind, x)
    if kind.levels == 256:
        return pixels
    shades = np.rint(np.arange(256) * (255 / (kind.levels - 1))).clip(0, 255).astype(np.uint8)
    return shades[pixels]


def grid(kind: Image, x: Tensor, columns: int | None = None, pad: int = 1) -> np.ndarray:
    """A contact sheet of codes (B, C, H, W): uint8 (H', W') for one channel, (H', W', C) otherwise.

    ``columns`` images a row (by default as many as make the sheet square), ``pad`` white pixels around each.
    """
    pixels = to_display(kind, x)
    count = len(pixels)
    if count == 0:
        raise DataError("there are no images to show")
    across = min(count, columns) if columns else math.ceil(math.sqrt(count))
    if across < 1 or pad < 0:
        raise DataError(f"columns is {columns} and pad {pad}: expected at least 1 column and no negative pad")
    down = math.ceil(count / across)
    step_h, step_w = kind.height + pad, kind.width + pad
    sheet = np.full((down * step_h + pad, across * step_w + pad, *pixels.shape[3:]), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = pad + i // across * step_h, pad + i % across * step_w
        sheet[top : top + kind.height, left : left + kind.width] = image
    return sheet


def save_png(array: np.ndarray, path: str | os.PathLike[str] | BinaryIO) -> None:
    """Write uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as PNG to a path or a binary file. Raises DataError else."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise DataError(f"found {array.dtype} of shape {array.shape}: expected uint8 (H, W), (H, W, 3) or (H, W, 4)")
    Pillow.fromarray(np.ascontiguousarray(array)).save(path, format="PNG")


def resized(data: Data, resize: int | tuple[int, int]) -> Data:
    """``data``, images in memory, scaled and cut to ``resize`` as ``open_folder`` does; the levels become 256."""
    size = asked_size(resize)
    kind = data.schema.example
    if not isinstance(kind, Image) or not isinstance(data.store, TensorStore):
        raise DataError(f"{data.name} are no images in memory: resize does not apply")
    assert size is not None
    if size == (kind.height, kind.width):
        return data
    pixels = to_display(kind, data.store.x)
    x = np.empty((len(pixels), kind.channels, *size), np.uint8)

    def shrink(start: int) -> None:
        for row in range(start, min(start + BLOCK, len(pixels))):
            x[row] = pixels_of(fit(Pillow.fromarray(pixels[row]), size)).transpose(2, 0, 1)

    for _ in parallel(shrink, range(0, len(pixels), BLOCK)):
        pass
    notes = data.notes
    if kind.levels != 256:
        notes = (*notes, f"resizing blends the {kind.levels} levels: the pixels are now 0 to 255")
    schema = Schema(Image(kind.channels, *size), data.schema.conditions, data.schema.target, data.schema.extra)
    store = TensorStore(torch.from_numpy(x), data.store.columns)
    return Data(schema, store, data.index, data.name, data.test, notes, data.origin)
