"""Known data sets by name: generated, shipped with scikit-learn, found in a folder, or fetched once from their homes.

A file is looked for in the folder ``PUSHFORWARD_DATA``, then in the cache (``PUSHFORWARD_CACHE``, by default
``~/.cache/pushforward``), and then fetched into the cache. Checksums are the SHA-256 of the files as published; where a
home publishes none, the columns and rows of the table are checked instead.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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

TOY_POINTS = 10_000
TIMEOUT = 30.0
# No bundled file is larger than this; a longer answer is not what was asked for.
MAX_BYTES = 200 * 2**20

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
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Remote:
    """One file at its public home. ``sha256`` is None where none is published; then ``header`` and ``rows`` of a CSV are
    what it must have."""

    url: str
    sha256: str | None = None
    header: tuple[str, ...] = ()
    rows: int = 0

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Bundled:
    """One data set: what it is, where it lies below ``PUSHFORWARD_DATA``, and the files of its public home, if any."""

    about: str
    kind: str
    local: str = ""
    remote: tuple[Remote, ...] = ()


def _idx_remotes(home: str, sums: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    return tuple(Remote(f"{home}/{file}", digest) for file, digest in zip(_IDX_FILES, sums, strict=True))


_MNIST_SUMS = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)

_DIAMONDS = ("carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z")
_PENGUINS = (
    "species",
    "island",
    "bill_length_mm",
    "bill_depth_mm",
    "flipper_length_mm",
    "body_mass_g",
    "sex",
    "year",
)

CATALOG: dict[str, Bundled] = {
    "digits": Bundled("1797 handwritten digits, 8×8, 17 grey levels, with labels (ships with scikit-learn)", "image"),
    "mnist": Bundled(
        "70 000 handwritten digits, 28×28 grey, with labels; 10 000 are the test set",
        "image",
        "mnist/mnist.npz",
        _idx_remotes("https://ossci-datasets.s3.amazonaws.com/mnist", _MNIST_SUMS),
    ),
    "fashion-mnist": Bundled(
        "70 000 pictures of clothing, 28×28 grey, with labels; 10 000 are the test set",
        "image",
        "fashion_mnist/fashion_mnist.npz",
        _idx_remotes(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    "binarized-mnist": Bundled(
        "70 000 handwritten digits, 28×28 black and white, the fixed binarization; 10 000 are the test set",
        "image",
        "binarized_mnist/binarized_mnist.npz",
    ),
    "dynamic-mnist": Bundled(
        "70 000 handwritten digits, 28×28 black and white, drawn anew from the grey ones at each training step",
        "image",
        "mnist/mnist.npz",
        _idx_remotes("https://ossci-datasets.s3.amazonaws.com/mnist", _MNIST_SUMS),
    ),
    "emoji": Bundled(
        "7572 emoji, 32×32 colour, in two drawing styles and ten categories, with captions", "image", "emoji/emoji32.npz"
    ),
    "spoken-digits": Bundled(
        "3000 recordings of spoken digits, 8 kHz, with labels and speakers; 300 are the test set",
        "signal",
        "fsdd/fsdd8k.npz",
    ),
    "modelnet": Bundled(
        "882 airplanes and bathtubs as sets of 2048 points in space, with labels; 150 are the test set",
        "points",
        "modelnet/modelnet_points.npz",
    ),
    "diamonds": Bundled(
        "53 940 diamonds: price, size and grades",
        "table",
        "tables/diamonds.parquet",
        (
            Remote(
                "https://raw.githubusercontent.com/tidyverse/ggplot2/main/data-raw/diamonds.csv", header=_DIAMONDS, rows=53_940
            ),
        ),
    ),
    "penguins": Bundled(
        "344 penguins: species, island, sex and measurements, some missing",
        "table",
        "tables/penguins.csv",
        (
            Remote(
                "https://raw.githubusercontent.com/allisonhorst/palmerpenguins/main/inst/extdata/penguins.csv",
                header=_PENGUINS,
                rows=344,
            ),
        ),
    ),
    "flights": Bundled("337 000 flights from New York in 2013, some values missing", "table", "tables/flights.parquet"),
    "shakespeare": Bundled(
        "1.1 million characters of Shakespeare's plays",
        "text",
        "text/tinyshakespeare.txt",
        (
            Remote(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
    ),
} | {name: Bundled(f"{TOY_POINTS} points in the plane: {toy.about}", "toy") for name, toy in toys.TOYS.items()}

NAMES: dict[str, str] = {name: entry.about for name, entry in CATALOG.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Finding and fetching


def cache_folder() -> Path:
    """Where fetched files are kept."""
    given = os.environ.get("PUSHFORWARD_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "pushforward"


def _problem(remote: Remote, content: bytes) -> str | None:
    """What is wrong with the content of ``remote``, None where it is right."""
    if remote.sha256 is not None:
        digest = hashlib.sha256(content).hexdigest()
        return None if digest == remote.sha256 else f"its SHA-256 is {digest}, expected {remote.sha256}"
    lines = content.decode("utf-8", "replace").splitlines()
    header = tuple(cell.strip().strip('"') for cell in lines[0].split(",")) if lines else ()
    if header != remote.header:
        return f"its columns are {', '.join(header)[:200]!r}, expected {', '.join(remote.header)!r}"
    rows = sum(bool(line.strip()) for line in lines) - 1
    return None if rows == remote.rows else f"it has {rows} rows, expected {remote.rows}"


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "pushforward"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if not answer.geturl().startswith("https://"):
            raise OSError(f"{url} leads to {answer.geturl()}, which is not https")
        content = answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(f"{url} sends more than {MAX_BYTES} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _fetch(remote: Remote, folder: Path) -> Path:
    """The file of ``remote`` in ``folder``, from there where it is intact, otherwise fetched, checked and kept."""
    path = folder / remote.file
    if path.is_file() and _problem(remote, path.read_bytes()) is None:
        return path
    content = _download(remote.url)
    problem = _problem(remote, content)
    if problem is not None:
        raise OSError(f"{remote.url} is not the file it should be: {problem}")
    _write(path, content)
    return path


def _files(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """The local file of ``name``, or else its fetched files. Raises DataError where neither can be had."""
    entry = CATALOG[name]
    root = os.environ.get("PUSHFORWARD_DATA")
    tried = []
    if root:
        path = Path(root).expanduser() / entry.local
        if path.is_file():
            return path, ()
        tried.append(f"{path} (not there)")
    else:
        tried.append("PUSHFORWARD_DATA (not set)")
    if not entry.remote:
        tried.append("a public home (none with a known checksum)")
    else:
        folder = cache_folder() / name
        tried.append(f"the cache {folder}")
        try:
            return None, tuple(_fetch(remote, folder) for remote in entry.remote)
        except (OSError, ValueError) as error:
            tried.append(f"{entry.remote[0].url.rsplit('/', 1)[0]} ({error})")
    raise DataError(f"cannot get {name!r}: tried {'; '.join(tried)}. Set PUSHFORWARD_DATA to a folder that holds {entry.local}")


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
    local, fetched = _files(name)
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
    local, _ = _files(name)
    assert local is not None
    keys = ("train", "valid", "test", "y_train", "y_valid", "y_test")
    train, valid, test, *labels = _npz(local, *keys)
    # Each row packs the 784 pixels of an image, eight a byte.
    learn, aside = (np.unpackbits(packed, axis=1).reshape(-1, 28, 28) for packed in (np.concatenate([train, valid]), test))
    return _pictures(name, learn, aside, np.concatenate(labels), 2)


def _emoji(name: str) -> Data:
    local, _ = _files(name)
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
    local, _ = _files(name)
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
    local, _ = _files(name)
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

    local, fetched = _files(name)
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
        local, fetched = _files(name)
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
