"""One image file: opened safely, turned upright, in as few channels as it needs, at the size asked for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from pushforward.core.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# One image may not unfold to more pixels than this: a small file that does is damaged or an attack.
MAX_PIXELS = 89_478_485

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BLOCK = 1024
T = TypeVar("T")
S = TypeVar("S")


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


def header_size(path: Path) -> tuple[int, int]:
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


def natural(image: Pillow.Image) -> Pillow.Image:
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


def fit(image: Pillow.Image, size: tuple[int, int] | None) -> Pillow.Image:
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


def to_mode(image: Pillow.Image, channels: int) -> Pillow.Image:
    """``image`` (L, RGB or RGBA) with ``channels``; what was transparent becomes white where alpha is given up."""
    if image.mode == "RGBA" and channels < 4:
        ground = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = Pillow.alpha_composite(ground, image)
    return image.convert(MODES[channels])


def pixels_of(image: Pillow.Image) -> np.ndarray:
    """uint8 (H, W, C) of an image in mode L, RGB or RGBA."""
    values = np.asarray(image)
    return values[:, :, None] if values.ndim == 2 else values


def read_image(path: Path, size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """uint8 (H, W, C) of one file, with its natural channels where ``channels`` is None."""

    def use(image: Pillow.Image) -> np.ndarray:
        try:
            plain = natural(image)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if channels is not None:
            plain = to_mode(plain, channels)
        return pixels_of(fit(plain, size))

    return _open(path, use)


def widen(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, c) with ``channels`` >= c: grey is repeated, alpha is opaque."""
    have = pixels.shape[2]
    if have == channels:
        return pixels
    colour = np.repeat(pixels, 3, axis=2) if have == 1 else pixels
    if channels == 3:
        return colour
    return np.concatenate([colour, np.full((*pixels.shape[:2], 1), 255, np.uint8)], axis=2)


def parallel(function: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """``function`` of each item, in order, by threads (Pillow decodes outside the interpreter's lock)."""
    if len(items) < 8:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # In blocks, so that a huge folder does not queue all its images at once.
        for start in range(0, len(items), BLOCK):
            yield from pool.map(function, items[start : start + BLOCK])


def asked_size(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) that ``resize`` asks for. Raises DataError where it is no size of an image."""
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


def shown(size: Sequence[int]) -> str:
    """Sides as people write them: 28×28."""
    return "×".join(str(int(n)) for n in size)
