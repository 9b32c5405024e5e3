"""Draws from p(x | what is known of x).

| method | what it does | source |
|---|---|---|
| ``repaint`` | ancestral steps with the known part held to its own noisy path, each taken back and done again | Lugmayr et al. 2022, arXiv:2201.09865 |
| ``replace`` | the same without going back | Song et al. 2020, arXiv:2011.13456 |
| ``posterior`` | D moved along the gradient of how well it explains a linear measurement y = A x_0 + τ z | Song et al. 2023, PiGDM; Chung et al. 2022, arXiv:2209.14687 |

    D_y = D + (σ²/α) (∂D/∂x)ᵀ Aᵀ (r² A Aᵀ + τ²)⁻¹ (y − A D),    r² = σ²/(α² + σ²)

The posterior method takes x_0 given x_t for normal with variance r², which is right for data that are standard normal
coordinate by coordinate; A is a linear function (masks, blurs, down-sampling), or the derivative at D of one that is not. Aᵀ is
found by autograd, and the system is solved by conjugate gradients, in one step where A Aᵀ is a multiple of the identity. ∂D/∂x
= (α/σ²) Cov[x_0 | x], so nothing is large at the ends.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.shapes import over
from pushforward.solvers.grids import Grid
from pushforward.solvers.multistep import Denoise

Measure = Callable[[Tensor], Tensor]
Normal = Callable[[], Tensor]


def repaint(
    denoise: Denoise, x: Tensor, known: Tensor, observed: Tensor, grid: Grid, normal: Normal, *, repeats: int = 4
) -> Tensor:
    """``known`` (B, …) where ``observed`` (B, …) is true, and the rest from the noise ``x``; every step is done ``repeats``
    times, so that what is drawn comes to agree with what is held. With one repeat it is ``replace``."""
    for i in range(grid.steps):
        (a, s), (b, u) = grid.levels[i], grid.levels[i + 1]
        q = a / b  # x_t = q x_s + noise of variance v
        v = max(s**2 - q**2 * u**2, 0.0)
        renewed = u**2 * v / s**2  # the variance of q(x_s | x_t, x_0)
        kept = math.sqrt(max(u**2 - renewed, 0.0)) / s
        for again in (*(True,) * (repeats - 1), False):
            x = torch.where(observed, a * known + s * normal(), x)
            data = torch.where(observed, known, denoise(x, a, s))
            x = (kept * x).add_(data, alpha=b - a * kept)
            if renewed:
                x.add_(normal(), alpha=math.sqrt(renewed))
            if again and u:
                x = (q * x).add_(normal(), alpha=math.sqrt(v))
            elif again:
                break
    return torch.where(observed, known, x)


def posterior(denoise: Denoise, measure: Measure, measured: Tensor, *, noise: float = 0.0, strength: float = 1.0) -> Denoise:
    """``denoise`` given that ``measure``(x_0) was ``measured`` (B, …) with normal noise of deviation ``noise``."""

    def found(x: Tensor, alpha: float, sigma: float) -> Tensor:
        if sigma == 0:
            return denoise(x, alpha, sigma)
        spread = sigma**2 / (alpha**2 + sigma**2)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            data = denoise(at, alpha, sigma)
            guess = measure(data)
            residual = (measured - guess).detach()
            weight = _solve(measure, data.detach(), residual, spread, max(noise**2, 1e-6 * spread))
            (slope,) = torch.autograd.grad(guess, at, weight)
        return torch.add(data.detach(), slope, alpha=strength * sigma**2 / max(alpha, 1e-3))

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


def _solve(measure: Measure, at: Tensor, right: Tensor, spread: float, noise: float, steps: int = 20) -> Tensor:
    """w with (spread · J Jᵀ + noise) w = right, row by row, by conjugate gradients, with J at ``at``."""
    back = transpose(measure, at)
    forward = lambda v: torch.func.jvp(measure, (at,), (v,))[1]
    apply = lambda w: torch.add(spread * forward(back(w)), w, alpha=noise)
    dot = lambda a, b: (a * b).flatten(1).sum(1)
    w, residual = torch.zeros_like(right), right
    direction, size = residual, dot(residual, residual)
    for _ in range(steps):
        image = apply(direction)
        step = size / dot(direction, image).clamp(min=1e-30)
        w = w + over(step, direction) * direction
        residual = residual - over(step, image) * image
        after = dot(residual, residual)
        direction = residual + over(after / size.clamp(min=1e-30), direction) * direction
        size = after
    return w
