"""Texts that a model is conditioned on, word by word: a vocabulary of the most frequent words, and codes there and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.schema import PAD, Column, ColumnKind, Part, Tokens

UNKNOWN = "<unknown>"
WORDS = 2000  # in the vocabulary, at most
LONGEST = 32  # words of a text that are looked at, at most
MANY = 200  # distinct strings from which on a condition is read as text

_WORD = re.compile(rf"{UNKNOWN}|\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text in lower case, and its punctuation marks one by one."""
    return _WORD.findall(text.lower())


def learn(texts: Iterable[str], counts: Iterable[int]) -> Tokens:
    """The kind of texts that were seen ``counts`` times each: their most frequent words, and the length that 95 % keep to."""
    seen: Counter[str] = Counter()
    lengths: list[int] = []
    often: list[int] = []
    for text, count in zip(texts, counts, strict=True):
        found = words(text)
        for word in found:
            seen[word] += count
        lengths.append(len(found))
        often.append(count)
    del seen[UNKNOWN]
    kept = sorted(seen, key=lambda word: (-seen[word], word))[:WORDS]
    length = int(np.quantile(np.repeat(lengths, often), 0.95, method="higher")) if sum(often) else 1
    return Tokens((PAD, UNKNOWN, *kept), min(max(length, 1), LONGEST))


def encode(kind: Tokens, texts: Sequence[str | None], place: str = "the texts") -> Tensor:
    """Codes int64 (B, length); longer texts are cut, None is the empty text. Raises DataError for what is no string."""
    if UNKNOWN not in kind.vocabulary:
        from pushforward.data import text

        return text.encode(kind, [t or "" for t in texts])
    code = {word: i for i, word in enumerate(kind.vocabulary)}
    x = np.full((len(texts), kind.length), kind.pad, np.int64)
    for row, value in enumerate(texts):
        if not isinstance(value, str) and value is not None:
            raise DataError(f"{place}, row {row + 1} is of type {type(value).__name__}: expected a text")
        found = [code.get(word, code[UNKNOWN]) for word in words(value or "")[: kind.length]]
        x[row, : len(found)] = found
    return torch.from_numpy(x)


def decode(kind: Tokens, x: Tensor) -> list[str]:
    """The texts of codes (B, length), their words joined by spaces."""
    if UNKNOWN not in kind.vocabulary:
        from pushforward.data import text

        return text.decode(kind, x)
    return [" ".join(kind.vocabulary[i] for i in row if i != kind.pad) for row in x.long().tolist()]


def as_text(column: Column, codes: Tensor) -> tuple[Part, Tensor]:
    """The text condition that a category of strings with ``codes`` (N,) is, and its codes (N, length).

    Raises DataError where the categories are no strings.
    """
    if column.kind is not ColumnKind.CATEGORY or not all(isinstance(c, str) for c in column.categories):
        raise DataError(f"column '{column.name}' holds {column.kind.value} values: a text condition is made of strings")
    texts = (*column.categories, "")
    index = codes.long()
    counts = torch.bincount(index, minlength=len(texts)).tolist()
    kind = learn(texts, counts)
    return Part(column.name, kind), encode(kind, texts)[index]


def is_text(column: Column) -> bool:
    """Whether a condition has so many different strings that it is read as text."""
    return (
        column.kind is ColumnKind.CATEGORY
        and len(column.categories) > MANY
        and all(isinstance(c, str) for c in column.categories)
    )
