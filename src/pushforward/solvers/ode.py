"""Explicit Runge–Kutta methods for dy/dt = f(t, y) over a grid of times, one step between neighbours.

The state is a tuple of tensors; time runs either way. All of it is differentiable by autograd: in the state, in whatever f
holds, and in the grid where that asks for a gradient. ``adaptive`` chooses its own steps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pushforward.solvers.adaptive import adaptive
from pushforward.solvers.steps import Field, Solution, State, moved, stages
from pushforward.solvers.tableau import METHODS, Tableau, gauss, tableau_named

__all__ = ["METHODS", "Field", "Solution", "State", "Tableau", "adaptive", "fixed", "follow", "tableau_named"]


def fixed(f: Field, y: State, times: Tensor, method: str = "heun") -> State:
    """The state at ``times[-1]`` of dy/dt = f(t, y) from ``y`` at ``times[0]``, one step between neighbours of ``times`` (T,).

    Costs (T − 1) · stages evaluations; the error falls with the method's order.
    """
    return follow(f, y, times, method).state


def follow(
    f: Field, y: State, times: Tensor, method: str = "heun", *, integrand: Callable[[Tensor, State], Tensor] | None = None
) -> Solution:
    """As ``fixed``, with ∫ g(t, y) dt of an ``integrand`` g along the way, to the order of the method."""
    tableau = tableau_named(method)
    steps = times.diff()
    # numbers make fewer operations than tensors of one number, and ask the device once, not at every step
    sizes: list[float | Tensor] = list(steps.unbind()) if times.requires_grad else steps.tolist()
    integral: Tensor | None = None
    for t, h in zip(times, sizes, strict=False):
        slopes, _ = stages(f, t, h, y, tableau)
        if integrand is not None:
            for theta, weight, row in gauss(tableau, -(-tableau.order // 2)):
                part = (weight * h) * integrand(t + theta * h, moved(y, slopes, row, h))
                integral = part if integral is None else integral + part
        y = moved(y, slopes, tableau.b, h)
    return Solution(y, len(sizes) * len(tableau.c), len(sizes), integral=integral)
