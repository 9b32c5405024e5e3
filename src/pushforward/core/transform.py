"""Maps that push noise to data.

log p(x) = log p_base(z) + V(x, z), z = pull(x), x = push(z). For a bijection V = log|det ∂z/∂x|; for a stochastic map
(dequantisation, filling a gap) V = log p(x | z) − log q(z | x) with z drawn from q, and the density is a lower bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws


class Transform(nn.Module, ABC):
    """Latent z ↔ data x, both with the batch first. ``stochastic`` maps use ``draws`` in ``pull``; bijections ignore it."""

    stochastic: bool = False
    regularised: bool = False
    """Whether training by maximum likelihood adds a penalty, which ``pull_regularised`` gives."""

    @abstractmethod
    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        """Latent → data."""

    @abstractmethod
    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Data → latent, and V with shape (B,)."""

    def smooth(self, z: Tensor) -> Tensor:
        """``push`` with a gradient: maps that round, as levels are, put a continuous one in its place."""
        return self.push(z)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Latent → data, and V at that data, (B,). Maps that know V on the way override nothing else."""
        x = self.push(z, context)
        return x, self.pull(x, context)[1]

    def pull_regularised(
        self, x: Tensor, context: Context | None = None, draws: Draws | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``pull``, and the penalty (B,) of this map at x; zero unless it is ``regularised``."""
        z, score = self.pull(x, context, draws)
        return z, score, torch.zeros_like(score)

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Set statistics from a sample ``x`` of data, once, before training; return ``x``, or some of it, pulled back."""
        return self.pull(x, context)[0]

    def inverse(self) -> Transform:
        """The same map read the other way: push and pull trade places and V changes sign. For bijections only."""
        if self.stochastic:
            raise TypeError(f"{type(self).__name__} is stochastic: it has no inverse")
        return Inverse(self)


class Elementwise(Transform):
    """A map whose latent coordinates each belong to one data coordinate, so that known data make known latents.

    ``tight`` says that under a standard normal base the bound of a stochastic map is the density itself.
    """

    tight: bool = True

    def spread(self, observed: Tensor) -> Tensor:
        """Which latent coordinates are known where ``observed`` (B, …) marks the known data; bool, latent shape."""
        return observed


class Inverse(Transform):
    """``transform`` with push and pull exchanged."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.transform.pull(z, context)[0]

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z, score = self.transform.push_scored(x, context)
        return z, -score

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        x, score = self.transform.pull(z, context)
        return x, -score

    def inverse(self) -> Transform:
        return self.transform


class Compose(Transform):
    """``parts`` in the order of ``push``: the first acts on the latent, the last gives the data."""

    def __init__(self, parts: Iterable[Transform]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.stochastic = any(part.stochastic for part in self)
        self.regularised = any(part.regularised for part in self)

    def __iter__(self):
        return (cast(Transform, part) for part in self.parts)

    def __reversed__(self):
        return (cast(Transform, part) for part in reversed(self.parts))

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        for part in self:
            z = part.push(z, context)
        return z

    def smooth(self, z: Tensor) -> Tensor:
        for part in self:
            z = part.smooth(z)
        return z

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for part in reversed(self):
            x, score = part.pull(x, context, draws)
            total = score if total is None else total + score
        return x, total if total is not None else torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def pull_regularised(
        self, x: Tensor, context: Context | None = None, draws: Draws | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = penalty = torch.zeros(len(x), device=x.device)
        for part in reversed(self):
            x, score, more = part.pull_regularised(x, context, draws)
            total, penalty = total + score, penalty + more
        return x, total, penalty

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for part in self:
            z, score = part.push_scored(z, context)
            total = score if total is None else total + score
        return z, total if total is not None else torch.zeros(len(z), dtype=z.dtype, device=z.device)

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        for part in reversed(self):
            x = part.prepare(x, context)
        return x

    def inverse(self) -> Transform:
        return Compose(part.inverse() for part in reversed(self))

    def spread(self, observed: Tensor) -> Tensor:
        """As ``Elementwise.spread``; every part must be element-wise."""
        for part in reversed(self):
            if not isinstance(part, Elementwise):
                raise TypeError(f"{type(part).__name__} mixes coordinates: what is known before it is not known after it")
            observed = part.spread(observed)
        return observed
