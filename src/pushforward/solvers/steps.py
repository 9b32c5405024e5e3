"""One step of a Runge–Kutta method, and what a solver hands back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.solvers.tableau import Row, Tableau

State = tuple[Tensor, ...]
Field = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class Solution:
    """The final ``state``, and what it cost in ``evaluations`` of f and ``steps``, those ``rejected`` included.

    ``states`` holds the states at the times asked for, each tensor (T, B, …); ``integral`` is ∫ g dt where g was given.
    """

    state: State
    evaluations: int
    steps: int
    rejected: int = 0
    states: State = ()
    integral: Tensor | None = None


def weighted(slopes: Sequence[Tensor], row: Row, scale: float | Tensor = 1.0) -> Tensor:
    """Σ_i ``scale`` · row_i · k_i, leaving out the zeros of ``row``; ``scale`` is a number or a tensor of one."""
    terms = [(c, k) for c, k in zip(row, slopes, strict=False) if c]
    if isinstance(scale, Tensor):
        return scale * weighted(slopes, row)
    total = (scale * terms[0][0]) * terms[0][1]
    for c, k in terms[1:]:
        # torch 2.13's compiler forgets alpha where k is a bare product of matrices
        total = total + (scale * c) * k if torch.compiler.is_compiling() else torch.add(total, k, alpha=scale * c)
    return total


def moved(y: State, slopes: list[State], row: Row, h: float | Tensor) -> State:
    """y + h Σ_i row_i k_i."""
    if not any(row):
        return y
    return tuple(value + weighted([k[i] for k in slopes], row, h) for i, value in enumerate(y))


def stages(
    f: Field, t: Tensor, h: float | Tensor, y: State, tableau: Tableau, first: State | None = None
) -> tuple[list[State], State]:
    """k_1 … k_s of a step from (t, y), with ``first`` = k_1 where it is known, and the state where k_s was evaluated."""
    slopes: list[State] = [] if first is None else [first]
    place = y
    for node, row in list(zip(tableau.c, tableau.a, strict=True))[len(slopes) :]:
        place = moved(y, slopes, row, h)
        slopes.append(f(t + node * h, place))
    return slopes, place
