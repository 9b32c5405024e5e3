"""Hidden Markov models (Rabiner 1989): a state s_t that a Markov chain moves, and what is seen of it at each time.

    p(y, s) = π(s_1) Π_t A(s_t, s_{t+1}) Π_t b_t(s_t),      b_t(s) = p(y_t | s) as in models/densities and models/gaussians

    forward    α_t(s) = log p(y_1 … y_t, s_t = s) = log b_t(s) + log Σ_r e^{α_{t−1}(r)} A(r, s),   log p(y) = log Σ_s e^{α_T(s)}
    backward   β_t(s) = log p(y_{t+1} … y_T | s_t = s) = log Σ_r A(s, r) b_{t+1}(r) e^{β_{t+1}(r)}
    E step     γ_t = softmax(α_t + β_t),     ξ_t(r, s) ∝ e^{α_t(r)} A(r, s) b_{t+1}(s) e^{β_{t+1}(s)}      (Baum et al. 1970)
    M step     π ∝ Σ γ_1 + a,   A(r, ·) ∝ Σ_t ξ_t(r, ·) + a,   emissions from their statistics under γ
    Viterbi    δ_t(s) = log b_t(s) + max_r [δ_{t−1}(r) + log A(r, s)]

All in logs, over all sequences of a batch at once. What is missing at a time is integrated out of b_t; gaps are filled by
drawing states backwards, p(s_t | s_{t+1}, y) ∝ e^{α_t(s_t)} A(s_t, s_{t+1}), then what is missing given the states: exactly.
Chances below 1e-100 count as 1e-100, so that no sum of exponentials runs empty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core.context import Condition
from pushforward.core.model import Batch, Completes, Encodes, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.densities import EMPTY, WIDE, Densities
from pushforward.models.em import EM, Seen

_LEAST = 1e-100


def _apply(log_p: Tensor, matrix: Tensor) -> Tensor:
    """log Σ_r e^{log_p(r)} matrix(r, s), (B, S); the matrix has no entry below 1e-100."""
    top = log_p.amax(1, keepdim=True)
    return top + ((log_p - top).exp() @ matrix).log()


class HiddenMarkov(EM, Samples, Scores, Encodes, Completes):
    """States with ``densities`` for what is seen at each of ``length`` times.

    ``transform``.pull gives y (B, D, T) with ``channels_first``, else (B, T), one number at each time. ``smoothing`` is a.
    """

    initial: Tensor
    transition: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Compose,
        densities: Densities,
        *,
        channels_first: bool,
        smoothing: float = 0.1,
        restarts: int = 1,
        criterion: str | None = None,
    ) -> None:
        super().__init__(schema, densities.components, restarts, criterion)
        if smoothing < 0:
            raise ValueError(f"found smoothing {smoothing}: expected 0 or more")
        self.transform, self.densities, self.channels_first, self.smoothing = transform, densities, channels_first, smoothing
        self.length = schema.example.shape[-1]
        self.density_kind = "lower_bound" if transform.stochastic else "exact"
        k = self.components
        self.register_buffer("initial", torch.full((k,), 1 / k, dtype=WIDE))
        self.register_buffer("transition", torch.full((k, k), 1 / k, dtype=WIDE))
        self.register_buffer("live", torch.ones(k, dtype=WIDE))

    live: Tensor

    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x)

    @property
    def used(self) -> int:
        return int(self.live.sum())

    # rows of all times, one after the other

    def _flat(self, y: Tensor) -> Tensor:
        """(B, D, T) or (B, T) → (B T, D)."""
        return (y.transpose(1, 2) if self.channels_first else y[:, :, None]).reshape(-1, self.densities.size)

    def _shaped(self, rows: Tensor) -> Tensor:
        """(B T, D) → (B, D, T) or (B, T)."""
        y = rows.view(-1, self.length, self.densities.size)
        return y.transpose(1, 2) if self.channels_first else y[:, :, 0]

    def _seen(self, x: Tensor, draws: Draws | None) -> tuple[Any, Tensor]:
        y, score = self.transform.pull(x, None, draws)
        return self.densities.see(self._flat(y.to(self.initial.dtype))), score.to(self.initial.dtype)

    # forward, backward

    def _chain(self) -> tuple[Tensor, Tensor]:
        """log π (S,), and A (S, S) without zeros."""
        return self.initial.clamp(min=_LEAST).log(), self.transition.clamp(min=_LEAST)

    def _emissions(self, rows: Any) -> Tensor:
        """log b_t(s), (B, T, S); states that are not in use have none."""
        found = self.densities.log_prob(rows).view(-1, self.length, self.components)
        return found.masked_fill(self.live == 0, -1e4 * self.length) if self.used < self.components else found

    def _forward(self, log_b: Tensor) -> Tensor:
        """α, (B, T, S)."""
        log_pi, a = self._chain()
        alpha = [log_pi + log_b[:, 0]]
        for t in range(1, self.length):
            alpha.append(log_b[:, t] + _apply(alpha[-1], a))
        return torch.stack(alpha, 1)

    def _backward(self, log_b: Tensor) -> Tensor:
        """β, (B, T, S)."""
        _, a = self._chain()
        beta = [torch.zeros_like(log_b[:, 0])]
        for t in range(self.length - 1, 0, -1):
            beta.append(_apply(log_b[:, t] + beta[-1], a.T))
        return torch.stack(beta[::-1], 1)

    # EM

    def digest(self, batch: Batch, weight: Tensor | None = None) -> Seen:
        rows, score = self._seen(batch.x, batch.draws)
        return Seen(rows, score, None if weight is None else weight.to(score.dtype))

    def e_step(self, seen: Seen) -> dict[str, Tensor]:
        """Forward, backward, and the sums under p(s | y)."""
        log_b = self._emissions(seen.rows)
        alpha, beta = self._forward(log_b), self._backward(log_b)
        share = (alpha + beta).softmax(2)  # γ, (B, T, S)
        weighed = share if seen.weight is None else share * seen.weight[:, None, None]
        _, a = self._chain()
        # ξ_t(r, s) = A(r, s) f_t(r) g_t(s) / Σ …, with f and g scaled to a maximum of 1
        f = (alpha[:, :-1] - alpha[:, :-1].amax(2, keepdim=True)).exp().flatten(0, 1)
        after = (log_b + beta)[:, 1:]
        g = (after - after.amax(2, keepdim=True)).exp().flatten(0, 1)
        whole = ((f @ a) * g).sum(1, keepdim=True)
        if seen.weight is not None:
            f = f * seen.weight.repeat_interleave(self.length - 1)[:, None]
        return {
            "initial": weighed[:, 0].sum(0),
            "pairs": a * ((f / whole).T @ g),
            **self.densities.sums(seen.rows, weighed.flatten(0, 1)),
            **seen.total(alpha[:, -1].logsumexp(1)),
        }

    def m_step(self, sums: dict[str, Tensor]) -> None:
        """The chain and the emissions of the highest expected log-likelihood."""
        self.densities.estimate(sums)
        initial = (sums["initial"] + self.smoothing) * self.live
        self.initial.copy_(initial / initial.sum())
        pairs = (sums["pairs"] + self.smoothing) * self.live
        total = pairs.sum(1, keepdim=True)
        self.transition.copy_(torch.where(total > EMPTY, pairs / total.clamp(min=EMPTY), self.transition))

    def log_prior(self) -> Tensor:
        log_pi, a = self._chain()
        chain = (log_pi * self.live).sum() + (a.log() * self.live * self.live[:, None]).sum()
        return self.densities.log_prior() + self.smoothing * chain

    def begin(self, seen: Seen, components: int, draws: Draws) -> None:
        """States from what is seen at single times, and the chain from which follows which."""
        self.live.copy_(torch.arange(self.components) < components)
        by_time = None if seen.weight is None else seen.weight.repeat_interleave(self.length)
        share = self.densities.shares(seen.rows, components, draws, by_time)
        weighed = share if by_time is None else share * by_time[:, None]
        steps, after = weighed.view(-1, self.length, self.components), share.view(-1, self.length, self.components)
        pairs = torch.einsum("btr,bts->rs", steps[:, :-1], after[:, 1:])
        self.m_step({"initial": steps[:, 0].sum(0), "pairs": pairs, **self.densities.sums(seen.rows, weighed)})

    def free(self) -> float:
        return self.used - 1 + self.used * (self.used - 1) + self.densities.free(self.used)

    # verbs

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        rows, score = self._seen(x, draws)
        return self._forward(self._emissions(rows))[:, -1].logsumexp(1) + score

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch.x, batch.condition, batch.draws)}

    def posterior(self, x: Tensor) -> Tensor:
        """p(s_t | y), (B, T, S)."""
        log_b = self._emissions(self._seen(x, None)[0])
        return (self._forward(log_b) + self._backward(log_b)).softmax(2)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The share of time spent in each state, expected given x: (B, S)."""
        return self.posterior(x).mean(1)

    def viterbi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest path of states, int64 (B, T), and its log p(y, s) without V of the transform, (B,)."""
        log_b = self._emissions(self._seen(x, None)[0])
        log_pi, a = self._chain()
        delta, came = log_pi + log_b[:, 0], []
        for t in range(1, self.length):
            best, origin = (delta[:, :, None] + a.log()).max(1)
            delta = best + log_b[:, t]
            came.append(origin)
        top, state = delta.max(1)
        path = [state]
        for origin in reversed(came):
            path.append(origin.gather(1, path[-1][:, None])[:, 0])
        return torch.stack(path[::-1], 1), top

    def sample(self, n: int, condition: Condition | None, draws: Draws, **options: Any) -> Tensor:
        uniform = draws.uniform(self.length, dtype=self.initial.dtype)
        state, after = [_choose(self.initial.expand(n, -1), uniform[:, 0])], self.transition
        for t in range(1, self.length):
            state.append(_choose(after[state[-1]], uniform[:, t]))
        blank = self.initial.new_zeros(n * self.length, self.densities.size)
        return self._draw(blank, torch.zeros_like(blank, dtype=torch.bool), torch.stack(state, 1), draws)

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """Exact draws of what is missing: states backwards given all that is seen, then what is seen of them."""
        y, _ = self.transform.pull(torch.where(observed, x, torch.zeros_like(x)), None, draws)
        known = self._flat(self.transform.spread(observed) & ~y.isnan())
        y = self._flat(y.to(self.initial.dtype))
        alpha = self._forward(self._emissions(self.densities.see(y, known)))
        _, a = self._chain()
        uniform = draws.uniform(self.length, dtype=y.dtype)
        state = [_choose(alpha[:, -1].softmax(1), uniform[:, -1])]
        for t in range(self.length - 2, -1, -1):
            state.append(_choose((alpha[:, t] + a.log().T[state[-1]]).softmax(1), uniform[:, t]))
        return torch.where(observed, x, self._draw(y, known, torch.stack(state[::-1], 1), draws).to(x.dtype))

    def _draw(self, y: Tensor, known: Tensor, state: Tensor, draws: Draws) -> Tensor:
        noise = self.densities.noise(draws, self.length).flatten(0, 1)
        filled = self.densities.fill(self.densities.see(y, known), state.flatten(), noise)
        return self.transform.push(self._shaped(filled))


def _choose(chances: Tensor, uniform: Tensor) -> Tensor:
    """Indices (B,) drawn from chances (B, S) by uniform numbers (B,)."""
    return (uniform[:, None] >= chances.cumsum(1)).sum(1).clamp(max=chances.shape[1] - 1)
