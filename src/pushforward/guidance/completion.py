"""Draws from p(x | what is known of x).

| method | what it does | source |
|---|---|---|
| ``particles`` | many ancestral chains a row, of which those go on that foresee the known part's own path | Trippe et al. 2022, arXiv:2206.04119 |
| ``repaint`` | ancestral steps with the known part held to its own noisy path, each taken back and done again | Lugmayr et al. 2022, arXiv:2201.09865 |
| ``replace`` | the same without going back | Song et al. 2020, arXiv:2011.13456 |
| ``posterior`` | D moved to where it explains a linear measurement y = A x_0 + τ z | Rozet et al. 2024, arXiv:2405.13712; Chung et al. 2022, arXiv:2209.14687 |

Particles are exact in the limit of many particles and steps, as the known part given its data has a path of its own, which needs
no network, and p(x_0 | path) averaged over paths is p(x_0 | known). The others are not: repaint holds the known part at the
noise of the moment, and so has long chosen between modes when it hears which one is meant. ``benchmarks/solvers.py completion``
shows by how much.

    D_y = D + C Aᵀ (A C Aᵀ + τ²)⁻¹ (y − A D),    C = Cov[x_0 | x] = (σ²/α) ∂D/∂x

The posterior method takes x_0 given x_t for normal, with the covariance that the network itself knows; A is a linear function
(masks, blurs, down-sampling), or the derivative at D of one that is not. C u and Aᵀ w are found by autograd, and the system is
solved by ``iterations`` of conjugate gradients, which go along what is surest first: exact where they are as many as measurements,
but networks are covariances only nearly, and garments with a half torn off came back best by one (RMS error of levels 63, by
three 75). With a multiple of the identity in the place of C, as is common, whatever pixels have in common is moved too far, by
a hundred times where there is much noise.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.random import Draws
from pushforward.core.shapes import over
from pushforward.solvers import sde
from pushforward.solvers.grids import Grid
from pushforward.solvers.multistep import Denoise

_FAINT = 0.02  # signal over noise below which x says nothing of x_0, and its derivative is all error
METHODS = ("particles", "repaint", "replace", "posterior")

Measure = Callable[[Tensor], Tensor]
Normal = Callable[[], Tensor]


def particles(denoise: Denoise, x: Tensor, known: Tensor, observed: Tensor, grid: Grid, draws: Draws) -> Tensor:
    """``known`` (B, …) where ``observed`` (B, …) is true, and the rest one of K chains from the noise ``x`` (B, K, …).

    Chains are weighed by the probability that each gives the known part's next place, and dealt out anew by their weights
    (systematic resampling) when these count for less than half of them. ``denoise`` is asked for B · K rows.
    """
    rows, count = x.shape[:2]
    every = lambda value: value.unsqueeze(1).expand_as(x)
    seen, path = every(observed), grid.alpha[0] * known + grid.sigma[0] * draws.normal(*known.shape[1:], dtype=x.dtype)
    place, logits = torch.arange(count, device=x.device), x.new_zeros(rows, count)
    for i in range(grid.steps):
        (a, s), (keep, add, renewed, _) = grid.levels[i], sde.posterior(grid, i)
        x = torch.where(seen, every(path), x)
        mean = keep * x + add * denoise(x.flatten(0, 1), a, s).view_as(x)
        path = keep * path + add * known
        if renewed:
            path = path.add_(draws.normal(*known.shape[1:], dtype=x.dtype), alpha=math.sqrt(renewed))
        # at the end the next place is the data, of which D knows no more than the noise that is left
        apart = (every(path) - mean).square() / (renewed or s**2 / (a**2 + s**2))
        logits = logits - 0.5 * torch.where(seen, apart, torch.zeros_like(apart)).flatten(2).sum(2)
        weights = logits.softmax(1)
        few = 1 / weights.square().sum(1) < 0.5 * count
        comb = (place + draws.uniform(dtype=weights.dtype)[:, None]) / count
        chosen = torch.searchsorted(weights.cumsum(1), comb).clamp(max=count - 1)
        chosen, logits = torch.where(few[:, None], chosen, place), logits.masked_fill(few[:, None], 0.0)
        x = mean[torch.arange(rows, device=x.device)[:, None], chosen]
        if renewed:
            x = x.add_(draws.normal(*x.shape[1:], dtype=x.dtype), alpha=math.sqrt(renewed))
    one = draws.categorical(logits)
    return torch.where(observed, known, x[torch.arange(rows, device=x.device), one])


def repaint(
    denoise: Denoise, x: Tensor, known: Tensor, observed: Tensor, grid: Grid, normal: Normal, *, repeats: int = 4
) -> Tensor:
    """``known`` (B, …) where ``observed`` (B, …) is true, and the rest from the noise ``x``; every step is done ``repeats``
    times, so that what is drawn comes to agree with what is held. With one repeat it is ``replace``."""
    for i in range(grid.steps):
        (a, s), (keep, add, renewed, v) = grid.levels[i], sde.posterior(grid, i)
        for again in (*(True,) * (repeats - 1), False):
            x = torch.where(observed, a * known + s * normal(), x)
            data = torch.where(observed, known, denoise(x, a, s))
            x = (keep * x).add_(data, alpha=add)
            if renewed:
                x.add_(normal(), alpha=math.sqrt(renewed))
            if again and grid.sigma[i + 1]:  # back: x_t = (α_t/α_s) x_s + noise of variance v
                x = (a / grid.alpha[i + 1] * x).add_(normal(), alpha=math.sqrt(v))
            elif again:
                break
    return torch.where(observed, known, x)


def posterior(
    denoise: Denoise, measure: Measure, measured: Tensor, *, noise: float = 0.0, strength: float = 1.0, iterations: int = 1
) -> Denoise:
    """``denoise`` given that ``measure``(x_0) was ``measured`` (B, …) with normal noise of deviation ``noise``."""

    def found(x: Tensor, alpha: float, sigma: float) -> Tensor:
        if sigma == 0 or alpha < _FAINT * sigma:
            return denoise(x, alpha, sigma)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            data = denoise(at, alpha, sigma)
        guess = data.detach()
        spread = sigma**2 / alpha
        covariance = lambda u: spread * torch.autograd.grad(data, at, u, retain_graph=True)[0]
        back, forward = transpose(measure, guess), lambda v: torch.func.jvp(measure, (guess,), (v,))[1]
        least = max(noise**2, 1e-6 * sigma**2 / (alpha**2 + sigma**2))
        apply = lambda w: torch.add(forward(covariance(back(w))), w, alpha=least)
        weight = _solve(apply, measured - measure(guess), iterations)
        return torch.add(guess, covariance(back(weight)), alpha=strength)

    return found


def transpose(measure: Measure, at: Tensor) -> Measure:
    """Jᵀ of ``measure`` with J = ∂measure/∂x at the point ``at``."""
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        value = measure(x)

    def back(y: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(value, x, y, retain_graph=True)
        return found

    return back


def _solve(apply: Measure, right: Tensor, iterations: int) -> Tensor:
    """w with ``apply``(w) = right, row by row, by so many steps of conjugate gradients."""
    dot = lambda a, b: (a * b).flatten(1).sum(1)
    w, residual = torch.zeros_like(right), right
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        image = apply(direction)
        bend = dot(direction, image)
        # a network's derivative is a covariance only nearly: where it bends the wrong way there is no step to take
        step = torch.where(bend > 1e-9 * size, size / bend.clamp(min=1e-30), torch.zeros_like(size))
        w = w + over(step, direction) * direction
        residual = residual - over(step, image) * image
        after = dot(residual, residual)
        direction = residual + over(after / size.clamp(min=1e-30), direction) * direction
        size = after
    return w
