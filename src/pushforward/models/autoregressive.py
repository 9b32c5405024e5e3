"""Distributions by the chain rule: one model for every network whose outputs see only what comes before.

    log p(x) = Σ_i log p(e_i | e_1 … e_{i−1})

One pass of the network gives the parameters of all conditionals, so log p is exact. Sampling runs element by element on a state
that the network carries along, so that each piece of arithmetic is done once; element i is the quantile, at a uniform number
u_i, of its conditional. MADE, NADE, a fully visible belief network, PixelCNN, recurrent networks and transformers differ in the
network alone (catalog/autoregressive.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pushforward.algorithms.estimators import gumbel
from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch, Completes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.blocks import PLAIN, Sharpening
from pushforward.models.elements import Elements


class OrderedNet(Protocol):
    """Features (B, F) to parameters (B, P), those of an element from the features of elements before it in the order.

    ``start``, ``outputs`` and ``advance`` give the same parameters one element at a time: ``outputs(state, rows)`` those of the
    next element, whose slice of P is ``rows``; ``advance(state, columns, values)`` makes known its features (B, f), whose slice
    of F is ``columns``. One that has a ``dropout`` above 0 takes the ``draws`` of the batch, too, in training.
    """

    def __call__(self, features: Tensor, context: Context | None = None) -> Tensor: ...

    def start(self, batch: int, context: Context | None = None) -> Any: ...

    def outputs(self, state: Any, rows: slice) -> Tensor: ...

    def advance(self, state: Any, columns: slice, values: Tensor) -> Any: ...


def log_conditionals(elements: Elements, net: OrderedNet, e: Tensor, context: Context) -> Tensor:
    """log p(e_i | those before), (B, E), of elements ``e`` (B, E)."""
    return elements.log_prob_elements(net(elements.look(e), context), e)


def ancestral(
    elements: Elements,
    net: OrderedNet,
    order: Sequence[int],
    context: Context,
    u: Tensor,
    how: Sharpening = PLAIN,
    held: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Elements (B, E) float64 drawn in ``order`` at the uniform numbers ``u`` (B, E); of ``held`` = (e, known), both (B, E),
    those of e where known is true are taken as they are."""
    quick = getattr(net, "draw", None)
    if quick is not None and (drawn := quick(elements, u, context, held, None if how.plain else how)) is not None:
        return drawn
    drawn = torch.zeros_like(u)
    singles, features, params = elements.singles(), elements.feature_slices, elements.param_slices
    state = net.start(len(u), context)
    for i in order:
        outputs = net.outputs(state, params[i])[:, None]
        value = singles[i].draw(outputs, u[:, i : i + 1], how)
        gap = elements.indicator_of.get(i)
        if gap is not None:  # a number drawn as missing is not there to be seen
            value = torch.where(drawn[:, gap : gap + 1] > 0, math.nan, value)
        if held is not None:
            value = torch.where(held[1][:, i : i + 1], held[0][:, i : i + 1], value)
        drawn[:, i] = value[:, 0]
        state = net.advance(state, features[i], singles[i].look(value)[:, 0])
    return drawn


def resampled(
    propose: Callable[[Draws], tuple[Tensor, Tensor]], known: Tensor, draws: Draws, particles: int, exact: Tensor
) -> Tensor:
    """For each row one of ``particles`` proposals, what is drawn (B, n) and the nats of the elements (B, E), chosen with
    probability proportional to the likelihood of what is ``known`` (B, E); the first, for rows that are ``exact`` (B,)."""
    best = score = None
    for particle in range(1 if bool(exact.all()) else particles):
        stream = draws.fork(particle)
        drawn, nats = propose(stream)
        race = torch.where(known, nats.double(), 0.0).sum(1) + gumbel(stream.uniform(dtype=torch.float64))
        if best is None or score is None:
            best, score = drawn, race
        else:
            better = (race > score) & ~exact
            best, score = torch.where(better[:, None], drawn, best), torch.maximum(race, score)
    assert best is not None
    return best


def sharpened(first: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Sharpening:
    """How to complete rows; ``first`` (B,) says of which what is known comes first. Raises RecipeError where something is to be
    sharpened and others are among them: their draws are weighed by the model as it is."""
    how = Sharpening(temperature, top_k, top_p)
    if not how.plain and not bool(first.all()):
        raise RecipeError(
            f"temperature, top_k and top_p continue a beginning, but in {int((~first).sum())} of {len(first)} rows something is"
            " known after a gap: leave them out"
        )
    return how


class Autoregressive(Model, Samples, Scores, Completes):
    """``net`` is an ``OrderedNet`` over the features of ``elements``, whose ``order`` is that of the data unless given."""

    density_kind = "exact"

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        net: Any,
        conditioner: Conditioner,
        *,
        order: Sequence[int] | None = None,
        particles: int = 16,
    ) -> None:
        super().__init__(schema)
        self.elements, self.net, self.conditioner, self.particles = elements, net, conditioner, particles
        self.order = tuple(order) if order is not None else tuple(range(elements.count))

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        e = self.elements.take_apart(x)
        params = self.net(self.elements.look(e), self.conditioner(condition, len(x)))
        return self.elements.log_likelihood(params, e)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        e, context = self.elements.take_apart(batch.x), self.conditioner(batch.condition or None, len(batch.x))
        # what a net drops in training belongs to the rows of the batch
        random = {"draws": batch.draws} if getattr(self.net, "dropout", 0.0) else {}
        params = self.net(self.elements.look(e), context, **random)
        return {"loss": -self.elements.log_likelihood(params, e)}

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
        u = draws.uniform(self.elements.count, dtype=torch.float64)
        how, context = Sharpening(temperature, top_k, top_p), self.conditioner(condition, n)
        return self.elements.put_together(ancestral(self.elements, self.net, self.order, context, u, how))

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
        """Exact where what is observed comes first in the order; else ``particles`` draws with the observed elements held, one
        of which is kept with probability proportional to the likelihood of what was held (importance resampling).
        ``temperature``, ``top_k`` and ``top_p`` are for the former."""
        known = self.elements.spread(observed)
        e = self.elements.take_apart(torch.where(observed, x, torch.zeros_like(x)))
        context = self.conditioner(condition, len(x))
        ordered = known[:, list(self.order)]
        first = (ordered.cummin(1).values == ordered).all(1)  # what comes after these depends on nothing that follows it
        how = sharpened(first, temperature, top_k, top_p)

        def propose(stream: Draws) -> tuple[Tensor, Tensor]:
            u = stream.uniform(self.elements.count, dtype=torch.float64)
            drawn = ancestral(self.elements, self.net, self.order, context, u, how, held=(e, known))
            return drawn, log_conditionals(self.elements, self.net, drawn, context)

        drawn = resampled(propose, known, draws, self.particles, first)
        return torch.where(observed, x, self.elements.put_together(drawn).to(x.dtype))
