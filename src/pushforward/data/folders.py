"""Folders of images into ``Data``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Image, Schema
from pushforward.data.dataset import Data, Rows, Store, TensorStore
from pushforward.data.imagefiles import SUFFIXES, asked_size, header_size, parallel, read_image, shown, widen
from pushforward.data.images import side_columns

# Folders whose codes take more bytes than this are decoded row by row instead of held in memory.
IN_MEMORY = 2 * 2**30


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
            pixels = read_image(path, self.size if self.resize else None, self.channels)
            if pixels.shape[:2] != self.size:
                raise DataError(f"{path} is now {shown(pixels.shape[:2])}, was {shown(self.size)} (height×width)")
            return pixels

        x = np.empty((len(index), self.channels, *self.size), np.uint8)
        for row, pixels in enumerate(parallel(load, [int(i) for i in index])):
            x[row] = pixels.transpose(2, 0, 1)
        at = torch.from_numpy(np.ascontiguousarray(index))
        return Rows(torch.from_numpy(x), {name: values[at] for name, values in self.columns.items()})


def find(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> tuple[list[Path], list[str]]:
    """Files with one of the ``suffixes``, and the names of the other files, below ``folder``; hidden ones and loops of links
    are passed over."""
    found: list[Path] = []
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
            if path.suffix.lower() in suffixes and not name.startswith("."):
                found.append(path)
            else:
                others.append(str(path.relative_to(folder)))
    return sorted(found, key=lambda path: path.relative_to(folder).parts), sorted(others)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _mixed(folder: Path, sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> DataError:
    counts = Counter(sizes).most_common()
    found = [f"{shown(size)} ({n}, e.g. {files[sizes.index(size)].name})" for size, n in counts]
    return DataError(
        f"the images in {folder} have {len(counts)} different sizes (height×width): {some_of(found)}. "
        "Use --resize N to bring them to one size"
    )


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
    size = asked_size(resize)
    files, others = find(folder)
    if not files:
        found = f"only {some_of(others)}" if others else "nothing"
        raise DataError(f"there are no images in {folder} (found {found}): expected {', '.join(s[1:] for s in SUFFIXES)} files")
    if size is None:
        # Headers are quick to read, so that mixed sizes are reported before everything is decoded.
        sizes = list(parallel(header_size, files))
        if len(set(sizes)) > 1:
            raise _mixed(folder, sizes, files)

    kept: list[np.ndarray] = []
    held, shapes, channels = 0, [], 0
    for pixels in parallel(lambda file: read_image(file, size, 1 if grey else None), files):
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

    columns, codes = side_columns(labels(folder, files), len(files))
    notes = [f"files that are no images were skipped ({len(others)}): {some_of(others)}"] if others else []
    store: Store
    if len(files) * channels * height * width <= IN_MEMORY:
        x = np.empty((len(files), channels, height, width), np.uint8)
        kept.reverse()
        for row in range(len(files)):
            # Taken off the list, so that no second copy of all pixels is held.
            x[row] = widen(kept.pop(), channels).transpose(2, 0, 1)
        store = TensorStore(torch.from_numpy(x), codes)
    else:
        names = tuple(str(file.relative_to(folder)) for file in files)
        store = FolderStore(str(folder), names, channels, (height, width), size is not None, codes)
        notes.append("the images are decoded from their files as they are needed: they would fill too much memory")
    schema = Schema(Image(channels, height, width), extra={"columns": columns} if columns else {})
    return Data.of(schema, store, name=folder.resolve().name, notes=tuple(notes), origin=str(folder))


def labels(folder: Path, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The side column ``label``: the first folder on the way to each file, None for loose files. None where all are loose."""
    parts = [file.relative_to(folder).parts for file in files]
    first = np.array([p[0] if len(p) > 1 else None for p in parts], dtype=object)
    return {"label": first} if any(label is not None for label in first) else {}
