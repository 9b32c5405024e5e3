"""Explicit Runge–Kutta methods for dy/dt = f(t, y) over a grid of times, one step between neighbours.

The state is a tuple of tensors; time runs either way. All of it is differentiable by autograd: in the state, in whatever f
holds, and in the grid where that asks for a gradient. ``adaptive`` chooses its own steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from pushforward.solvers.adaptive import adaptive
from pushforward.solvers.steps import Field, Solution, State, moved, stages
from pushforward.solvers.tableau import METHODS, Tableau, tableau_named

__all__ = ["METHODS", "Field", "Solution", "State", "Tableau", "adaptive", "fixed", "follow", "tableau_named"]


def fixed(f: Field, y: State, times: Tensor, method: str = "heun") -> State:
    """The state at ``times[-1]`` of dy/dt = f(t, y) from ``y`` at ``times[0]``, one step between neighbours of ``times`` (T,).

    Costs (T − 1) · stages evaluations; the error falls with the method's order.
    """
    return follow(f, y, times, method).state


def follow(
    f: Field,
    y: State,
    times: Tensor | Sequence[float],
    method: str = "heun",
    *,
    integrand: Callable[[Tensor, State], Tensor] | None = None,
) -> Solution:
    """As ``fixed``, with ∫ g(t, y) dt of an ``integrand`` g along the way, to the order of the method."""
    tableau = tableau_named(method)
    # step sizes as numbers: fewer operations than with tensors of one number, and at most one question to the device
    sizes: list[float | Tensor]
    if isinstance(times, Tensor):
        sizes = list(times.diff().unbind()) if times.requires_grad else times.diff().tolist()
    else:
        sizes, times = [b - a for a, b in itertools.pairwise(times)], y[0].new_tensor(times)
    integral: Tensor | None = None
    for t, h in zip(times.unbind(), sizes, strict=False):
        slopes, _ = stages(f, t, h, y, tableau)
        if integrand is not None:
            for theta, weight, row in tableau.gauss[-(-tableau.order // 2)]:
                part = (weight * h) * integrand(t + theta * h, moved(y, slopes, row, h))
                integral = part if integral is None else integral + part
        y = moved(y, slopes, tableau.b, h)
    return Solution(y, len(sizes) * len(tableau.c), len(sizes), integral=integral)
