"""How straight the paths of a flow from noise x_1 to data x_0 are, and how far they lead (Liu et al. 2022, arXiv:2209.03003).

    S = E ∫₀¹ |v(x_t, t) − (x_1 − x_0)|² dt = E ∫₀¹ |v|² dt − E |x_1 − x_0|²,        C = E |x_1 − x_0|²

Both are per coordinate. S = 0 says that one step of Euler's method is exact; C falls, or stays, with every rectification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError
from pushforward.metrics._arrays import Estimate
from pushforward.metrics.likelihood import mean_with_error

Velocity = Callable[[float, Tensor], Tensor]  # (t, x (B, …)) → dx/dt


@dataclass(frozen=True)
class Straightness:
    """``deviation`` is S and ``cost`` is C, with standard errors over rows."""

    deviation: Estimate
    cost: Estimate

    @classmethod
    def of(cls, deviations: Tensor, costs: Tensor) -> Straightness:
        """From those of each row, (B,)."""
        return cls(mean_with_error(deviations), mean_with_error(costs))


@torch.no_grad()
def straightness_of_rows(velocity: Velocity, noise: Tensor, steps: int = 50) -> tuple[Tensor, Tensor]:
    """∫ |v − (x_1 − x_0)|² dt and |x_1 − x_0|² per coordinate of each path from ``noise`` (B, …), both (B,) float64.

    Even steps of Heun's method from t = 1 to t = 0, and the trapezoid rule for the integral: errors fall as 1/steps².
    """
    if steps < 1:
        raise RecipeError(f"steps must be at least 1, found {steps}")
    h, x = 1 / steps, noise
    v = velocity(1.0, x)
    square, mean = 0.5 * h * _size(v), 0.5 * h * v.double()
    for i in range(steps):
        then = 1 - (i + 1) / steps
        ahead = velocity(then, x - h * v)
        x = x - 0.5 * h * (v + ahead)
        v = velocity(then, x)
        weight = h if i + 1 < steps else 0.5 * h
        square, mean = square + weight * _size(v), mean + weight * v.double()
    apart = (noise - x).double()
    # ∫ |v|² − 2 d ∫ v + |d|², so that no velocity is kept
    return (square + _size(apart) - 2 * (apart * mean).flatten(1).mean(1)).clamp(min=0), _size(apart)


def _size(v: Tensor) -> Tensor:
    return v.double().square().flatten(1).mean(1)
