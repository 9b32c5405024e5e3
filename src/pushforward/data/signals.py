"""Signals: arrays and folders of .wav files into ``Data``, and codes back into .wav files.

Codes are the numbers of the user's array, or of a recording in [−1, 1] whatever its file holds: a whole number is divided by
the largest of its type.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Schema, Signal
from pushforward.data.arrays import ArrayStore, check_finite, real
from pushforward.data.dataset import Data, Rows, Store
from pushforward.data.folders import find, labels, some_of
from pushforward.data.imagefiles import parallel
from pushforward.data.images import side_columns

SUFFIXES = (".wav", ".wave")
# Recordings that scipy cannot read, for a message that says what to do.
OTHERS = (".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
IN_MEMORY = 2 * 2**30
_SHARE = 0.9  # of recordings that the length holds whole, where they differ
_DIVISIONS = 32


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def arranged(array: Any, place: str, rate: int | None = None, holes: bool = False) -> tuple[np.ndarray, Signal]:
    """A real array (N, L) or (N, C, L) as (N, C, L), not copied, and its kind.

    Raises DataError for other ranks and types, and for values that are not finite (NaN passes with ``holes``).
    """
    values, container, dtype = real(array, place)
    if values.ndim not in (2, 3) or 0 in values.shape[1:]:
        raise DataError(f"{place} is an array of shape {tuple(values.shape)}: expected signals as (N, L) or (N, C, L)")
    flat = values.ndim == 2
    check_finite(values, place, ("sample",) if flat else ("channel", "sample"), holes)
    values = values[:, None] if flat else values
    return values, Signal(values.shape[1], values.shape[2], rate, flat, container, dtype)


def resized(values: np.ndarray, kind: Signal, length: int | None) -> tuple[np.ndarray, Signal, list[str]]:
    """Signals (N, C, L) cut, or filled with zeros, to ``length`` samples where that is given; and a note."""
    if length is None or length == kind.length:
        return values, kind, []
    check_length(length)
    did = "cut" if length < kind.length else "filled with zeros"
    values = pieces(values, length)
    return values, _with_length(kind, length), [f"the signals of {kind.length} samples are {did} to {length}"]


def check_length(length: Any) -> None:
    """Raises DataError where ``length`` is no number of samples or points."""
    if not isinstance(length, (int, np.integer)) or length < 1:
        raise DataError(f"length is {length!r}: expected a whole number of at least 1")


def pieces(values: np.ndarray, length: int) -> np.ndarray:
    """The first ``length`` samples along the last axis, zeros after the end of what is shorter."""
    short = length - values.shape[-1]
    if short <= 0:
        return values[..., :length]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)])


def _with_length(kind: Signal, length: int) -> Signal:
    return Signal(kind.channels, int(length), kind.rate, kind.flat, kind.container, kind.dtype)


def encode(kind: Signal, values: Any, place: str, holes: bool = False) -> Tensor:
    """Codes float64 (B, C, L), a copy, of new signals of ``kind`` as (B, C, L), or (B, L) where there is one channel."""
    found, other = arranged(values, place, None, holes)
    if other.shape != kind.shape:
        raise DataError(f"{place} has shape {_shape(other)}: expected {_shape(kind)}")
    return torch.from_numpy(np.array(found, dtype=np.float64))


def _shape(kind: Signal) -> str:
    return f"(N, {kind.length})" if kind.flat else f"(N, {kind.channels}, {kind.length})"


# ---------------------------------------------------------------------------------------------------------------------
# Recordings


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """float32 (C, L) of one .wav file, whole numbers scaled to [−1, 1], and its rate. Raises DataError where it is damaged."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of words about the recording
            rate, values = wavfile.read(path)
    except Exception as error:  # scipy raises many types on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} cannot be read as a .wav file: remove or replace it ({reason})") from error
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        # 24 bits come as the upper ones of 32
        values = (values / (np.iinfo(values.dtype).max + 1.0)).astype(np.float32)
    values = values.astype(np.float32).T
    if not values.size:
        raise DataError(f"{path} is a recording of no samples: remove it")
    check_finite(values, str(path), ("sample",))
    return np.ascontiguousarray(values), int(rate)


@dataclass(frozen=True)
class WavStore:
    """Recordings read from their files when they are taken."""

    folder: str
    files: tuple[str, ...]
    kind: Signal
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: np.ndarray) -> Rows:
        """Codes of the rows at ``index``. Raises DataError where a file has gone bad or changed its rate."""
        x = np.empty((len(index), *self.kind.shape), np.float64)
        for row, path in enumerate(Path(self.folder, self.files[int(i)]) for i in index):
            values, rate = read_wav(path)
            if rate != self.kind.rate or len(values) not in (1, self.kind.channels):
                raise DataError(f"{path} is now {_heard(len(values), rate)}, was {_heard(self.kind.channels, self.kind.rate)}")
            x[row] = pieces(values, self.kind.length)
        at = torch.from_numpy(np.ascontiguousarray(index))
        return Rows(torch.from_numpy(x), {name: values[at] for name, values in self.columns.items()})


def _heard(channels: int, rate: int | None) -> str:
    return f"{channels} channel{'s' if channels > 1 else ''} at {rate} Hz"


def open_recordings(path: str | os.PathLike[str], *, length: int | None = None, like: Signal | None = None) -> Data:
    """The .wav files below the folder ``path`` as signals (N, C, L), sorted by their paths.

    ``length`` is the number of samples: what is longer is cut, what is shorter is filled with zeros. By default it is that of
    the files, or where they differ the one that holds nine tenths of them whole. ``like`` is what a model has learned: files
    then have its rate, channels and length. Mono files among stereo ones are repeated in both channels. The first folder on
    the way to a file is its class, the side column ``label``. Recordings of more than ``IN_MEMORY`` bytes altogether stay on
    disk. Raises DataError where there are none, one cannot be read, or rates or channels differ.
    """
    folder = Path(path)
    files, others = find(folder, SUFFIXES)
    if not files:
        raise DataError(f"there are no .wav files in {folder}{_instead(others)}")
    if len(files) < 4 and like is None:
        raise DataError(f"{folder} has {len(files)} .wav files: at least 4 are needed")
    wanted = like.length if like is not None else length
    if wanted is not None:
        check_length(wanted)
    kept: list[np.ndarray] = []
    channels, rates, lengths, held = [], [], [], 0
    for values, rate in parallel(read_wav, files):
        channels.append(len(values))
        lengths.append(values.shape[1])
        rates.append(rate)
        held += len(values) * (wanted or values.shape[1]) * values.itemsize
        # Past the limit this loop only checks that every file can be read.
        if held <= IN_MEMORY:
            kept.append(values if wanted is None else values[:, :wanted].copy())
        else:
            kept.clear()
    notes = [f"files that are no .wav were skipped ({len(others)}): {some_of(others)}"] if others else []
    rate = _one_rate(folder, files, rates, like)
    count = _channels(folder, files, channels, like)
    if len(set(channels)) > 1:
        notes.append(f"{channels.count(1)} mono recordings are repeated in both channels")
    size = wanted or fitting(lengths)
    notes += fitting_note(lengths, size, rate)
    kind = Signal(count, size, rate, count == 1, "numpy", "float32")
    columns, codes = side_columns(labels(folder, files), len(files))
    store: Store
    if len(files) * kind.size * 4 <= IN_MEMORY and len(kept) == len(files):
        x = np.empty((len(files), *kind.shape), np.float32)
        kept.reverse()
        for row in range(len(files)):
            x[row] = pieces(kept.pop(), size)
        store = ArrayStore(x, codes)
    else:
        store = WavStore(str(folder), tuple(str(file.relative_to(folder)) for file in files), kind, codes)
        notes.append("the recordings are read from their files as they are needed: they would fill too much memory")
    schema = Schema(kind, extra={"columns": columns} if columns else {})
    return Data.of(schema, store, name=folder.resolve().name, notes=tuple(notes), origin=str(folder))


def _instead(others: Sequence[str]) -> str:
    recorded = [name for name in others if Path(name).suffix.lower() in OTHERS]
    if recorded:
        how = f"ffmpeg -i {recorded[0]} {Path(recorded[0]).stem}.wav"
        return f" (found {some_of(recorded)}): convert them, for example with {how}"
    return f" (found only {some_of(others)})" if others else " (found nothing)"


def _one_rate(folder: Path, files: Sequence[Path], rates: Sequence[int], like: Signal | None) -> int:
    counts = Counter(rates).most_common()
    if len(counts) > 1:
        found = [f"{rate} Hz ({n}, e.g. {files[rates.index(rate)].name})" for rate, n in counts]
        raise DataError(
            f"the recordings in {folder} have {len(counts)} different rates: {some_of(found)}. Bring them to one rate, for "
            f"example with ffmpeg -i IN.wav -ar {counts[0][0]} OUT.wav"
        )
    if like is not None and like.rate is not None and rates[0] != like.rate:
        raise DataError(f"the recordings in {folder} have {rates[0]} Hz: the model has learned {like.rate} Hz; resample them")
    return rates[0]


def _channels(folder: Path, files: Sequence[Path], channels: Sequence[int], like: Signal | None) -> int:
    """The number of channels of all: a mono recording stands for both channels of a stereo one."""
    most = max(channels) if like is None else like.channels
    odd = next((i for i, c in enumerate(channels) if c not in (1, most)), None)
    if odd is not None:
        raise DataError(f"{files[odd]} has {channels[odd]} channels, others in {folder} {most}: bring all to one number")
    return most


def fitting(lengths: Sequence[int]) -> int:
    """The length of most recordings: their own where it is the same, else one that holds nine tenths of them whole.

    The latter is a small multiple of a power of two (up to a sixteenth longer), so that networks can halve it.
    """
    if len(set(lengths)) == 1:
        return int(lengths[0])
    size = math.ceil(float(np.quantile(np.asarray(lengths), _SHARE)))
    step = 2 ** max(0, math.ceil(math.log2(size / _DIVISIONS)))
    return step * math.ceil(size / step)


def fitting_note(lengths: Sequence[int], size: int, rate: int) -> list[str]:
    """A note where recordings are cut or filled."""
    cut, filled = (sum(fits) for fits in ([n > size for n in lengths], [n < size for n in lengths]))
    if not cut and not filled:
        return []
    ends = f"{min(lengths) / rate:.2f} to {max(lengths) / rate:.2f} s"
    return [
        f"recordings of {ends} are brought to {size} samples ({size / rate:.2f} s; --length changes it): "
        f"{cut} are cut and {filled} end in silence"
    ]


def save_wav(kind: Signal, x: np.ndarray, path: Path) -> None:
    """Write one signal (C, L) as a .wav file of 16 bits; what is beyond [−1, 1] is clipped there. Whole numbers are taken as
    shares of the largest of their type. Raises DataError where the rate is not known."""
    from scipy.io import wavfile

    if kind.rate is None:
        raise DataError("the signals have no known sampling rate, so they cannot be .wav files: write .npy or .npz")
    whole = np.dtype(kind.dtype).kind in "iu" if kind.dtype != "bfloat16" else False
    scale = np.iinfo(kind.dtype).max + 1.0 if whole else 1.0
    pcm = np.clip(np.rint(np.asarray(x, dtype=np.float64) / scale * 32768), -32768, 32767).astype(np.int16)
    with open(path, "wb") as file:
        wavfile.write(file, kind.rate, pcm[0] if len(pcm) == 1 else pcm.T)
