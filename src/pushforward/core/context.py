"""What a model is conditioned on. Nets take the slots they know; classifier-free guidance lives here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, Image, Part, Signal, Tokens

Condition = Mapping[str, Tensor]


@dataclass(frozen=True)
class Context:
    """``vector`` (B, D) for modulation; ``tokens`` (B, T, D) with ``mask`` (B, T) for attention; ``spatial`` (B, C, H, W)."""

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    spatial: Tensor | None = None

    @staticmethod
    def cat(contexts: Sequence[Context]) -> Context:
        """The rows of several contexts of the same slots, one after the other."""
        parts = {}
        for slot in fields(Context):
            found = [getattr(c, slot.name) for c in contexts]
            parts[slot.name] = None if found[0] is None else torch.cat(found)
        return Context(**parts)


class Words(nn.Module):
    """Texts (B, T) as tokens (B, T, size): an embedding of each symbol and of its place, and which places are filled."""

    def __init__(self, kind: Tokens, size: int) -> None:
        super().__init__()
        self.pad = kind.pad
        self.symbols = nn.Embedding(len(kind.vocabulary), size)
        self.places = nn.Parameter(0.1 * torch.randn(kind.length, size))

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        mask = code != self.pad
        # an empty text is told from no text at all: something must be there to attend to
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
        return self.symbols(code) + self.places, mask


class Conditioner(nn.Module):
    """Named conditions in the user's codes, {name: (B, …)}, to a Context.

    Categories are embedded, numbers and vectors standardised by the schema's means and deviations; a layer sums them into
    ``vector`` (B, size). Texts are ``tokens`` (B, T, size) with their ``mask``, one text after the other, and the mean token of
    each is added to the vector. Images and signals are ``spatial`` (B, C, H, W) or (B, C, L), their channels stacked: pixels in
    [-1, 1], signals standardised, small ones enlarged to the size of the example, the last dimensions of ``shape`` (by default
    that of the largest).

    Rows whose ``drop`` is true, and every row when no condition is given, get the null condition (Ho & Salimans 2022,
    arXiv:2207.12598): a learned vector, which is also the one token, and 0 for every pixel.
    """

    def __init__(self, columns: Sequence[Column | Part], size: int = 64, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.columns, self.size = tuple(columns), size
        self.embed = nn.ModuleList(_embedding(c, size) for c in self.columns)
        self.null = nn.Parameter(torch.randn(size) / size**0.5) if self.columns else None
        maps = [c for c in self.columns if isinstance(c, Part) and c.slot == "spatial"]
        self.spatial = sum(c.kind.shape[0] for c in maps)
        """Channels of ``Context.spatial``; 0 without images and signals."""
        self.sides = tuple(shape[1:]) if shape is not None and maps else max((_sides(c) for c in maps), default=())
        if any(len(_sides(c)) != len(self.sides) for c in maps):
            raise ValueError(f"found conditions of shapes {[c.kind.shape for c in maps]}: expected images, or signals, only")
        self.length = sum(c.kind.shape[0] for c in self.columns if isinstance(c, Part) and c.slot == "tokens")

    @property
    def width(self) -> int:
        """Size of the context vector; 0 without conditions."""
        return self.size if self.columns else 0

    @property
    def tokens(self) -> int:
        """Width of ``Context.tokens``; 0 without texts."""
        return self.size if self.length else 0

    def forward(self, condition: Condition | None, rows: int, drop: Tensor | None = None) -> Context:
        """``condition`` for ``rows`` examples; ``drop`` (B,) bool marks rows that get the null condition."""
        if self.null is None:
            return Context()
        null = self._nothing(self.null.expand(rows, -1), rows)
        if condition is None:
            return null
        missing = [c.name for c in self.columns if c.name not in condition]
        if missing:
            raise DataError(f"the condition lacks {missing}: give {[c.name for c in self.columns]}")
        assert null.vector is not None
        vector, tokens, maps = torch.zeros_like(null.vector), [], []
        for column, embed in zip(self.columns, self.embed, strict=True):
            code = condition[column.name]
            if isinstance(column, Column):
                vector = vector + _of_column(column, embed, code, null.vector)
                continue
            if code.shape != (rows, *column.kind.shape):
                raise DataError(
                    f"the condition '{column.name}' has shape {tuple(code.shape)}: expected {(rows, *column.kind.shape)}"
                )
            if column.slot == "vector":
                vector = vector + embed(_standardised(column, code).to(vector.dtype))
            elif column.slot == "tokens":
                tokens.append(embed(code.long()))
                words, mask = tokens[-1]
                vector = vector + (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            else:
                maps.append(_map(column, code, self.sides, vector.dtype))
        found = Context(
            vector,
            torch.cat([words for words, _ in tokens], 1) if tokens else None,
            torch.cat([mask for _, mask in tokens], 1) if tokens else None,
            torch.cat(maps, 1) if maps else None,
        )
        return found if drop is None else _where(drop, null, found)

    def _nothing(self, vector: Tensor, rows: int) -> Context:
        """The null condition."""
        if not (self.length or self.spatial):
            return Context(vector)
        tokens = mask = None
        if self.length:
            tokens = F.pad(vector[:, None], (0, 0, 0, self.length - 1))
            mask = (torch.arange(self.length, device=vector.device) == 0).expand(rows, -1)
        return Context(vector, tokens, mask, vector.new_zeros(rows, self.spatial, *self.sides) if self.spatial else None)


def _embedding(column: Column | Part, size: int) -> nn.Module:
    if isinstance(column, Column):
        return nn.Embedding(column.levels, size) if column.discrete else nn.Linear(2, size)
    if isinstance(column.kind, Tokens):
        return Words(column.kind, size)
    return nn.Linear(column.kind.size, size) if column.slot == "vector" else nn.Identity()


def _of_column(column: Column, embed: nn.Module, code: Tensor, null: Tensor) -> Tensor:
    if column.discrete:
        return embed(code.long())
    known = ~code.isnan()
    value = ((code - column.mean) / column.std).nan_to_num()
    return embed(torch.stack([value, known.to(value.dtype)], -1).to(null.dtype))


def _standardised(part: Part, code: Tensor) -> Tensor:
    """Numbers (B, D) or (B, C, L) by the mean and deviation of each number or channel."""
    tail = (-1,) + (1,) * (code.dim() - 2)
    mean, std = (code.new_tensor(v).view(tail) if v else None for v in (part.mean, part.std))
    code = code if mean is None else code - mean
    return code if std is None else code / std


def _sides(part: Part) -> tuple[int, ...]:
    """The sides of the example as far as ``part`` knows them."""
    factor = int(part.made[6:]) if part.made.startswith("small:") else 1
    return tuple(factor * side for side in part.kind.shape[1:])


def _map(part: Part, code: Tensor, sides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Codes (B, C, …) as numbers near [-1, 1] on a grid of ``sides``."""
    if isinstance(part.kind, Signal):
        found = _standardised(part, code).to(dtype)
        return found if found.shape[2:] == sides else F.interpolate(found, sides, mode="linear")
    assert isinstance(part.kind, Image)
    found = code.to(dtype) * (2 / (part.kind.levels - 1)) - 1
    if part.made == "visible":
        found = torch.cat([found[:, :-1] * (found[:, -1:] > 0), found[:, -1:]], 1)
    return found if found.shape[2:] == sides else F.interpolate(found, sides, mode="bilinear")


def _where(drop: Tensor, null: Context, found: Context) -> Context:
    """The rows of ``null`` where ``drop`` (B,) is true, else those of ``found``."""
    slots = {}
    for slot in fields(Context):
        a, b = getattr(null, slot.name), getattr(found, slot.name)
        slots[slot.name] = None if a is None else torch.where(drop.view(-1, *(1,) * (a.dim() - 1)), a, b)
    return Context(**slots)
