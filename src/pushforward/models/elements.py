"""How an example is made of elements, and how they look to a network.

An example is a row of *elements* e (B, E): pixels, symbols, columns; a column with gaps is two, first whether it is
missing, then its value. A network maps ``features`` (B, F) to ``params`` (B, P); every element owns contiguous slices of
both. What an element is distributed as, given its parameters, is in ``models/blocks.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn

from pushforward.core.random import Draws
from pushforward.core.schema import Column, Image, Kind, Table, Tokens, Vector
from pushforward.models.blocks import PLAIN, Binary, Block, Levels, Mixture, Sharpening


class Pixels(nn.Module):
    """Image codes {0 … levels − 1} → floats in [−1, 1] for convolutional networks."""

    like: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.scale = 2 / max(1, levels - 1)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.like.dtype) * self.scale - 1


def _slices(owners: list[Tensor]) -> list[slice]:
    """Where each element's numbers are, from who owns each number."""
    ends = torch.bincount(torch.cat(owners)).cumsum(0).tolist()
    return [slice(a, b) for a, b in itertools.pairwise([0, *ends])]


class Elements(nn.Module):
    """All elements of an example of ``kind``, in order, as blocks.

    ``feature_element`` (F,) and ``param_element`` (P,) say which element owns each feature and parameter; ``feature_slices``
    and ``param_slices`` where those of each element are.
    """

    feature_element: Tensor
    param_element: Tensor

    def __init__(self, blocks: list[Block], kind: Kind, gapped: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.kind, self.gapped = kind, gapped
        self.count = sum(block.count for block in blocks)
        # element of a number with gaps → element of its indicator, just before it
        places = [i for i in range(kind.size) for _ in range(1 + (i in gapped))] if gapped else []
        self.indicator_of = {e: e - 1 for e in range(1, len(places)) if places[e] == places[e - 1]}
        features, params, at = [], [], 0
        for block in blocks:
            index = torch.arange(at, at + block.count)
            features.append(index.repeat_interleave(block.features))
            params.append(index.repeat_interleave(block.params))
            at += block.count
        self.feature_slices, self.param_slices = _slices(features), _slices(params)
        self.register_buffer("feature_element", torch.cat(features), persistent=False)
        self.register_buffer("param_element", torch.cat(params), persistent=False)

    def take_apart(self, x: Tensor) -> Tensor:
        """Codes (B, …) → elements (B, E) float64."""
        columns = x.flatten(1).double()
        if not self.gapped:
            return columns
        parts = []
        for i, column in enumerate(columns.unbind(1)):
            if i in self.gapped:
                parts.append(column.isnan().double())
            parts.append(column)
        return torch.stack(parts, 1)

    def put_together(self, e: Tensor) -> Tensor:
        """Elements (B, E) → codes (B, *shape), in the codes' dtype."""
        if self.gapped:
            columns, at = [], 0
            for i in range(self.kind.size):
                column = e[:, at]
                if i in self.gapped:
                    at += 1
                    column = torch.where(e[:, at - 1] > 0, math.nan, e[:, at])
                columns.append(column)
                at += 1
            e = torch.stack(columns, 1)
        x = e.view(len(e), *self.kind.shape)
        if isinstance(self.kind, Image):
            return x.to(torch.uint8)
        return x.long() if isinstance(self.kind, Tokens) else x

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    def _each(self, e: Tensor) -> Iterator[tuple[Block, Tensor]]:
        blocks = self._blocks()
        return zip(blocks, e.split([block.count for block in blocks], 1), strict=True)

    def _params(self, params: Tensor) -> list[Tensor]:
        sizes = [block.count * block.params for block in self._blocks()]
        return [
            part.view(len(params), block.count, block.params)
            for block, part in zip(self._blocks(), params.split(sizes, 1), strict=True)
        ]

    def prepare(self, x: Tensor) -> None:
        """Defaults and scales of every block from a sample of codes."""
        for block, part in self._each(self.take_apart(x)):
            block.prepare(part)

    def look(self, e: Tensor) -> Tensor:
        """Elements (B, E) → what a network sees, (B, F)."""
        return torch.cat([block.look(part).flatten(1) for block, part in self._each(e)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Codes (B, …) → what a network sees, (B, F)."""
        return self.look(self.take_apart(x))

    def log_prob_elements(self, params: Tensor, e: Tensor) -> Tensor:
        """Parameters (B, P) and elements (B, E) → nats (B, E)."""
        pieces = [b.log_prob(p, part) for (b, part), p in zip(self._each(e), self._params(params), strict=True)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def log_likelihood(self, params: Tensor, e: Tensor) -> Tensor:
        """log p(e | params) (B·K,) of elements (B, E) under K rows of parameters (B·K, P) each, one after the other."""
        pieces = [b.log_likelihood(p, part) for (b, part), p in zip(self._each(e), self._params(params), strict=True)]
        return pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | params), (B,)."""
        return self.log_likelihood(params, self.take_apart(x))

    def sample_elements(self, params: Tensor, draws: Draws, how: Sharpening = PLAIN) -> Tensor:
        """Elements drawn independently given ``params`` (B, P), numbers whether or not they are drawn as gaps: (B, E)."""
        u = draws.uniform(self.count, dtype=torch.float64)
        return torch.cat([b.draw(p, v, how) for (b, v), p in zip(self._each(u), self._params(params), strict=True)], 1)

    def sample(self, params: Tensor, draws: Draws, how: Sharpening = PLAIN) -> Tensor:
        """Codes drawn independently given ``params`` (B, P)."""
        return self.put_together(self.sample_elements(params, draws, how))

    def spread(self, observed: Tensor) -> Tensor:
        """Which elements are known where ``observed`` (B, …) marks known codes; a gap that is to be filled is known to be one
        that has a value, so gap indicators are always known. Bool (B, E)."""
        known = observed.flatten(1)
        if not self.gapped:
            return known
        parts = []
        for i, column in enumerate(known.unbind(1)):
            if i in self.gapped:
                parts.append(torch.ones_like(column))
            parts.append(column)
        return torch.stack(parts, 1)

    def sample_present(self, params: Tensor, draws: Draws, observed: Tensor) -> Tensor:
        """As ``sample``, but numbers that are not observed are drawn as present, never as gaps."""
        e = self.sample_elements(params, draws)
        at = 0
        for i in range(self.kind.size if self.gapped else 0):
            if i in self.gapped:
                e[:, at] = torch.where(observed.flatten(1)[:, i], e[:, at], 0.0)
                at += 1
            at += 1
        return self.put_together(e)

    @property
    def alike(self) -> tuple[str, Tensor, Tensor | None] | None:
        """Where all elements are Bernoullis, or all mixtures of logistics without gaps, what a kernel draws them by: that kind,
        the default parameters (P,), and of numbers their grid (E, 4) as a network sees it: step or 0, origin, ends."""
        blocks = self._blocks()
        default = torch.cat([b.default.flatten() for b in blocks if isinstance(b, (Binary, Mixture))] or [torch.empty(0)])
        if all(isinstance(b, Binary) for b in blocks):
            return "bernoulli", default, None
        mixtures = [b for b in blocks if isinstance(b, Mixture) and b.bell == "logistic"]
        if len(mixtures) < len(blocks) or len({b.components for b in mixtures}) > 1:
            return None
        return "logistics", default, torch.cat([b.grid() for b in mixtures])

    def seen(self, features: Tensor) -> Tensor:
        """The elements (B, E) float64 that a network sees as ``features`` (B, E), where ``alike``."""
        parts = self._each(features.double())
        return torch.cat([b.unlook(part) if isinstance(b, Mixture) else part for b, part in parts], 1)

    def singles(self) -> list[Block]:
        """One block for each element, in order."""
        blocks = self._blocks()
        return [block if block.count == 1 else block.part(i) for block in blocks for i in range(block.count)]


@singledispatch
def elements(kind: Kind, components: int = 5, numbers: str = "logistic", *, codes: bool = False) -> Elements:
    """The elements of a kind of data: levels as categoricals, numbers and 8-bit pixels as mixtures of ``components``
    ``numbers`` (logistic or normal). With ``codes`` networks are shown unordered levels as they are."""
    raise TypeError(f"{type(kind).__name__} has no elements")


@elements.register
def _(kind: Vector, components: int = 5, numbers: str = "logistic", *, codes: bool = False) -> Elements:
    return Elements([Mixture(kind.length, components=components, bell=numbers)], kind)


@elements.register
def _(kind: Image, components: int = 5, numbers: str = "logistic", *, codes: bool = False) -> Elements:
    if kind.levels == 2:
        return Elements([Binary(kind.size)], kind)
    if kind.levels <= 32:
        return Elements([Levels(kind.size, kind.levels, "scaled")], kind)
    return Elements([Mixture(kind.size, 1.0, (0.0, kind.levels - 1.0), components, numbers)], kind)


@elements.register
def _(kind: Tokens, components: int = 5, numbers: str = "logistic", *, codes: bool = False) -> Elements:
    return Elements([Levels(kind.length, len(kind.vocabulary), "code" if codes else "onehot")], kind)


@elements.register
def _(kind: Table, components: int = 5, numbers: str = "logistic", *, codes: bool = False) -> Elements:
    blocks: list[Block] = []
    for column in kind.learned:
        blocks += _column_blocks(column, components, numbers, "code" if codes else "onehot")
    return Elements(blocks, kind, tuple(i for i, c in enumerate(kind.learned) if not c.discrete and c.missing))


def _column_blocks(column: Column, components: int, numbers: str, shown: str) -> list[Block]:
    if column.discrete:
        return [Levels(1, column.levels, shown)]
    value = Mixture(1, column.resolution or 0.0, components=components, bell=numbers)
    return [Levels(1, 2, shown), value] if column.missing else [value]
