"""A mixture of autoregressive models, each with an order or masks of its own, that share one network or have one each (Uria et
al. 2014, arXiv:1310.1757; Germain et al. 2015, arXiv:1502.03509).

    log p(x) = log 1/M Σ_m p_m(x),      p_m(x) = Π_i p(e_{o_m(i)} | e_{o_m(1)} … e_{o_m(i−1)})

A training step takes one member for the whole batch, of which the first M are the mixture; or deals the batch out to all, if
they share nothing; or takes a new one, where the net has no number of them (``members`` 0), so that the network knows every
order, and what is observed may come first in completion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.model import Batch, Completes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.autoregressive import ancestral, log_conditionals, resampled
from pushforward.models.blocks import PLAIN, Sharpening
from pushforward.models.elements import Elements
from pushforward.nets.orders import Ensemble, ManyOrders


class OrderMixture(Model, Samples, Scores, Completes):
    """``net`` under its orders and masks, the first ``mixture`` of them the model; ``particles``: see ``Autoregressive``."""

    density_kind = "exact"

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        net: ManyOrders | Ensemble,
        conditioner: Conditioner,
        *,
        mixture: int,
        particles: int = 16,
    ) -> None:
        super().__init__(schema)
        if mixture < 1 or (net.members and mixture > net.members):
            found = f"found a mixture of {mixture} of {net.members} orders and masks"
            raise ValueError(f"{found}: expected at least 1, and no more than there are")
        self.elements, self.net, self.conditioner = elements, net, conditioner
        self.mixture, self.particles = mixture, particles

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        e = self.elements.take_apart(batch.x)
        params = self.net.in_turn(self.elements.look(e), self.conditioner(batch.condition or None, len(e)), batch.draws)
        return {"loss": -self.elements.log_likelihood(params, e)}

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        e, context = self.elements.take_apart(x), self.conditioner(condition, len(x))
        seen = self.elements.look(e)
        each = [self.elements.log_likelihood(self.net(seen, context, k=k), e) for k in range(self.mixture)]
        return torch.stack(each).logsumexp(0) - math.log(self.mixture)

    def _drawn(
        self, context: Context, draws: Draws, how: Sharpening = PLAIN, held: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Elements (B, E) of a random member for each row, and the nats of their conditionals under it where some are held."""
        u = draws.uniform(self.elements.count, dtype=torch.float64)
        of = draws.integers(self.mixture)
        drawn, nats = torch.zeros_like(u), torch.zeros_like(u)
        for k in of.unique().tolist():
            rows = (of == k).nonzero().flatten()
            net, order = self.net.member(k)
            mine = Context() if context.vector is None else Context(context.vector[rows])
            kept = None if held is None else (held[0][rows], held[1][rows])
            drawn[rows] = ancestral(self.elements, net, order, mine, u[rows], how, kept)
            if held is not None:
                nats[rows] = log_conditionals(self.elements, net, drawn[rows], mine).double()
        return drawn, nats

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
        how = Sharpening(temperature, top_k, top_p)
        return self.elements.put_together(self._drawn(self.conditioner(condition, n), draws, how)[0])

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Where any order is known: draws in an order in which what is observed comes first, by the network's own conditionals.
        Else importance resampling of ``particles`` draws with the observed elements held."""
        known = self.elements.spread(observed)
        e = self.elements.take_apart(torch.where(observed, x, torch.zeros_like(x)))
        context = self.conditioner(condition, len(x))
        if self.net.members:
            propose = lambda stream: self._drawn(context, stream, held=(e, known))
            drawn = resampled(propose, known, draws, self.particles, known.all(1))
            return torch.where(observed, x, self.elements.put_together(drawn).to(x.dtype))
        u = draws.uniform(self.elements.count, dtype=torch.float64)
        drawn = torch.zeros_like(u)
        for rows, first in _alike(known):
            net, order = self.net.member(0, first)
            mine = Context() if context.vector is None else Context(context.vector[rows])
            drawn[rows] = ancestral(self.elements, net, order, mine, u[rows], held=(e[rows], known[rows]))
        return torch.where(observed, x, self.elements.put_together(drawn).to(x.dtype))


def _alike(known: Tensor) -> Iterator[tuple[Tensor, list[int]]]:
    """Rows that share a pattern of known elements, and the pattern."""
    patterns, which = known.unique(dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        yield (which == i).nonzero().flatten(), pattern.nonzero().flatten().tolist()
