"""Images: folders of files and arrays into ``Data``, and codes back into pixels, contact sheets and PNG files."""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind, Image, Schema
from pushforward.data.dataset import Data, Rows, Store, TensorStore

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CHANNELS = (1, 3, 4)
# Folders whose codes take more bytes than this are decoded row by row instead of held in memory.
IN_MEMORY = 2 * 2**30
# One image may not unfold to more pixels than this: a small file that does is damaged or an attack.
MAX_PIXELS = 89_478_485

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BLOCK = 1024
T = TypeVar("T")
S = TypeVar("S")


# ---------------------------------------------------------------------------------------------------------------------
# One file


@functools.lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    # Only these decoders run, whatever a file claims to be; others may call outside programs.
    Pillow.init()
    return tuple(name for name in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF") if name in Pillow.OPEN)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip() or type(error).__name__
    return DataError(f"{path} cannot be read as an image: remove or replace it ({reason})")


def _open(path: Path, use: Callable[[Pillow.Image], T]) -> T:
    # Pillow's decoders raise many types of exception on damaged files; each means the same to the user.
    try:
        # Through a file object: Pillow maps a plain TIFF given by its path into memory, and then turns it wrongly.
        with open(path, "rb") as file, Pillow.open(file, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} holds {image.width}×{image.height} pixels, more than {MAX_PIXELS:,}: remove it or make it smaller"
                )
            return use(image)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _header_size(path: Path) -> tuple[int, int]:
    """(height, width) as shown, without decoding the pixels."""

    def use(image: Pillow.Image) -> tuple[int, int]:
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)

    return _open(path, use)


def _from_deep(image: Pillow.Image) -> Pillow.Image:
    """8-bit grey from 16-bit, 32-bit or floating grey."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        values = values * 255
    elif image.mode != "F" and low >= 0 and high <= 65535:
        values = values / 257
    elif not (low >= 0 and high <= 255):
        raise DataError(f"pixel values run from {low:g} to {high:g}: save the image with 8 or 16 bits a pixel")
    return Pillow.fromarray(np.rint(values).astype(np.uint8))


def _natural(image: Pillow.Image) -> Pillow.Image:
    """``image`` upright in the poorest of the modes L, RGB and RGBA that loses nothing."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[:, :, 3].min() < 255:
            return image
    if grey:
        return image.convert("L")
    palette = image.mode in ("P", "PA")
    image = image.convert("RGB")
    if palette:
        red, green, blue = (np.asarray(band) for band in image.split())
        if (red == green).all() and (green == blue).all():
            return image.convert("L")
    return image


def _fit(image: Pillow.Image, size: tuple[int, int] | None) -> Pillow.Image:
    """``image`` scaled until it just covers ``size`` = (height, width), then cut to it about its centre."""
    if size is None or (image.height, image.width) == size:
        return image
    height, width = size
    scale = min(image.height / height, image.width / width)
    half_w, half_h = width * scale / 2, height * scale / 2
    box = (image.width / 2 - half_w, image.height / 2 - half_h, image.width / 2 + half_w, image.height / 2 + half_h)
    # Rounding may put the box a hair outside the image, which Pillow refuses.
    box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(image.width)), min(box[3], float(image.height)))
    # Pillow widens the kernel when it shrinks, so this is antialiased; colours are weighted by their alpha.
    return image.resize((width, height), Pillow.Resampling.BICUBIC, box=box)


def _to_mode(image: Pillow.Image, channels: int) -> Pillow.Image:
    """``image`` (L, RGB or RGBA) with ``channels``; what was transparent becomes white where alpha is given up."""
    if image.mode == "RGBA" and channels < 4:
        ground = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = Pillow.alpha_composite(ground, image)
    return image.convert(_MODES[channels])


def _array(image: Pillow.Image) -> np.ndarray:
    """uint8 (H, W, C) of an image in mode L, RGB or RGBA."""
    values = np.asarray(image)
    return values[:, :, None] if values.ndim == 2 else values


def _read(path: Path, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """uint8 (H, W, C) of one file, with its natural channels where ``channels`` is None."""

    def use(image: Pillow.Image) -> np.ndarray:
        try:
            plain = _natural(image)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if channels is not None:
            plain = _to_mode(plain, channels)
        return _array(_fit(plain, size))

    return _open(path, use)


def _widen(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, c) with ``channels`` >= c: grey is repeated, alpha is opaque."""
    have = pixels.shape[2]
    if have == channels:
        return pixels
    colour = np.repeat(pixels, 3, axis=2) if have == 1 else pixels
    if channels == 3:
        return colour
    return np.concatenate([colour, np.full((*pixels.shape[:2], 1), 255, np.uint8)], axis=2)


def _parallel(function: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """``function`` of each item, in order, by threads (Pillow decodes outside the interpreter's lock)."""
    if len(items) < 8:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # In blocks, so that a huge folder does not queue all its images at once.
        for start in range(0, len(items), _BLOCK):
            yield from pool.map(function, items[start : start + _BLOCK])


# ---------------------------------------------------------------------------------------------------------------------
# Folders


@dataclass(frozen=True)
class FolderStore:
    """Images decoded from their files when they are taken. ``size`` is the (height, width) of all of them."""

    folder: str
    files: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    resize: bool
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: np.ndarray) -> Rows:
        """Codes of the rows at ``index``. Raises DataError where a file has gone bad or changed its size."""

        def load(row: int) -> np.ndarray:
            path = Path(self.folder, self.files[row])
            pixels = _read(path, self.size if self.resize else None, self.channels)
            if pixels.shape[:2] != self.size:
                raise DataError(f"{path} is now {_shown(pixels.shape[:2])}, was {_shown(self.size)} (height×width)")
            return pixels

        x = np.empty((len(index), self.channels, *self.size), np.uint8)
        for row, pixels in enumerate(_parallel(load, [int(i) for i in index])):
            x[row] = pixels.transpose(2, 0, 1)
        at = torch.from_numpy(np.ascontiguousarray(index))
        return Rows(torch.from_numpy(x), {name: values[at] for name, values in self.columns.items()})


def _shown(size: Sequence[int]) -> str:
    return "×".join(str(int(n)) for n in size)


def _find(folder: Path) -> tuple[list[Path], list[str]]:
    """Image files, and the names of the other files, below ``folder``; hidden ones and loops of links are passed over."""
    images: list[Path] = []
    others: list[str] = []
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            path = Path(here, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                images.append(path)
            else:
                others.append(str(path.relative_to(folder)))
    return sorted(images, key=lambda path: path.relative_to(folder).parts), sorted(others)


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _mixed(folder: Path, sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> DataError:
    counts = Counter(sizes).most_common()
    shown = [f"{_shown(size)} ({n}, e.g. {files[sizes.index(size)].name})" for size, n in counts]
    return DataError(
        f"the images in {folder} have {len(counts)} different sizes (height×width): {_listed(shown)}. "
        "Use --resize N to bring them to one size"
    )


def _side(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if resize is None:
        return None
    try:
        pair = (resize, resize) if isinstance(resize, (int, np.integer)) else tuple(resize)
        height, width = (int(n) for n in pair)
    except (TypeError, ValueError):
        raise DataError(f"resize is {resize!r}: give one number of pixels, or (height, width)") from None
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DataError(f"resize is {resize!r}: sides must be at least 1 pixel, and the image at most {MAX_PIXELS:,} pixels")
    return height, width


def open_folder(
    path: str | os.PathLike[str],
    *,
    resize: int | tuple[int, int] | None = None,
    grey: bool | None = None,
) -> Data:
    """The images below the folder ``path`` as uint8 (N, C, H, W), sorted by their paths.

    ``resize`` is a side in pixels or (height, width): the image is scaled (antialiased) to cover it and cut about its
    centre. ``grey=True`` makes one channel of all images, ``grey=False`` at least three; by default there is one
    channel when all are grey, four when any image is really transparent, otherwise three.

    The first folder on the way to an image is its class, the side column ``label``; images that lie loose beside
    class folders have a missing label. Files that are no images are skipped and noted. Images of more than
    ``IN_MEMORY`` bytes altogether stay on disk and are decoded when taken.

    Raises DataError where there are no images, one cannot be decoded, or sizes differ and ``resize`` is not given.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}")
    size = _side(resize)
    files, others = _find(folder)
    if not files:
        found = f"only {_listed(others)}" if others else "nothing"
        raise DataError(f"there are no images in {folder} (found {found}): expected {', '.join(s[1:] for s in SUFFIXES)} files")
    if size is None:
        # Headers are quick to read, so that mixed sizes are reported before everything is decoded.
        sizes = list(_parallel(_header_size, files))
        if len(set(sizes)) > 1:
            raise _mixed(folder, sizes, files)

    kept: list[np.ndarray] = []
    held, shapes, channels = 0, [], 0
    for pixels in _parallel(lambda file: _read(file, size, 1 if grey else None), files):
        shapes.append(pixels.shape[:2])
        channels = max(channels, pixels.shape[2], 3 if grey is False else 1)
        held += pixels.nbytes
        # Past the limit this loop only checks that every file decodes and finds the number of channels.
        if held <= IN_MEMORY:
            kept.append(pixels)
        else:
            kept.clear()
    if len(set(shapes)) > 1:
        raise _mixed(folder, shapes, files)
    height, width = shapes[0]

    columns, codes = _side_columns(_labels(folder, files), len(files))
    notes = [f"files that are no images were skipped ({len(others)}): {_listed(others)}"] if others else []
    store: Store
    if len(files) * channels * height * width <= IN_MEMORY:
        x = np.empty((len(files), channels, height, width), np.uint8)
        kept.reverse()
        for row in range(len(files)):
            # Taken off the list, so that no second copy of all pixels is held.
            x[row] = _widen(kept.pop(), channels).transpose(2, 0, 1)
        store = TensorStore(torch.from_numpy(x), codes)
    else:
        names = tuple(str(file.relative_to(folder)) for file in files)
        store = FolderStore(str(folder), names, channels, (height, width), size is not None, codes)
        notes.append("the images are decoded from their files as they are needed: they would fill too much memory")
    schema = Schema(Image(channels, height, width), extra={"columns": columns} if columns else {})
    return Data.of(schema, store, name=folder.resolve().name, notes=tuple(notes), origin=str(folder))


def _labels(folder: Path, files: Sequence[Path]) -> dict[str, np.ndarray]:
    parts = [file.relative_to(folder).parts for file in files]
    labels = np.array([p[0] if len(p) > 1 else None for p in parts], dtype=object)
    return {"label": labels} if any(label is not None for label in labels) else {}


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def _side_columns(columns: Mapping[str, Any] | None, rows: int) -> tuple[list[Column], dict[str, Tensor]]:
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
    blocks = range(0, len(pixels), _BLOCK)
    binary = high <= 1 and all(((b == 0) | (b == 1)).all() for b in (pixels[i : i + _BLOCK] for i in blocks))
    top = (2 if binary and levels is None else levels or 256) - 1
    fractions = pixels.dtype.kind == "f" and high <= 1
    if not fractions and high > top:
        hint = "" if high <= 255 else "; divide by the highest value for floats in [0, 1]"
        raise DataError(f"the pixels reach {high:g}: expected whole numbers 0 to {top} or floats in [0, 1]{hint}")
    codes = np.empty(pixels.shape, np.uint8)
    for i in blocks:
        block = pixels[i : i + _BLOCK]
        if fractions:
            block = np.rint(block.astype(np.float64) * top)
        elif block.dtype.kind == "f" and (block != np.rint(block)).any():
            raise DataError(f"the pixels are fractions from {low:g} to {high:g}: expected whole numbers or floats in [0, 1]")
        codes[i : i + _BLOCK] = block
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
    described, side = _side_columns(columns, count)
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
    sizes = f"{_shown((kind.height, kind.width))} pixels (height×width) and {kind.channels} channel"
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
    image = _natural(item.copy())
    have = {"L": 1, "RGB": 3, "RGBA": 4}[image.mode]
    if (image.height, image.width) != (kind.height, kind.width) or have > kind.channels:
        found = f"{_shown((image.height, image.width))} pixels and {have} channel{'s' if have > 1 else ''}"
        raise DataError(f"image {row} has {found}: expected {_expected(kind)}; convert or resize it first")
    pixels = _widen(_array(image), kind.channels).transpose(2, 0, 1)[None]
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
    size = _side(resize)
    kind = data.schema.example
    if not isinstance(kind, Image) or not isinstance(data.store, TensorStore):
        raise DataError(f"{data.name} are no images in memory: resize does not apply")
    assert size is not None
    if size == (kind.height, kind.width):
        return data
    pixels = to_display(kind, data.store.x)
    x = np.empty((len(pixels), kind.channels, *size), np.uint8)

    def shrink(start: int) -> None:
        for row in range(start, min(start + _BLOCK, len(pixels))):
            x[row] = _array(_fit(Pillow.fromarray(pixels[row]), size)).transpose(2, 0, 1)

    for _ in _parallel(shrink, range(0, len(pixels), _BLOCK)):
        pass
    notes = data.notes
    if kind.levels != 256:
        notes = (*notes, f"resizing blends the {kind.levels} levels: the pixels are now 0 to 255")
    schema = Schema(Image(kind.channels, *size), data.schema.conditions, data.schema.target, data.schema.extra)
    store = TensorStore(torch.from_numpy(x), data.store.columns)
    return Data(schema, store, data.index, data.name, data.test, notes, data.origin)
