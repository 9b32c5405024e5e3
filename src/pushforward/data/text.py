"""Text, character by character: files and strings into ``Data``, and codes back into strings."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import Schema, Tokens
from pushforward.data.dataset import Data, Rows

PAD = "\x00"
LENGTH = 64  # characters of a row, unless said otherwise
FEWEST = 4

_CHUNK = 1 << 20
_UNICODE = 0x110000


@dataclass(frozen=True)
class TextStore:
    """Windows of text held as small integers (N, length): one byte a character where the vocabulary allows."""

    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, index: np.ndarray) -> Rows:
        """Codes int64 (B, length) of the windows at ``index``."""
        return Rows(torch.from_numpy(self.codes[index].astype(np.int64)))


def _points(text: str) -> np.ndarray:
    """Unicode code points, uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _stream(path: Path) -> Iterator[np.ndarray]:
    """The code points of a UTF-8 file, in pieces; a byte order mark at its beginning is no text."""
    with open(path, "rb") as file:
        pending, position, final = b"", 0, False
        if file.read(3) == codecs.BOM_UTF8:
            position = 3
        file.seek(position)
        while not final:
            piece = file.read(_CHUNK)
            final = not piece
            data = pending + piece
            try:
                text, used = codecs.utf_8_decode(data, "strict", final)
            except UnicodeDecodeError as error:
                at = position + error.start
                raise DataError(
                    f"{path} is no UTF-8 text: byte {at} is 0x{data[error.start]:02x} ({error.reason}); save it as UTF-8"
                ) from error
            if PAD in text:
                raise DataError(f"{path} holds the character U+0000, which no text has: is it a text file?")
            pending, position = data[used:], position + used
            if text:
                yield _points(text)


def _code_type(size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.uint32


def _learn(pieces: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """The distinct code points in order, and how many characters there are."""
    seen = np.zeros(_UNICODE, dtype=bool)
    total = 0
    for piece in pieces:
        seen[piece] = True
        total += len(piece)
    return np.flatnonzero(seen), total


def _table(points: np.ndarray) -> np.ndarray:
    """Code of each code point."""
    table = np.zeros(_UNICODE, dtype=_code_type(len(points)))
    table[points] = np.arange(len(points))
    return table


def _data(points: np.ndarray, codes: np.ndarray, **rest: Any) -> Data:
    kind = Tokens(tuple(chr(p) for p in points.tolist()), codes.shape[1])
    return Data.of(Schema(kind), TextStore(codes), **rest)


def _too_few(name: str, count: int, found: str, length: int) -> DataError:
    return DataError(
        f"{name} makes {count} rows of {length} characters ({found}): at least {FEWEST} are needed; "
        "give more text or a smaller length"
    )


def _from_files(files: Sequence[Path], name: str, length: int, notes: tuple[str, ...]) -> Data:
    def pieces() -> Iterator[np.ndarray]:
        for file in files:
            yield from _stream(file)

    # Two passes over the files: neither the text nor its wide code points are ever held as a whole.
    try:
        points, total = _learn(pieces())
        count = total // length
        if total == 0:
            raise DataError(f"{name} is empty: expected text")
        if count < FEWEST:
            raise _too_few(name, count, f"{total} characters", length)
        table = _table(points)
        codes = np.empty(count * length, table.dtype)
        at = 0
        for piece in pieces():
            part = table[piece[: len(codes) - at]]
            codes[at : at + len(part)] = part
            at += len(part)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    if at < len(codes):
        raise DataError(f"{name} became shorter while it was read: try again")
    if total > len(codes):
        notes = (*notes, f"the last {total - len(codes)} characters, too few for a row of {length}, are left out")
    return _data(points, codes.reshape(count, length), name=name, notes=notes)


def _strings(texts: Sequence[Any]) -> list[str]:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"row {row} is {type(text).__name__}: expected a string")
        if PAD in text:
            raise DataError(f"row {row} holds the character U+0000, which marks padding: remove it")
    return list(texts)


def _from_strings(texts: Sequence[Any], length: int) -> Data:
    rows = _strings(texts)
    if not any(rows):
        raise DataError("the list of texts is empty: expected strings" if not rows else "all texts are empty")
    if len(rows) < FEWEST:
        raise _too_few("the list of texts", len(rows), f"{len(rows)} strings", length)
    cut = sum(len(row) > length for row in rows)
    rows = [row[:length] for row in rows]
    # The pad is a symbol only where some text needs it, so that texts of one length keep their own alphabet.
    padded = [row.ljust(length, PAD) for row in rows]
    points, _ = _learn(_points(row) for row in padded)
    codes = _table(points)[_points("".join(padded))].reshape(len(rows), length)
    notes = (f"{cut} of {len(rows)} texts are longer than {length} characters and were cut",) if cut else ()
    return _data(points, codes, name="texts", notes=notes)


def open_text(source: str | os.PathLike[str] | Sequence[str], *, length: int | None = None) -> Data:
    """Text as rows of ``length`` characters (by default 64), int64 (N, length); the vocabulary is the distinct ones, sorted.

    ``source`` is a UTF-8 file or a folder of .txt files (one stream in the order of their paths, cut into consecutive
    rows, what is left at the end is dropped), or a list of strings (one row each: cut to ``length``, or filled with the
    pad symbol U+0000, which is in the vocabulary only where it is used). Files are read in pieces and held with one byte
    a character for vocabularies of up to 256.

    Raises DataError for text that is missing, empty, not UTF-8 (with the position of the byte) or too short for 4 rows.
    """
    length = LENGTH if length is None else length
    if not isinstance(length, (int, np.integer)) or length < 1:
        raise DataError(f"length is {length!r}: expected a whole number of at least 1 character")
    length = int(length)
    if not isinstance(source, (str, os.PathLike)):
        return _from_strings(list(source), length)
    path = Path(source)
    if path.is_file():
        return replace(_from_files([path], path.name, length, ()), origin=str(path))
    if not path.is_dir():
        raise DataError(f"there is no file or folder {path}")
    every = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    files = [p for p in every if p.suffix.lower() == ".txt"]
    if not files:
        raise DataError(f"there are no .txt files in {path}")
    notes = (f"{len(files)} files are read as one text, in the order of their names",) if len(files) > 1 else ()
    if len(every) > len(files):
        notes = (*notes, f"{len(every) - len(files)} files that are not .txt were skipped")
    return replace(_from_files(files, path.resolve().name, length, notes), origin=str(path))


def encode(kind: Tokens, texts: str | Sequence[str]) -> Tensor:
    """Codes int64 (B, length) of strings; shorter ones are filled with the pad symbol where the vocabulary has it.

    Raises DataError, naming the row, for a character outside the vocabulary and for a length that does not fit.
    """
    rows = _strings([texts] if isinstance(texts, str) else list(texts))
    code = {symbol: i for i, symbol in enumerate(kind.vocabulary)}
    x = np.zeros((len(rows), kind.length), np.int64)
    for row, text in enumerate(rows):
        if len(text) > kind.length or (len(text) < kind.length and PAD not in code):
            limit = f"at most {kind.length}" if PAD in code else f"exactly {kind.length}"
            raise DataError(f"row {row} has {len(text)} characters: expected {limit}")
        try:
            x[row] = [code[symbol] for symbol in text.ljust(kind.length, PAD)]
        except KeyError as error:
            symbol = error.args[0]
            raise DataError(
                f"row {row} holds the character {symbol!r} (U+{ord(symbol):04X}) at position {text.index(symbol)}, "
                f"which is not among the {len(code)} the model knows"
            ) from None
    return torch.from_numpy(x)


def begun(kind: Tokens, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Beginnings of texts, filled up to their length with some symbol, and which characters were given, bool (B, length).

    Raises DataError for one that is longer than that.
    """
    for row, text in enumerate(texts):
        if len(text) > kind.length:
            raise DataError(f"row {row} has {len(text)} characters: expected at most {kind.length}, or a length to continue to")
    filler = next((symbol for symbol in kind.vocabulary if symbol != PAD), PAD)
    given = np.arange(kind.length) < np.array([len(text) for text in texts])[:, None]
    return [text.ljust(kind.length, filler) for text in texts], given


def decode(kind: Tokens, x: Tensor) -> list[str]:
    """Strings of codes (B, length), without pad symbols. Raises DataError for codes outside the vocabulary."""
    codes = x.detach().cpu().numpy()
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise DataError(f"found {codes.dtype} codes of shape {codes.shape}: expected whole numbers (B, {kind.length})")
    if codes.size and (codes.min() < 0 or codes.max() >= len(kind.vocabulary)):
        raise DataError(f"codes run from {codes.min()} to {codes.max()}: expected 0 to {len(kind.vocabulary) - 1}")
    return ["".join(kind.vocabulary[i] for i in row).replace(PAD, "") for row in codes.tolist()]
