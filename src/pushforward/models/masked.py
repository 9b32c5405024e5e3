"""Masked diffusion: the elements of an example are hidden, and revealed in random order.

Along the path ``paths.discrete.Masked`` all that counts is which elements are hidden, so its bound is the mean over orders σ of
an autoregressive model that knows them all (Uria et al. 2014, arXiv:1310.1757; Sahoo et al. 2024, arXiv:2406.07524; Ou et al.
2024, arXiv:2406.03736), and holds for numbers as it does for symbols:

    log p(x) ≥ E_σ Σ_i log p(e_σi | e_σ1 … e_σ(i−1))
    loss     = D/k Σ_{hidden e} −log p(e | visible),     k hidden of D, uniform in {1 … D}, any k of them

The loss has the mean −bound. Drawing the number k, spread evenly over a batch, rather than a time t at which each element is
hidden by itself, with 1/t for D/k, leaves out the noise of how many elements happen to be hidden.

A number with gaps is two elements, first whether it is missing, then its value, which is revealed after the former in half of
the orders and together with it in the others: the net then serves whoever knows that there is a value, and whoever does not.
Of a hidden pair that is not revealed together only the first can come next, and does so for both: its term counts twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.model import Batch, Completes, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.elements import Elements

MOST = 64  # network passes, unless more are asked for


class MaskedDiffusion(Model, Samples, Scores, Completes):
    """``net``(features (B, F), hidden (B, E), context) gives parameters (B, P) of all elements; hidden features are zeros.

    ``steps`` passes when sampling and ``score_steps`` when scoring reveal equal shares of a random order: one element each
    where None are given and there are no more than 64. What one pass reveals is drawn independently given what was visible.
    """

    density_kind = "lower_bound"
    indicators: Tensor
    values: Tensor

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        net: nn.Module,
        conditioner: Conditioner,
        *,
        steps: int | None = None,
        score_steps: int | None = None,
    ) -> None:
        super().__init__(schema)
        self.elements, self.net, self.conditioner = elements, net, conditioner
        self.steps, self.score_steps = (min(elements.count, k or MOST) for k in (steps, score_steps))
        pairs = elements.indicator_of
        self.register_buffer("indicators", torch.tensor(list(pairs.values()), dtype=torch.int64), persistent=False)
        self.register_buffer("values", torch.tensor(list(pairs), dtype=torch.int64), persistent=False)

    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)

    def _params(self, e: Tensor, hidden: Tensor, condition: Condition | None) -> Tensor:
        seen = self.elements.look(e).masked_fill(hidden[:, self.elements.feature_element], 0)
        return self.net(seen, hidden, self.conditioner(condition, len(e)))

    def _order(self, draws: Draws, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A random order of what is not ``known`` (B, E): the place of each element, (B, E), negative for known ones; the
        number of places, (B,); and which values are revealed together with their indicators, (B, number of pairs)."""
        key = draws.uniform(self.elements.count, dtype=torch.float64)
        together = draws.uniform(len(self.values)) < 0.5
        apart = ~together
        if known is not None:
            key = torch.where(known, -1.0, key)
            together, apart = together & ~known[:, self.indicators], apart & ~known[:, self.indicators]
        first, second = key[:, self.indicators], key[:, self.values]
        key[:, self.indicators] = torch.where(apart, torch.minimum(first, second), first)
        # values that have no place of their own stand at the end of the line, then at that of their indicators
        key[:, self.values] = torch.where(together, math.inf, torch.where(apart, torch.maximum(first, second), second))
        before = 0 if known is None else known.sum(1, keepdim=True)
        place = key.argsort(dim=1, stable=True).argsort(dim=1) - before
        count = (key.isfinite() & (key >= 0)).sum(1)
        place[:, self.values] = torch.where(together, place[:, self.indicators], place[:, self.values])
        return place, count, together

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        e = self.elements.take_apart(batch.x)
        place, count, together = self._order(batch.draws)
        hide = 1 + (batch.draws.stratified(torch.float64) * count).long()
        hidden = place >= (count - hide)[:, None]
        nats = -self.elements.log_prob_elements(self._params(e, hidden, batch.condition or None), e)
        share = hidden.to(nats.dtype)
        waits = hidden[:, self.indicators] & ~together
        share[:, self.indicators] += waits.to(nats.dtype)
        share[:, self.values] *= (~waits).to(nats.dtype)
        return {"loss": (share * nats).sum(1) * (count / hide).to(nats.dtype)}

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """log Π p(e | those revealed before) along one random order, in ``score_steps`` passes.

        The mean over orders of its exponential is exactly the density with which ``sample(steps=score_steps)`` draws x, so
        one call is a proper log importance weight, and its mean a lower bound. With a pass for each element, the mean is the
        bound that was trained; with fewer, the model scored (as the model sampled) knows no dependence within a share.
        """
        draws = draws or Draws(0, 0, len(x), device=x.device)
        e = self.elements.take_apart(x)
        place, count, _ = self._order(draws)
        share = place * self.score_steps // count[:, None]
        total = torch.zeros(len(x), dtype=self.dtype, device=x.device)
        for step in range(self.score_steps):
            nats = self.elements.log_prob_elements(self._params(e, share >= step, condition), e)
            total = total + torch.where(share == step, nats, 0.0).sum(1)
        return total

    def _reveal(self, e: Tensor, known: Tensor | None, condition: Condition | None, draws: Draws, steps: int) -> Tensor:
        """``e`` (B, E) with what is not ``known`` drawn, in equal shares of a random order."""
        steps = min(steps, self.elements.count)  # beyond it, passes would have nothing to reveal
        place, count, _ = self._order(draws, known)
        share = place * steps // count.clamp(min=1)[:, None]
        for step in range(steps):
            now = share == step
            if not bool(now.any()):
                continue
            drawn = self.elements.sample_elements(self._params(e, share >= step, condition), draws.fork(step))
            e = torch.where(now, drawn, e)
            gone = now[:, self.values] & (e[:, self.indicators] > 0)  # a number drawn as missing is not there to be seen
            e[:, self.values] = torch.where(gone, math.nan, e[:, self.values])
        return e

    @torch.no_grad()
    def sample(self, n: int, condition: Condition | None, draws: Draws, *, steps: int | None = None, **options: Any) -> Tensor:
        """``n`` examples in exactly ``steps`` network passes; passes that would have nothing left to reveal are left out."""
        e = torch.zeros(n, self.elements.count, dtype=torch.float64, device=self.device)
        return self.elements.put_together(self._reveal(e, None, condition, draws, steps or self.steps))

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """The rest in random order, given what is observed, by the net's own conditionals: with a pass for each element that
        is unknown nothing else is approximate. A gap is filled in the knowledge that there is a number."""
        known = self.elements.spread(observed)
        e = self.elements.take_apart(torch.where(observed, x, torch.zeros_like(x)))
        drawn = self.elements.put_together(self._reveal(e, known, condition, draws, self.steps))
        return torch.where(observed, x, drawn.to(x.dtype))
