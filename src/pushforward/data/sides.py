"""Conditions of more than one number a row: arrays beside the examples, described and turned into codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.derived import grey
from pushforward.core.errors import DataError
from pushforward.core.schema import Column, Image, Kind, Part, Signal, Tokens, Vector
from pushforward.data import arrays, captions, imagefiles, images, signals
from pushforward.data.dataset import Data


def with_sides(data: Data, given: Mapping[str, Any]) -> Data:
    """``data`` with further columns {name: (N, …)} that can be its conditions.

    One value a row is a category or a number, (N, D) a vector, (N, H, W), (N, H, W, C) or (N, C, H, W) an image, brought to
    the size of the examples; beside signals, (N, L) of their length and (N, C, L) are signals. Raises DataError for what is
    none of these.
    """
    described: list[Column | Part] = list(data.schema.extra.get("columns", ()))
    codes: dict[str, Tensor] = {}
    for name, values in given.items():
        array = np.asarray(arrays.to_numpy(values)[0])
        if len(array.shape) == 0 or len(array) != len(data.store):
            raise DataError(f"'{name}' of {data.name} has shape {array.shape}: expected {len(data.store)} rows, as there are")
        if array.ndim == 1:
            text = array.dtype.kind in "OUS"
            found, side = (images.side_columns({name: array}, len(array)) if text
                           else arrays._side({name: array}, len(array), data.name))  # fmt: skip
            described += found
            codes |= side
        else:
            part, codes[name] = _described(name, array, data.schema.example, data.name)
            described.append(part)
    store: Any = replace(data.store, columns={**data.store.columns, **codes})  # type: ignore[attr-defined, type-var]
    schema = replace(data.schema, extra={**data.schema.extra, "columns": described})
    return replace(data, schema=schema, store=store)


def _described(name: str, array: np.ndarray, example: Kind, place: str) -> tuple[Part, Tensor]:
    where = f"'{name}' of {place}"
    if isinstance(example, Signal) and (array.ndim == 3 or array.shape[1] == example.length):
        values, kind = signals.arranged(array, where, example.rate)
        if kind.length != example.length:
            raise DataError(f"{where} has {kind.length} samples a row: expected {example.length}, as the examples")
        codes = torch.from_numpy(np.array(values, dtype=np.float64))
        return Part(name, kind, "", *_moments(codes, (0, 2))), codes
    if array.ndim == 2:
        values, vector = arrays.vectors(array, where)
        codes = torch.from_numpy(np.array(values, dtype=np.float64))
        return Part(name, vector, "", *_moments(codes, (0,))), codes
    if not isinstance(example, Image):
        raise DataError(f"{where} has shape {array.shape}: images can be conditions of images only, expected (N,) or (N, D)")
    try:
        pixels, levels = images._codes(images._channels_first(array), None)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    picture = Image(pixels.shape[1], example.height, example.width, levels)
    return Part(name, picture), _resized(picture, torch.from_numpy(pixels))


def _moments(codes: Tensor, over: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = codes.mean(over), codes.std(over, unbiased=False)
    return tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist())


# new values ---------------------------------------------------------------------------------------------------------


def encode(part: Part, values: Any, place: str = "the condition") -> Tensor:
    """Codes (B, *part.kind.shape) of new values, one for each row: texts, vectors, images of any size, or signals.

    Raises DataError where they do not fit.
    """
    kind, where = part.kind, f"'{part.name}' of {place}"
    if isinstance(kind, Tokens):
        texts = values.tolist() if hasattr(values, "tolist") else list(values)
        return captions.encode(kind, [None if t != t else t for t in texts], where)
    if isinstance(kind, Vector):
        found, _ = arrays.vectors(values if hasattr(values, "shape") else np.asarray(values), where, kind.length)
        return torch.from_numpy(np.array(found, dtype=np.float64))
    if isinstance(kind, Signal):
        return signals.encode(kind, values, where, False)
    assert isinstance(kind, Image)
    try:
        if isinstance(values, (list, tuple)):
            each = [_pixels(kind, value, part.made) for value in values]
        else:
            each = list(_many(kind, arrays.to_numpy(values)[0]))
        return torch.cat([_fitted(part, torch.from_numpy(np.ascontiguousarray(p))[None]) for p in each])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def decode(part: Part, codes: Tensor) -> Any:
    """Values that ``encode`` takes, of codes (B, *part.kind.shape)."""
    if isinstance(part.kind, Tokens):
        return captions.decode(part.kind, codes)
    found = codes.detach().cpu().numpy()
    return found[:, 0] if isinstance(part.kind, Signal) and part.kind.flat else found


def repeated(part: Part, value: Any, n: int) -> Any:
    """``value`` for ``n`` rows, as ``encode`` takes it: one text, vector, image or signal is that of all. On a command line an
    image is a file and a vector numbers with commas between. Raises DataError where there are neither one nor ``n``."""
    kind = part.kind
    if isinstance(kind, Vector) and isinstance(value, str):
        try:
            value = [float(word) for word in value.split(",")]
        except ValueError:
            raise DataError(f"condition '{part.name}' is '{value}': expected {kind.length} numbers, as 1,2,3") from None
    if isinstance(value, (str, Path, Pillow.Image)):
        return [value] * n
    nested = isinstance(value, (list, tuple)) and (isinstance(kind, Tokens) or (isinstance(kind, Image) and len(value) > 0
                                                   and not np.isscalar(value[0])))  # fmt: skip
    if nested:
        several, rows = True, len(value)
    else:
        value = arrays.to_numpy(value)[0]
        several, rows = value.ndim > _dimensions(kind, value, n), len(value) if value.ndim else 0
    if not several:
        return [value] * n if isinstance(kind, Image) else np.repeat(value[None], n, 0)
    if rows != n:
        raise DataError(f"condition '{part.name}' has {rows} values for {n} samples: give one or {n}")
    return value


def _dimensions(kind: Kind, value: np.ndarray, n: int) -> int:
    """Of one value of the kind."""
    if isinstance(kind, Image):
        many = value.ndim == 3 and len(value) == n and kind.channels == 1 and value.shape[1:] == kind.shape[1:]
        return 2 if many or (value.ndim == 3 and not {value.shape[0], value.shape[2]} & {1, 2, 3, 4, 5}) else 3
    return 2 if isinstance(kind, Signal) and not kind.flat else 1


def _many(kind: Image, values: np.ndarray) -> np.ndarray:
    """Codes (N, C, H, W) of an array of images in any of the layouts."""
    if values.ndim == 4 and values.shape[1] not in images.CHANNELS and values.shape[3] not in images.CHANNELS:
        values = values if values.shape[1] == kind.channels else values.transpose(0, 3, 1, 2)
    else:
        values = images._channels_first(values)
    return images._codes(values, kind.levels)[0]


def _pixels(kind: Image, value: Any, made: str) -> np.ndarray:
    """Codes (C, H, W) of a file, a Pillow image or an array."""
    if isinstance(value, (str, Path)):
        path = Path(value).expanduser()
        if not path.is_file():
            raise DataError(f"there is no file '{path}'")
        if made != "visible":
            value = Pillow.fromarray(imagefiles.read_image(path, None, None).squeeze())
        else:
            imagefiles.header_size(path)  # says what is wrong with a file that is no image
            value = Pillow.open(path)
    if not isinstance(value, Pillow.Image):
        array = arrays.to_numpy(value)[0]
        return _many(kind, array[None])[0]
    # what is transparent is what is hidden
    seen = "LA" if kind.channels == 2 else "RGBA"
    image = value.convert(seen) if made == "visible" else imagefiles.natural(value.copy())
    found = np.asarray(image)
    found = (found[:, :, None] if found.ndim == 2 else found).transpose(2, 0, 1)
    return np.rint(found * ((kind.levels - 1) / 255)).astype(np.uint8)


def _fitted(part: Part, pixels: Tensor) -> Tensor:
    """Codes (1, C, H, W) of the part's own channels and size."""
    kind = part.kind
    assert isinstance(kind, Image)
    have, want = pixels.shape[1], kind.channels
    if have != want and part.made != "visible":
        if have in (2, 4):
            pixels, have = pixels[:, : have - 1], have - 1
        if want == 1:
            pixels = grey(pixels) if have == 3 else pixels
        elif have == 1:
            pixels = pixels.expand(-1, min(want, 3), -1, -1)
        if want == pixels.shape[1] + 1:
            pixels = torch.cat([pixels, torch.full_like(pixels[:, :1], kind.levels - 1)], 1)
    if pixels.shape[1] != want:
        what = "; the last says what is visible" if part.made == "visible" else ""
        raise DataError(f"found an image of {have} channels: expected {want}{what}")
    pixels = _resized(kind, pixels)
    if part.made == "visible":
        seen = pixels[:, -1:] > (kind.levels - 1) / 2
        pixels = torch.cat([pixels[:, :-1] * seen, seen.to(torch.uint8) * (kind.levels - 1)], 1)
    return pixels


def _resized(kind: Image, pixels: Tensor) -> Tensor:
    """Codes uint8 (N, C, H, W), cut about their centre and scaled to the size of ``kind``."""
    height, width = pixels.shape[2:]
    if (height, width) == (kind.height, kind.width):
        return pixels
    scale = min(height / kind.height, width / kind.width)
    h, w = max(1, round(scale * kind.height)), max(1, round(scale * kind.width))
    top, left = (height - h) // 2, (width - w) // 2
    cut = pixels[:, :, top : top + h, left : left + w].float()
    # means where it gets smaller
    found = F.interpolate(cut, (kind.height, kind.width), mode="area" if scale > 1 else "bilinear")
    return found.round().clamp(0, kind.levels - 1).to(torch.uint8)


def names(parts: Sequence[Column | Part]) -> list[str]:
    """Names of the conditions that data must hold: all but those made from the example."""
    return [c.name for c in parts if not (isinstance(c, Part) and c.made)]
