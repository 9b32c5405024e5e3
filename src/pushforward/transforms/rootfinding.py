"""Increasing functions undone where no formula undoes them.

The root of f(x) = z is kept in a bracket low ≤ x ≤ high that every value of f narrows. The next point is Newton's,
x − (f(x) − z) / f'(x), as long as it falls into the bracket and its step is under half of the step before the last; otherwise
the bracket is halved. Steps therefore shrink geometrically whatever f does, and quadratically near the root.

Gradients follow from the equation itself, not from the way to its root (implicit function theorem): from f(x; θ) = z,
∂x/∂z = 1 / f'(x) and ∂x/∂θ = −(∂f/∂θ) / f'(x).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.transforms.monotone import Monotone

Increasing = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x ↦ (f(x), log f'(x)), element by element."""

STEPS = 200
"""Halving alone needs log₂(width / eps) of them: 152 for a bracket 1e30 wide in float64."""


@torch.no_grad()
def solve(f: Increasing, z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The x of z's shape with f(x) = z and low ≤ x ≤ high, to the rounding of max(1, |x|) or of max(1, |z|); no gradient.

    Where f(low) > z or f(high) < z, as rounding may have it, the answer is that end.
    """
    eps = torch.finfo(z.dtype).eps
    enough = 8 * eps * z.abs().clamp(min=1)
    x = low + (high - low) / 2
    before = last = high - low
    found = torch.zeros_like(z, dtype=torch.bool)
    for _ in range(STEPS):
        value, log_slope = f(x)
        error = value - z
        low, high = torch.where(error <= 0, x, low), torch.where(error >= 0, x, high)
        newton = x - error * (-log_slope).exp()
        # a comparison with NaN is false, and halves the bracket
        trusted = (newton >= low) & (newton <= high) & ((newton - x).abs() < before.abs() / 2)
        # so near the root rounding decides the sign of the error, and the bracket is not to be believed
        noise = ~trusted & (error.abs() <= enough)
        following = torch.where(trusted, newton, torch.where(noise, x, low + (high - low) / 2))
        following = torch.where(found, x, following)
        found = found | noise | ((following - x).abs() <= eps * x.abs().clamp(min=1))
        before, last, x = last, following - x, following
        if found.all():
            break
    return x


def invert(f: Increasing, z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``solve``, differentiable once with respect to ``z`` and to all that f is made of."""
    x = solve(f, z.detach(), low.detach(), high.detach())
    if not torch.is_grad_enabled():
        return x
    value, log_slope = f(x)
    error = value - z
    return x - (error - error.detach()) * (-log_slope.detach()).exp()


class LinearTails(Monotone):
    """Maps given on [−bound, bound] and continued as straight lines with the slopes they have at the ends."""

    bound: float

    @abstractmethod
    def _inside(self, params: Tensor) -> Increasing:
        """The map of x (B, D) in [−bound, bound], for ``params`` (B, P, D)."""

    def _everywhere(self, params: Tensor) -> Increasing:
        inside = self._inside(params)

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            within = x.clamp(-self.bound, self.bound)
            z, log_slope = inside(within)
            return z + (x - within) * log_slope.exp(), log_slope

        return f

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self._everywhere(params)(x)
        return z, log_slope.sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        f = self._everywhere(params)
        with torch.no_grad():
            # a little beyond, so that rounding puts no root at an end of its bracket
            end = torch.full_like(z, 1.01 * self.bound)
            (first, log_left), (last, log_right) = f(-end), f(end)
            left, right = (z - first) * (-log_left).exp() - end, (z - last) * (-log_right).exp() + end
            low = torch.where(z < first, left, torch.where(z > last, right, -end))
            high = torch.where(z < first, left, torch.where(z > last, right, end))
        return invert(f, z, low, high)
