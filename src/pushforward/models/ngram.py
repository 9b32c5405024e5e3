"""n-grams of symbols, smoothed by interpolated Kneser–Ney with modified discounts (Kneser & Ney 1995; Chen & Goodman 1999).

    P_k(w | h) = (c_k(hw) − D_k(c_k(hw))) / c_k(h·)  +  γ_k(h) P_{k−1}(w | h'),    γ_k(h) = Σ_w D_k(c_k(hw)) / c_k(h·)

for k = n … 1 with contexts h of k − 1 symbols, h' being h without its first one, and P_0 uniform; where h was never seen,
P_k(w | h) = P_{k−1}(w | h'). Counts c_n are those of the data; the shorter ones count in how many contexts an n-gram occurs:
c_k(g) = |{v : c_{k+1}(vg) > 0}|. Discounts are estimated from how many n-grams occur j times, n_j:

    D(j) = j − (j + 1) Y n_{j+1} / n_j  for j = 1, 2 and from 3 on,    Y = n_1 / (n_1 + 2 n_2),

kept within [0.1, j], which leaves every symbol some probability. The first symbols of a text follow marks of its start, which
are symbols of contexts only. An n-gram is one whole number, its symbols the digits; tables hold them in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Completes, FitsDirectly, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Tokens
from pushforward.models.autoregressive import resampled, sharpened
from pushforward.models.blocks import PLAIN, Levels, Sharpening

_LEAST = 0.1  # discount


def longest(symbols: int) -> int:
    """The longest n-grams of so many symbols and the mark of the start that are whole numbers of 62 bits."""
    return max(k for k in range(1, 62) if (symbols + 1) ** k < 2**62)


def discounts(counts: Tensor) -> Tensor:
    """D(0) … D(3), (4,) float64, of counts (M,) of n-grams."""
    n = [(counts == j).sum().double() for j in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1]).clamp(min=1)
    each = [(j - (j + 1) * y * n[j] / n[j - 1].clamp(min=1)).clamp(_LEAST, j) for j in (1, 2, 3)]
    return torch.stack([torch.zeros_like(y), *each])


@dataclass(frozen=True)
class Level:
    """P_k of the n-grams (M,) that were seen, γ_k of the contexts (C,) that were; both sorted."""

    grams: Tensor
    chance: Tensor
    contexts: Tensor
    left: Tensor
    base: int

    def __call__(self, grams: Tensor, shorter: Tensor) -> Tensor:
        """P_k of any n-grams, given P_{k−1} of their ends."""
        at, seen = _find(self.grams, grams)
        context, known = _find(self.contexts, grams // self.base)
        return torch.where(seen, self.chance[at], torch.where(known, self.left[context] * shorter, shorter))


def _find(table: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Places of ``keys`` in the sorted ``table``, and whether they are there."""
    at = torch.searchsorted(table, keys).clamp_(max=len(table) - 1)
    return at, table[at] == keys


class NGram(Model, Samples, Scores, Completes, FitsDirectly):
    """Texts whose symbols follow the ``order`` − 1 before them. Completion weighs ``particles`` draws where what is observed
    does not all come first."""

    density_kind = "exact"
    grams: Tensor
    counts: Tensor

    def __init__(self, schema: Schema, order: int = 6, *, particles: int = 16) -> None:
        super().__init__(schema)
        if not isinstance(schema.example, Tokens):
            raise ValueError(f"n-grams are of symbols, found {schema.example.name} data")
        self.order, self.particles, self.symbols = order, particles, len(schema.example.vocabulary)
        self.base = self.symbols + 1  # the last digit is the mark of the start
        if order < 1:
            raise ValueError(f"order must be at least 1, found {order}")
        if order > (most := longest(self.symbols)):
            raise ValueError(f"order {order} is too long for {self.symbols} symbols: at most {most}")
        self.register_buffer("grams", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self._levels: list[Level] | None = None

    # counts

    def start(self, x: Tensor, draws: Draws) -> None:
        """The n-grams of a sample."""
        self._set(*self._keys(x).unique(return_counts=True))

    def _keys(self, x: Tensor) -> Tensor:
        """The n-gram that ends at each place, (B, T)."""
        length, padded = x.shape[1], F.pad(x.long(), (self.order - 1, 0), value=self.symbols)
        keys = torch.zeros_like(x, dtype=torch.int64)
        for j in range(self.order):
            keys = keys * self.base + padded[:, j : j + length]
        return keys

    def stats(self, batch: Batch) -> dict[str, Tensor]:
        """Counts of n-grams, sparse (base ** order,), and the likelihood of the rows."""
        grams, counts = self._keys(batch.x).unique(return_counts=True)
        log_p = self.log_prob(batch.x)
        table = torch.sparse_coo_tensor(
            grams[None], counts, (self.base**self.order,), is_coalesced=True, check_invariants=False
        )
        return {"grams": table, "likelihood": log_p.sum(), "rows": torch.ones_like(log_p).sum()}

    def update(self, stats: dict[str, Tensor]) -> float:
        table = stats["grams"].coalesce()
        self._set(table.indices()[0], table.values())
        return float(stats["likelihood"] / stats["rows"])

    def _set(self, grams: Tensor, counts: Tensor) -> None:
        self.grams, self.counts, self._levels = grams, counts, None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("grams", "counts"):  # as many as the data had
            if prefix + name in state_dict:
                setattr(self, name, self.grams.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._levels = None

    def _apply(self, *args: Any, **kwargs: Any) -> NGram:
        self._levels = None  # no buffers: moved to another device, the model makes new ones
        return super()._apply(*args, **kwargs)

    # probabilities

    def levels(self) -> list[Level]:
        """P_1 … P_n; none before anything was counted."""
        if self._levels is None:
            tables = [(self.grams, self.counts)]
            for k in range(self.order - 1, 0, -1):
                tables.append((tables[-1][0] % self.base**k).unique(return_counts=True))
            self._levels = []
            for grams, counts in reversed(tables if len(self.grams) else []):
                contexts, owner = (grams // self.base).unique(return_inverse=True)
                taken = discounts(counts)[counts.clamp(max=3)]
                zero = taken.new_zeros(len(contexts))
                total, left = zero.index_add(0, owner, counts.double()), zero.index_add(0, owner, taken)
                # of the end of an n-gram, which was seen too
                shorter = self._chance(grams)
                chance = (counts - taken) / total[owner] + (left / total)[owner] * shorter
                self._levels.append(Level(grams, chance, contexts, left / total, self.base))
        return self._levels

    def _chance(self, grams: Tensor) -> Tensor:
        """P_k of n-grams of any shape, float64, k being the levels made so far."""
        chance = torch.full(grams.shape, 1 / self.symbols, dtype=torch.float64, device=grams.device)
        for k, level in enumerate(self._levels or [], 1):
            chance = level(grams % self.base**k, chance)
        return chance

    def chance(self, grams: Tensor) -> Tensor:
        """P_n of n-grams of any shape, float64."""
        self.levels()
        return self._chance(grams)

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        return self.chance(self._keys(x)).log().sum(1)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x)}

    # verbs

    def _draw(self, u: Tensor, how: Sharpening = PLAIN, held: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Texts (B, T) at the uniform numbers ``u`` (B, T); of ``held`` = (x, known) known symbols are taken as they are."""
        alphabet = torch.arange(self.symbols, device=u.device)
        block = Levels(1, self.symbols, "code").to(u)
        context = torch.full_like(u[:, 0], self.base ** (self.order - 1) - 1, dtype=torch.int64)  # every digit the mark
        drawn = torch.zeros_like(u, dtype=torch.int64)
        for place in range(u.shape[1]):
            log_p = self.chance(context[:, None] * self.base + alphabet).log()
            symbol = block.draw(log_p[:, None], u[:, place : place + 1], how)[:, 0].long()
            if held is not None:
                symbol = torch.where(held[1][:, place], held[0][:, place], symbol)
            drawn[:, place] = symbol
            context = (context * self.base + symbol) % self.base ** (self.order - 1)
        return drawn

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Condition | None,
        draws: Draws,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        **options: Any,
    ) -> Tensor:
        return self._draw(draws.uniform(*self.schema.example.shape, dtype=torch.float64), Sharpening(temperature, top_k, top_p))

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        observed: Tensor,
        condition: Condition | None,
        draws: Draws,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Exact where what is observed comes first; else one of ``particles`` draws by importance resampling. ``temperature``,
        ``top_k`` and ``top_p`` are for the former."""
        first = (observed.cummin(1).values == observed).all(1)
        how = sharpened(first, temperature, top_k, top_p)

        def propose(stream: Draws) -> tuple[Tensor, Tensor]:
            drawn = self._draw(stream.uniform(x.shape[1], dtype=torch.float64), how, held=(x.long(), observed))
            return drawn, self.chance(self._keys(drawn)).log()

        return torch.where(observed, x, resampled(propose, observed, draws, self.particles, first).to(x.dtype))
