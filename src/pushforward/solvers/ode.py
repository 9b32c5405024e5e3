"""Explicit Runge–Kutta methods for dy/dt = f(t, y).

A method is its Butcher tableau (a, b, c). ``fixed`` takes one step between neighbours of a time grid; ``adaptive`` chooses its
steps by the embedded error estimate (Dormand & Prince 1980), each step accepted when the scaled error is below one, and fails
with a clear message rather than hang. The state is a tuple of tensors with the batch first; time runs either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import PushforwardError, RecipeError, did_you_mean

State = tuple[Tensor, ...]
Field = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class Tableau:
    """Nodes ``c``, stages ``a`` (lower triangle) and weights ``b``; ``error`` = b − b̂ for embedded pairs; ``order`` of b."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...] | None = None


METHODS: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "midpoint": Tableau(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        5,
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        (
            35 / 384 - 5179 / 57600,
            0.0,
            500 / 1113 - 7571 / 16695,
            125 / 192 - 393 / 640,
            -2187 / 6784 + 92097 / 339200,
            11 / 84 - 187 / 2100,
            -1 / 40,
        ),
    ),
}


def tableau_named(method: str) -> Tableau:
    """The method of that name. Raises RecipeError with the nearest name where there is none."""
    if method not in METHODS:
        raise RecipeError(f"no solver is called '{method}': {did_you_mean(method, METHODS)}")
    return METHODS[method]


def _combine(y: State, h: Tensor | float, coefficients: tuple[float, ...], slopes: list[State]) -> State:
    result = []
    for i, value in enumerate(y):
        total = value
        for coefficient, slope in zip(coefficients, slopes, strict=False):
            if coefficient:
                total = total + (h * coefficient) * slope[i]
        result.append(total)
    return tuple(result)


def _stages(f: Field, t: Tensor, h: Tensor, y: State, tableau: Tableau, first: State | None = None) -> list[State]:
    slopes: list[State] = []
    for node, row in zip(tableau.c, tableau.a, strict=True):
        if not slopes and first is not None:
            slopes.append(first)
            continue
        slopes.append(f(t + node * h, _combine(y, h, row, slopes)))
    return slopes


def fixed(f: Field, y: State, times: Tensor, method: str = "heun") -> State:
    """The state at ``times[-1]`` of dy/dt = f(t, y) from ``y`` at ``times[0]``, one step between neighbours of ``times`` (T,).

    Costs (T − 1) · stages evaluations; the error falls with the method's order.
    """
    tableau = tableau_named(method)
    for t, h in zip(times[:-1], times.diff(), strict=True):
        y = _combine(y, h, tableau.b, _stages(f, t, h, y, tableau))
    return y


@dataclass(frozen=True)
class Solution:
    """The final ``state`` and what it cost."""

    state: State
    evaluations: int
    steps: int


def adaptive(
    f: Field,
    y: State,
    start: float,
    stop: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    method: str = "dopri5",
) -> Solution:
    """Integrate from ``start`` to ``stop`` with steps whose error is each below atol + rtol·|y| (RMS over the state).

    Raises PushforwardError where ``max_steps`` do not suffice or the state becomes non-finite.
    """
    tableau = tableau_named(method)
    if tableau.error is None:
        raise ValueError(f"{method} has no error estimate: use dopri5")
    wide = torch.float64
    t, end = torch.tensor(start, dtype=wide), torch.tensor(stop, dtype=wide)
    direction = 1.0 if stop > start else -1.0
    first = f(t.to(y[0].dtype), y)
    h = direction * min(abs(stop - start), _first_step(y, first, rtol, atol))
    evaluations, steps = 1, 0
    while (end - t) * direction > 1e-12:
        if steps >= max_steps:
            raise PushforwardError(
                f"the solver took {max_steps} steps and stands at t = {float(t):.4g} of {stop}: the field is stiff here; "
                "loosen the tolerance or use a fixed number of steps"
            )
        h = direction * min(abs(h), abs(float(end - t)))
        step = torch.tensor(h, dtype=y[0].dtype, device=y[0].device)
        slopes = _stages(f, t.to(y[0].dtype), step, y, tableau, first)
        evaluations += len(tableau.c) - 1
        steps += 1
        proposal = _combine(y, step, tableau.b, slopes)
        errors = _combine(tuple(torch.zeros_like(v) for v in y), step, tableau.error, slopes)
        ratio = _norm(errors, y, proposal, rtol, atol)
        if not ratio < float("inf"):
            if abs(h) < 1e-8:
                raise PushforwardError(
                    f"the solver met a non-finite state at t = {float(t):.4g}: the field has no finite solution"
                )
            h *= 0.1
            continue
        if ratio <= 1:
            t, y, first = t + h, proposal, slopes[-1]  # the last stage of one step is the first of the next
        h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** (-1 / tableau.order)))
    return Solution(y, evaluations, steps)


def _norm(errors: State, before: State, after: State, rtol: float, atol: float) -> float:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for e, a, b in zip(errors, before, after, strict=True):
        scaled = e / (atol + rtol * torch.maximum(a.abs(), b.abs()))
        total = total + scaled.double().square().sum().cpu()
        count += scaled.numel()
    return float((total / max(1, count)).sqrt())


def _first_step(y: State, slope: State, rtol: float, atol: float) -> float:
    """A step in which the state changes by about one per cent of its scale (Hairer, Nørsett & Wanner 1993, II.4)."""
    size, speed = _norm(y, y, y, rtol, atol), _norm(slope, y, y, rtol, atol)
    return 0.01 * size / speed if size > 1e-5 and speed > 1e-5 else 1e-3
