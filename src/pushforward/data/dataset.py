"""``Data``: rows of examples under a schema, wherever they are stored. Frozen views; splitting copies no rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.random import Draws
from pushforward.core.schema import Schema

Index = slice | np.ndarray
_REDRAWN = 0x4ED4  # stream of a batch's draws


@dataclass(frozen=True)
class Rows:
    """Codes of some rows: ``x`` (B, *schema.example.shape); ``columns`` {name: (B,) float64} for conditions and target, of
    conditions that are parts (B, *part.kind.shape)."""

    x: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)


class Store(Protocol):
    """Where rows live: in memory, memory-mapped, or a folder of files."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> Rows:
        """Codes of the rows at ``index`` (int64, any order)."""
        ...


@runtime_checkable
class Redraws(Store, Protocol):
    """A store whose rows are drawn anew each time that they are trained on."""

    def redraw(self, index: np.ndarray, draws: Draws) -> Rows:
        """Codes of the rows at ``index``, random numbers from ``draws``."""
        ...


@dataclass(frozen=True)
class TensorStore:
    """Rows held in memory."""

    x: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> Rows:
        at = torch.from_numpy(np.ascontiguousarray(index))
        return Rows(self.x[at], {name: values[at] for name, values in self.columns.items()})


@dataclass(frozen=True)
class Data:
    """Rows ``index`` of ``store``, described by ``schema``.

    ``test`` are rows of the store that the source itself sets aside for testing (None where it does not);
    ``notes`` are what a user should know (identifiers left out, constant columns, …).
    """

    schema: Schema
    store: Store
    index: np.ndarray
    name: str = "data"
    test: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    origin: Any = None

    @classmethod
    def of(cls, schema: Schema, store: Store, **rest: Any) -> Data:
        """All rows of ``store``, less those set aside for testing."""
        index = np.arange(len(store))
        test = rest.get("test")
        if test is not None:
            index = np.setdiff1d(index, test)
        return cls(schema, store, index, **rest)

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, at: Index = slice(None)) -> Rows:
        """Codes of the rows at positions ``at`` of this view."""
        return self.store.take(self.index[at])

    def to_train_on(self, at: Index, draws: Draws) -> Rows:
        """As ``rows``, drawn anew where the store does that."""
        store = self.store
        return store.redraw(self.index[at], draws.fork(_REDRAWN)) if isinstance(store, Redraws) else self.rows(at)

    def select(self, at: Index) -> Data:
        """The view of the rows at positions ``at``."""
        return replace(self, index=self.index[at], test=None)

    def sample(self, n: int, seed: int = 0) -> Rows:
        """Codes of ``n`` rows at random without replacement (all rows where there are fewer), in the stored order."""
        if n >= len(self):
            return self.rows()
        at = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return self.rows(np.sort(at))

    def split(self, seed: int = 0, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> Splits:
        """Train, validation and test rows, shuffled by ``seed``. A test set that the source sets aside is kept as it is."""
        order = np.random.default_rng((seed, 0x5B117)).permutation(len(self))
        total = len(order)
        held = max(1, round(total * fractions[1]))
        if self.test is not None:
            tested, pool = self.test, order
        else:
            count = max(1, round(total * fractions[2]))
            tested, pool = self.index[order[:count]], order[count:]
        if len(pool) - held < 1 or total < 4:
            raise DataError(f"{self.name} has {total} rows: at least 4 are needed to train, validate and test")
        train, validation = self.select(np.sort(pool[held:])), self.select(np.sort(pool[:held]))
        return Splits(train, validation, replace(self, index=np.sort(tested), test=None))


@dataclass(frozen=True)
class Splits:
    """Disjoint views of the same data."""

    train: Data
    validation: Data
    test: Data
