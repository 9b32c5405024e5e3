"""Guidance by a classifier that has learned from noisy data (Dhariwal & Nichol 2021, arXiv:2105.05233).

∇ log p(x_t) p(y | x_t)^w = ∇ log p(x_t) + w ∇ log p(y | x_t),    so    D_w = D + w (σ²/α) ∇ log p(y | x_t)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.solvers.multistep import Denoise

LogLikelihood = Callable[[Tensor, float, float], Tensor]  # (x, α, σ) → log p(y | x) of each row, (B,)
_FAINTEST = 1e-3  # α below which the gradient, which vanishes with it, is not divided by less


def steered(denoise: Denoise, log_likelihood: LogLikelihood, scale: float = 1.0) -> Denoise:
    """``denoise`` steered towards what ``log_likelihood`` holds likely: a label, or anything else of x."""

    def found(x: Tensor, alpha: float, sigma: float) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_likelihood(at, alpha, sigma).sum(), at)
        return torch.add(denoise(x, alpha, sigma), slope, alpha=scale * sigma**2 / max(alpha, _FAINTEST))

    return found
