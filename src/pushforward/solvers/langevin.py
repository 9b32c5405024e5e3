"""Drawing from a density known up to a factor, by gradient: the Metropolis-adjusted Langevin algorithm.

    y' = y + ½τ² ∇ log p(y) + τ ε,    kept with probability min(1, p(y') q(y | y') / (p(y) q(y' | y)))

(Roberts & Tweedie 1996). Rows are chains of their own: each has its own step τ, its own random numbers and its own decisions,
and what is not ``free`` in a row stays as it is, so that a chain of log p(all) draws from p(free | the rest). For the first
third of the steps the density is flattened to pᵝ with β rising to 1, and τ is led to an acceptance of 0.574 (Roberts &
Rosenthal 1998); then both stand still, and p is what the chain leaves unchanged. Inpainting by noisy ascent that calms down
(Dinh et al. 2014, arXiv:1410.8516) is the same without the decision.

Gradients do not find the way from one mode to another. Every fourth step is therefore a leap: some coordinates, one or all or
any number between, are drawn afresh from N(0, 1), which suits coordinates that are standard normal one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
_ACCEPTED = 0.574
_FLAT = 0.3  # β at the start


def mala(
    log_density: LogDensity,
    start: Tensor,
    free: Tensor,
    normal: Callable[[], Tensor],
    uniform: Callable[[], Tensor],
    steps: int = 200,
) -> Tensor:
    """``start`` (B, D) after ``steps`` steps in which the coordinates ``free`` (B, D) move.

    ``log_density`` (B, D) → (B,) need not be finite everywhere: where it is not, nothing moves to. ``normal``() gives (B, D),
    ``uniform``() (B,). One evaluation of the density and its gradient a step.
    """
    count = free.sum(1).clamp(min=1).to(start.dtype)
    moves = free.to(start.dtype)
    log_tau = -count.log() / 6  # chains in more dimensions take smaller steps
    y = start
    score, slope = _sloped(log_density, y, moves)
    settling = steps // 3
    for k in range(steps):
        beta = min(1.0, _FLAT + (1 - _FLAT) * k / max(1, settling))
        leap = k % 4 == 3
        if leap:
            share = count ** -uniform()
            fresh = moves * (torch.special.ndtr(normal()) < share[:, None])
            proposal = torch.where(fresh > 0, normal(), y)
        else:
            tau = log_tau.exp()[:, None]
            ahead = y + _drift(beta * slope, tau, count)
            proposal = ahead + tau * moves * normal()
        new_score, new_slope = _sloped(log_density, proposal, moves)
        if leap:
            odds = 0.5 * (proposal.square() - y.square()).sum(1)
        else:
            back = proposal + _drift(beta * new_slope, tau, count)
            odds = ((proposal - ahead).square().sum(1) - (y - back).square().sum(1)) / (2 * tau[:, 0].square())
        log_ratio = beta * (new_score - score) + odds
        log_ratio = torch.where(new_score.isfinite(), log_ratio, -math.inf)
        # a chain that starts where the density is zero leaves at the first chance
        log_ratio = torch.where(score.isfinite(), log_ratio, math.inf).clamp(max=0)
        accept = uniform().log() < log_ratio
        y = torch.where(accept[:, None], proposal, y)
        score, slope = torch.where(accept, new_score, score), torch.where(accept[:, None], new_slope, slope)
        if k < settling and not leap:
            log_tau = log_tau + (log_ratio.exp() - _ACCEPTED) * 2 / (1 + k) ** 0.6
    return y


def _drift(slope: Tensor, tau: Tensor, count: Tensor) -> Tensor:
    """½τ² ∇ log p, cut to the length of a few steps of noise: a wall of the density must not throw the chain across it."""
    drift = 0.5 * tau.square() * slope
    longest = 3 * tau[:, 0] * count.sqrt()
    length = drift.norm(dim=1)
    return drift * (longest / length.clamp(min=1e-30)).clamp(max=1)[:, None]


@torch.enable_grad()
def _sloped(log_density: LogDensity, y: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """log p and its gradient in the coordinates that move; −∞ and 0 where either is not finite."""
    at = y.detach().requires_grad_()
    score = log_density(at)
    (slope,) = torch.autograd.grad(score.sum(), at)
    slope = slope * moves
    good = score.detach().isfinite() & slope.isfinite().all(1)
    return score.detach().masked_fill(~good, -math.inf), slope.masked_fill(~good[:, None], 0.0)
