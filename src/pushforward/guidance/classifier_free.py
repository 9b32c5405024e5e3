"""Guidance by the difference of two denoisers.

    D_w = D_weak + w (D_strong − D_weak)

| strong | weak | source |
|---|---|---|
| given the condition | given none | Ho & Salimans 2022, arXiv:2207.12598 |
| the model | a worse version of it | Karras et al. 2024, arXiv:2406.02507 |

With exact denoisers the first is the score of p(x_t) p(c | x_t)^w at each t. Guidance pays at middling levels of noise only,
and ``interval`` of σ/α says which (Kynkäänniemi et al. 2024, arXiv:2404.07724); elsewhere the strong one is asked alone.
``rescale`` φ brings the deviation of each example back towards that of the strong one, for w stretches it (Lin et al. 2023,
arXiv:2305.08891).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError
from pushforward.solvers.multistep import Denoise

Pair = Callable[[Tensor, float, float], tuple[Tensor, Tensor]]
ALWAYS = (0.0, math.inf)


def guided(
    strong: Denoise, both: Pair, scale: float, *, interval: tuple[float, float] = ALWAYS, rescale: float = 0.0
) -> Denoise:
    """``both``(x, α, σ) gives D of the strong and the weak one; ``strong`` is asked outside ``interval``."""
    low, high = interval
    if not 0 <= low < high:
        raise RecipeError(f"found the interval {low:g} to {high:g} of noise over signal: expected 0 ≤ low < high")
    if not 0 <= rescale <= 1:
        raise RecipeError(f"found a rescale of {rescale:g}: expected it in [0, 1]")

    def denoise(x: Tensor, alpha: float, sigma: float) -> Tensor:
        if not low * alpha <= sigma <= high * alpha and (alpha > 0 or high < math.inf):
            return strong(x, alpha, sigma)
        better, worse = both(x, alpha, sigma)
        found = torch.lerp(worse, better, scale)
        if not rescale:
            return found
        ratio = _deviation(better) / _deviation(found).clamp(min=1e-12)
        return found * (1 + rescale * (ratio - 1))

    return denoise


def _deviation(x: Tensor) -> Tensor:
    """Of each example, (B, 1, …)."""
    return x.flatten(1).std(1).view(-1, *(1,) * (x.dim() - 1)) if x[0].numel() > 1 else torch.ones_like(x)


def one_call(denoise_both: Denoise) -> Pair:
    """``both`` of a denoiser that knows twice the rows, the first half given the condition: one batched call of the network."""

    def both(x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        better, worse = denoise_both(torch.cat([x, x]), alpha, sigma).chunk(2)
        return better, worse

    return both


def two_models(strong: Denoise, weak: Denoise) -> Pair:
    """``both`` of two denoisers."""
    return lambda x, alpha, sigma: (strong(x, alpha, sigma), weak(x, alpha, sigma))
