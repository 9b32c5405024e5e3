"""How to solve: a fixed number of steps, or a tolerance. Both are asked the same two things.

solve   dy/dt = f(t, y) for a state of any tensors
rows    dy/dt = f(t, y, given) and ∫ g(t, y, given) dt for one tensor whose rows belong to themselves
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pushforward.solvers.adaptive import adaptive
from pushforward.solvers.dyadic import Beforehand
from pushforward.solvers.ode import follow
from pushforward.solvers.rowwise import Given, RowField, rowwise
from pushforward.solvers.steps import Field, Solution, State
from pushforward.solvers.tableau import embedded_named, tableau_named


@dataclass(frozen=True)
class Fixed:
    """``steps`` even steps of ``method``. What it costs is known beforehand; what it errs is not."""

    method: str = "rk4"
    steps: int = 8

    def __post_init__(self) -> None:
        tableau_named(self.method)
        if self.steps < 1:
            raise ValueError(f"found {self.steps} solver steps: expected 1 or more")

    def _times(self, start: float, stop: float) -> list[float]:
        return [start + (stop - start) * i / self.steps for i in range(self.steps + 1)]

    def solve(self, f: Field, y: State, start: float, stop: float, controlling: int | None = None) -> Solution:
        """The state at ``stop``."""
        return follow(f, y, self._times(start, stop), self.method)

    def rows(
        self,
        f: RowField,
        y: Tensor,
        start: float,
        stop: float,
        *,
        given: Given = (),
        integrand: RowField | None = None,
        beforehand: Beforehand | None = None,
    ) -> Solution:
        """The state at ``stop`` and the integral on the way; f and g are given times of shape ()."""
        g = None if integrand is None else lambda t, state: integrand(t, state[0], given)
        return follow(lambda t, state: (f(t, state[0], given),), (y,), self._times(start, stop), self.method, integrand=g)


@dataclass(frozen=True)
class Adaptive:
    """Steps of Dormand and Prince's method with errors below ``tolerance`` · (1 + |y|) each, within bounds."""

    tolerance: float = 1e-5
    max_steps: int = 1000
    max_evaluations: int = 100_000
    method: str = "dopri5"

    def __post_init__(self) -> None:
        embedded_named(self.method)
        if not self.tolerance > 0:
            raise ValueError(f"found tolerance {self.tolerance}: expected a positive number")

    def solve(self, f: Field, y: State, start: float, stop: float, controlling: int | None = None) -> Solution:
        """The state at ``stop``; the first ``controlling`` tensors of the state set the steps."""
        return adaptive(
            f,
            y,
            start,
            stop,
            rtol=self.tolerance,
            atol=self.tolerance,
            max_steps=self.max_steps,
            max_evaluations=self.max_evaluations,
            method=self.method,
            controlling=controlling,
        )

    def rows(
        self,
        f: RowField,
        y: Tensor,
        start: float,
        stop: float,
        *,
        given: Given = (),
        integrand: RowField | None = None,
        beforehand: Beforehand | None = None,
    ) -> Solution:
        """The state at ``stop`` and the integral on the way; f and g are given times of A rows, ``Shared`` where there is
        something to know ``beforehand``, and A rows of ``given``."""
        return rowwise(
            f,
            y,
            start,
            stop,
            given=given,
            integrand=integrand,
            beforehand=beforehand,
            rtol=self.tolerance,
            atol=self.tolerance,
            max_steps=self.max_steps,
            max_evaluations=self.max_evaluations,
            method=self.method,
        )


Choice = Fixed | Adaptive
