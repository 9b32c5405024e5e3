"""A causal core as a network of ordered elements: each element is a token, and a token is told by those before it.

    h = core(s + a_1, t_1 + a_2, …, t_{T−1} + a_T),    parameters of element i = W h_i + b

s is a learned start token and t_j = in(e_j) the token of element j; the elements of a block share the map ``in`` and the head
(W, b). What is added, a_i, is a learned vector of the place i whose element is to be told, where elements are unlike (pixels,
columns; the places of a text are alike), and the projection of ``Context.vector``: every output heeds the condition. Heads
start at zero, and with them the net is the zero function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.nets.common import context_vector, zeroed


class Core(Protocol):
    """Tokens (B, T, width) → (B, T, width), each from those up to its own place.

    ``start`` and ``step`` give the same one place after the other: ``start(batch, length)`` is what is kept over ``length``
    places, ``step(kept, token)`` what is kept then and the output of the next token, both (B, width). What was kept before may
    be overwritten. ``together`` is how many rows are best stepped together over so many places.
    """

    width: int

    def __call__(self, tokens: Tensor) -> Tensor: ...

    def together(self, length: int) -> int: ...

    def start(self, batch: int, length: int) -> Any: ...

    def step(self, kept: Any, token: Tensor) -> tuple[Any, Tensor]: ...


@dataclass(frozen=True)
class Part:
    """``count`` elements alike, each of ``features`` numbers, or of one that is a code below ``symbols``, and of ``params``
    parameters."""

    count: int
    features: int
    params: int
    symbols: int = 0


@dataclass(frozen=True)
class SequenceState:
    """``place`` of the next element, what the core keeps, ``found`` (B, width) for that place, and what is ``added`` to the
    token at each place."""

    place: int
    kept: Any
    found: Tensor
    added: Sequence[Tensor]


class SequenceNet(nn.Module):
    """Features (B, F) of ``parts`` to parameters (B, P), by a causal ``core``, in the order of the elements.

    ``places`` gives each place a vector of its own. ``context`` is the width of ``Context.vector``. ``dropout`` is the share of
    channels of tokens and of outputs that are zero in training, the same ones at all places of an example (Gal & Ghahramani
    2016, arXiv:1512.05287); which ones is drawn from the random numbers given to ``forward``.
    """

    def __init__(
        self, parts: Sequence[Part], core: Any, *, places: bool = True, context: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), found {dropout}")
        width = core.width
        self.parts, self.core, self.context, self.dropout = tuple(parts), core, context, dropout
        self.count = sum(part.count for part in parts)
        self.start_token = nn.Parameter(torch.randn(width) / width**0.5)
        self.places = nn.Parameter(0.1 * torch.randn(self.count, width)) if places else None
        self.from_context = nn.Linear(context, width, bias=False) if context else None
        # nothing follows the last element: alone in its part it is never looked at
        seen = self.parts if self.parts[-1].count > 1 else self.parts[:-1]
        self.inputs = nn.ModuleList(nn.Embedding(p.symbols, width) if p.symbols else nn.Linear(p.features, width) for p in seen)
        self.heads = nn.ModuleList(zeroed(nn.Linear(width, p.params)) for p in parts)
        self._part_of = [i for i, p in enumerate(parts) for _ in range(p.count)]

    def _token(self, part: int, features: Tensor) -> Tensor:
        """Features (…, f) of elements of ``part`` as tokens (…, width)."""
        into = self.inputs[part]
        return into(features[..., 0].long()) if self.parts[part].symbols else into(features)

    def _tokens(self, features: Tensor) -> Tensor:
        """The start token and those of all elements but the last, (B, T, width)."""
        sizes = [p.count * p.features for p in self.parts]
        pieces = features.split(sizes, 1)[: len(self.inputs)]
        tokens = [
            self._token(i, x.unflatten(1, (p.count, -1))) for i, (p, x) in enumerate(zip(self.parts, pieces, strict=False))
        ]
        start = self.start_token.expand(len(features), 1, -1)
        return torch.cat([start, *tokens], 1)[:, : self.count]

    def _dropped(self, h: Tensor, draws: Draws | None) -> Tensor:
        if draws is None or not self.training or not self.dropout:
            return h
        kept = draws.uniform(h.shape[-1]) >= self.dropout
        return h * (kept.to(h) / (1 - self.dropout))[:, None]

    def forward(self, features: Tensor, context: Context | None = None, draws: Draws | None = None) -> Tensor:
        vector, tokens = context_vector(context, self.context), self._tokens(features)
        if self.places is not None:
            tokens = tokens + self.places
        if self.from_context is not None and vector is not None:
            tokens = tokens + self.from_context(vector)[:, None]
        h = self._dropped(self.core(self._dropped(tokens, draws)), draws)
        pieces = h.split([p.count for p in self.parts], 1)
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, pieces, strict=True)], 1)

    # one element after the other

    def start(self, batch: int, context: Context | None = None) -> SequenceState:
        """The state before any element is known, for ``batch`` examples."""
        vector = context_vector(context, self.context)
        added = torch.zeros_like(self.start_token).expand(self.count, 1, -1) if self.places is None else self.places[:, None]
        if self.from_context is not None and vector is not None:
            added = added + self.from_context(vector)
        each = added.unbind(0)
        kept, found = self.core.step(self.core.start(batch, self.count), (self.start_token + each[0]).expand(batch, -1))
        return SequenceState(0, kept, found, each)

    def outputs(self, state: SequenceState, rows: slice) -> Tensor:
        """The parameters (B, p) of the next element."""
        return self.heads[self._part_of[state.place]](state.found)

    def advance(self, state: SequenceState, columns: slice, values: Tensor) -> SequenceState:
        """The state once the next element is known to have the features ``values`` (B, f)."""
        place = state.place + 1
        if place == self.count:
            return replace(state, place=place)
        token = self._token(self._part_of[state.place], values) + state.added[place]
        kept, found = self.core.step(state.kept, token)
        return SequenceState(place, kept, found, state.added)

    def draw(
        self,
        elements: Any,
        u: Tensor,
        context: Context | None,
        held: tuple[Tensor, Tensor] | None,
        how: Any = None,
    ) -> Tensor | None:
        """Codes (B, T) float64 of a text, drawn at the uniform numbers ``u`` (B, T); None for anything else than symbols.

        As the elements would draw them one by one, with the little that symbols need. ``how``: a ``models.blocks.Sharpening``.
        """
        if len(self.parts) > 1 or not self.parts[0].symbols or self.count == 1:
            return None
        vector, head, table = context_vector(context, self.context), self.heads[0], self.inputs[0].weight
        bias = (head.bias + elements.blocks[0].default).view(-1)
        at_once: Any = getattr(self.core, "draw", None)
        if at_once is not None:
            tokens = torch.cat([table, self.start_token[None]])  # type: ignore[list-item]
            added = tokens.new_zeros(self.count, tokens.shape[1]) if self.places is None else self.places
            condition = None if self.from_context is None or vector is None else self.from_context(vector)
            given = u[:0] if held is None else held[0].masked_fill(~held[1], math.nan)
            drawn = at_once(u, tokens, added, condition, (head.weight, bias), given, how)
            if drawn is not None:
                return drawn
        pieces = []
        for rows in torch.arange(len(u), device=u.device).split(self.core.together(self.count)):
            told = None if vector is None else Context(vector[rows])
            kept = None if held is None else (held[0][rows].long(), held[1][rows])
            pieces.append(self._draw(u[rows], told, kept, bias, how))
        return torch.cat(pieces).to(u.dtype)

    def _draw(self, u: Tensor, context: Context | None, held: tuple[Tensor, Tensor] | None, bias: Tensor, how: Any) -> Tensor:
        """Some rows, step by step."""
        weight, table = cast(Tensor, self.heads[0].weight), cast(Tensor, self.inputs[0].weight)
        state, drawn = self.start(len(u), context), []
        kept, found = state.kept, state.found
        for place, numbers in enumerate(u.split(1, 1)):
            logits = F.linear(found, weight, bias)
            mass = (logits if how is None else how.logits(logits)).softmax(-1, dtype=torch.float64).cumsum(-1)
            code = torch.searchsorted(mass, numbers * mass[:, -1:], right=True).clamp_(max=len(table) - 1)[:, 0]
            if held is not None:
                code = torch.where(held[1][:, place], held[0][:, place], code)
            drawn.append(code)
            if place + 1 < self.count:
                kept, found = self.core.step(kept, table[code] + state.added[place + 1])
        return torch.stack(drawn, 1)
