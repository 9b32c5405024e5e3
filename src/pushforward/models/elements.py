"""What the single elements of an example are distributed as, given parameters, and how they look to a network.

An example is a row of *elements* e (B, E): pixels, symbols, columns; a column with gaps is two, first whether it is
missing, then its value. A network maps ``features`` (B, F) to ``params`` (B, P); every element owns contiguous slices of
both. Two kinds:

* ``Levels``: a categorical over K levels (log-softmax of K parameters).
* ``Mixture``: a mixture of logistics (Salimans et al. 2017, arXiv:1701.05517), log Σ_k π_k p((e − μ_k)/s_k), on a grid of
  step δ the mass of the cell per step, log Σ_k π_k [σ((e + δ/2 − μ_k)/s_k) − σ((e − δ/2 − μ_k)/s_k)] − log δ,
  open at the bounds.

``prepare`` sets default parameters from data, to which the network's are added: a network of zeros is the independent model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.random import Draws
from pushforward.core.schema import Column, Image, Kind, Table, Tokens, Vector


class Block(nn.Module, ABC):
    """``count`` elements of one kind, each with ``params`` parameters and ``features`` features."""

    count: int
    params: int
    features: int

    @abstractmethod
    def prepare(self, e: Tensor) -> None:
        """Default parameters from elements (B, count); NaN are unknown."""

    @abstractmethod
    def look(self, e: Tensor) -> Tensor:
        """Elements (B, count) → features (B, count, features); unknown elements are zeros."""

    @abstractmethod
    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        """Parameters (B, count, params) and elements (B, count) → nats (B, count); unknown elements count 0."""

    @abstractmethod
    def sample(self, params: Tensor, draws: Draws) -> Tensor:
        """Parameters (B, count, params) → elements (B, count)."""

    def part(self, i: int) -> Block:
        """The block of element ``i`` alone, sharing statistics."""
        raise TypeError(f"{type(self).__name__} has no parts")


class Levels(Block):
    """Categoricals over ``levels`` codes. ``ordered`` ones (pixels) show a network one number in [−1, 1], others a one-hot."""

    default: Tensor

    def __init__(self, count: int, levels: int, ordered: bool = False) -> None:
        super().__init__()
        self.count, self.params, self.ordered = count, levels, ordered
        self.features = 1 if ordered else levels
        self.register_buffer("default", torch.zeros(count, levels))

    def prepare(self, e: Tensor) -> None:
        onehot = torch.stack([(e == k).sum(0) for k in range(self.params)], -1).double()
        self.default.copy_(((onehot + 0.1) / (onehot + 0.1).sum(-1, keepdim=True)).log())

    def look(self, e: Tensor) -> Tensor:
        if self.ordered:
            return (e * (2 / max(1, self.params - 1)) - 1).to(self.default.dtype)[..., None]
        return F.one_hot(e.long(), self.params).to(self.default.dtype)

    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        logits = (params.to(self.default.dtype) + self.default).log_softmax(-1)
        return logits.gather(-1, e.long()[..., None])[..., 0]

    def sample(self, params: Tensor, draws: Draws) -> Tensor:
        return draws.categorical(params.to(self.default.dtype) + self.default).double()

    def part(self, i: int) -> Levels:
        one = Levels(1, self.params, self.ordered)
        one.default = self.default[i : i + 1]
        return one


class Mixture(Block):
    """Mixtures of ``components`` logistics over numbers; ``resolution`` 0 is continuous, ``bounds`` open the outer cells."""

    mean: Tensor
    std: Tensor
    default: Tensor

    def __init__(
        self, count: int, resolution: float = 0.0, bounds: tuple[float, float] | None = None, components: int = 5
    ) -> None:
        super().__init__()
        self.count, self.params, self.features = count, 3 * components, 1
        self.resolution, self.bounds, self.components = resolution, bounds, components
        self.register_buffer("mean", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("std", torch.ones(count, dtype=torch.float64))
        self.register_buffer("default", torch.zeros(count, 3 * components))

    def prepare(self, e: Tensor) -> None:
        """Means at mid-quantiles of the data, scales from the gaps between them, equal weights."""
        k = self.components
        p = (torch.arange(k, dtype=torch.float64) + 0.5) / k
        sample = e[:: max(1, len(e) // 20_000)].double()
        known = ~sample.isnan()
        count = known.sum(0).clamp(min=1)
        mean = sample.nan_to_num().sum(0) / count
        std = ((((sample - mean).nan_to_num() * known).square().sum(0)) / count).sqrt()
        floor = torch.full_like(std, self.resolution) if self.resolution else 1e-6 * (1 + mean.abs())
        self.mean.copy_(mean)
        self.std.copy_(torch.maximum(std, floor))
        middle = torch.nanquantile(sample, p, 0).nan_to_num().T  # (count, K)
        edge = torch.nanquantile(sample, torch.linspace(0.02, 0.98, k + 1, dtype=torch.float64), 0).nan_to_num().T
        least = max(0.1 * self.resolution, 1e-3)
        scale = (edge.diff(dim=1) / self.std[:, None] / 2.2).clamp(min=0.05 if not self.resolution else least)
        self.default[:, :k] = 0
        self.default[:, k : 2 * k] = (middle - self.mean[:, None]) / self.std[:, None]
        self.default[:, 2 * k :] = scale.log()

    def look(self, e: Tensor) -> Tensor:
        return ((e - self.mean) / self.std).nan_to_num().to(self.default.dtype)[..., None]

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        params = params.to(self.default.dtype) + self.default
        weight, mean, log_scale = params.split(self.components, -1)
        return weight.log_softmax(-1), mean, log_scale.clamp(-9, 5)

    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        weight, mean, log_scale = self._split(params)
        gap = e.isnan()
        value = ((e - self.mean) / self.std).nan_to_num().to(mean.dtype)[..., None] - mean
        rate = (-log_scale).exp()
        if not self.resolution:
            u = value * rate
            log_density = -F.softplus(u) - F.softplus(-u) - log_scale - self.std.log().to(mean.dtype)[:, None]
        else:
            half = (0.5 * self.resolution / self.std).to(mean.dtype)[:, None]
            high, low = (value + half) * rate, (value - half) * rate
            # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b−a}) keeps its precision where both are near 0 or near 1
            inner = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
            log_density = inner
            if self.bounds is not None:
                first, last = (e <= self.bounds[0])[..., None], (e >= self.bounds[1])[..., None]
                log_density = torch.where(first, F.logsigmoid(high), torch.where(last, F.logsigmoid(-low), inner))
            log_density = log_density - math.log(self.resolution)
        return (weight + log_density).logsumexp(-1).masked_fill(gap, 0.0)

    def sample(self, params: Tensor, draws: Draws) -> Tensor:
        weight, mean, log_scale = self._split(params)
        chosen = draws.categorical(weight)[..., None]
        u = draws.uniform(self.count, dtype=torch.float64).clamp_(1e-9, 1 - 1e-9)
        value = mean.gather(-1, chosen)[..., 0].double() + log_scale.gather(-1, chosen)[..., 0].double().exp() * torch.logit(u)
        e = self.mean + self.std * value
        if self.resolution:
            inverse = round(1 / self.resolution) if self.resolution < 1 else 1 / self.resolution
            e = (e * inverse).round() / inverse
        return e.clamp(*self.bounds) if self.bounds else e

    def part(self, i: int) -> Mixture:
        one = Mixture(1, self.resolution, self.bounds, self.components)
        one.mean, one.std, one.default = self.mean[i : i + 1], self.std[i : i + 1], self.default[i : i + 1]
        return one


class Pixels(nn.Module):
    """Image codes {0 … levels − 1} → floats in [−1, 1] for convolutional networks."""

    like: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.scale = 2 / max(1, levels - 1)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.like.dtype) * self.scale - 1


class Elements(nn.Module):
    """All elements of an example of ``kind``, in order, as blocks.

    ``feature_element`` (F,) and ``param_element`` (P,) say which element owns each feature and parameter.
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
        pieces = self._params(params)
        return torch.cat([b.log_prob(p, part) for (b, part), p in zip(self._each(e), pieces, strict=True)], 1)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x | params), (B,)."""
        return self.log_prob_elements(params, self.take_apart(x)).sum(1)

    def sample_elements(self, params: Tensor, draws: Draws) -> Tensor:
        """Elements drawn independently given ``params`` (B, P), numbers whether or not they are drawn as gaps: (B, E)."""
        return torch.cat([b.sample(p, draws) for b, p in zip(self._blocks(), self._params(params), strict=True)], 1)

    def sample(self, params: Tensor, draws: Draws) -> Tensor:
        """Codes drawn independently given ``params`` (B, P)."""
        return self.put_together(self.sample_elements(params, draws))

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

    def singles(self) -> list[Block]:
        """One block for each element, in order."""
        blocks = self._blocks()
        return [block if block.count == 1 else block.part(i) for block in blocks for i in range(block.count)]


@singledispatch
def elements(kind: Kind, components: int = 5) -> Elements:
    """The elements of a kind of data."""
    raise TypeError(f"{type(kind).__name__} has no elements")


@elements.register
def _(kind: Vector, components: int = 5) -> Elements:
    return Elements([Mixture(kind.length, components=components)], kind)


@elements.register
def _(kind: Image, components: int = 5) -> Elements:
    if kind.levels <= 32:
        return Elements([Levels(kind.size, kind.levels, ordered=True)], kind)
    return Elements([Mixture(kind.size, 1.0, (0.0, kind.levels - 1.0), components)], kind)


@elements.register
def _(kind: Tokens, components: int = 5) -> Elements:
    return Elements([Levels(kind.length, len(kind.vocabulary))], kind)


@elements.register
def _(kind: Table, components: int = 5) -> Elements:
    blocks: list[Block] = []
    for column in kind.learned:
        blocks += _column_blocks(column, components)
    return Elements(blocks, kind, tuple(i for i, c in enumerate(kind.learned) if not c.discrete and c.missing))


def _column_blocks(column: Column, components: int) -> list[Block]:
    if column.discrete:
        return [Levels(1, column.levels)]
    value = Mixture(1, column.resolution or 0.0, components=components)
    return [Levels(1, 2), value] if column.missing else [value]
