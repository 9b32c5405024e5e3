"""An adaptive Runge–Kutta method in which every row of a batch has its own time and its own steps.

A step that all rows share is as short as the worst of them asks for, or, with an error averaged over rows, too long for the
worst. Here each row reaches the tolerance for itself and stops when it is done, so that what comes out for a row does not
depend on the rows beside it, and a batch costs the sum of what its rows need. The controller is that of solvers/adaptive, in
tensors.

An integrand g is integrated along the way by Gauss's rule with one point more than the order of the method asks for:
divergences vary faster than paths. On fields trained on toys the error of three points to a step of Dormand and Prince's
method was ten times that of the path, and with four no larger than it.

Where much of a field follows from time alone (``beforehand``), rows share times: solvers/dyadic. Traces of such fields cost
several times the field, and Gauss's rule then has no point to spare: on trained flows of 2 to 16 numbers the error of log p was
1 to 2.6 times that with one more, for 0.8 of the work, and below that of the path where D ≥ 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.core.shapes import over
from pushforward.solvers.adaptive import CALM, GROW, SAFETY, SHRINK, Limits, exponents, not_finite
from pushforward.solvers.dyadic import BETA, REACH, Beforehand, rounded, shared
from pushforward.solvers.steps import Solution, weighted
from pushforward.solvers.tableau import embedded_named

Given = tuple[Tensor, ...]
RowField = Callable[[Any, Tensor, Given], Tensor]  # times are a tensor, or shared


@torch.compiler.disable  # its loop asks for numbers at every step: traced, it is slow to compile and slower to run
def rowwise(
    f: RowField,
    y: Tensor,
    start: float,
    stop: float,
    *,
    given: Given = (),
    integrand: RowField | None = None,
    beforehand: Beforehand | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    max_evaluations: int = 100_000,
    method: str = "dopri5",
) -> Solution:
    """Integrate dy/dt = f(t (A,), y (A, …), given) of each row of ``y`` (B, …) from ``start`` to ``stop``, either way.

    ``f`` and ``integrand`` are asked for the A rows that are still under way, with their part of ``given``, the tensors (B,
    …) that belong to rows; ``integrand`` gives (A,) or (A, Q). With ``beforehand``, which makes tensors (N, …) of times (N,),
    both are given ``Shared`` times. The error of each step is below atol + rtol·|y| in the RMS of the row. ``evaluations`` and
    ``steps`` count calls and rounds of the rows together. Raises PushforwardError as ``adaptive``.
    """
    tableau, error_row = embedded_named(method)
    limits, (alpha, beta) = Limits(max_steps, max_evaluations), exponents(tableau.order)
    if start == stop:
        return Solution((y,), 0, 0)
    beta, reach = (beta, 1.0) if beforehand is None else (BETA * beta, REACH)
    rule = tableau.gauss[-(-tableau.order // 2) + (beforehand is None)] if integrand is not None else ()
    thetas = [*tableau.c[1:], *(theta for theta, _, _ in rule)]
    distinct = list(dict.fromkeys(thetas))
    nodes, node_of = y.new_tensor(distinct)[:, None], [distinct.index(theta) for theta in thetas]
    mixes = y.new_tensor([error_row, *(row for _, _, row in rule)])
    weights = tuple(weight for _, weight, _ in rule)

    end = y.new_full((len(y),), stop)
    t, rows = torch.full_like(end, start), torch.arange(len(y), device=y.device)
    first = f(t if beforehand is None else shared(beforehand, t, t, t.new_zeros(1, 1))[0], y, given)
    if not bool(first.isfinite().all()):
        raise not_finite(start)
    h = _first_steps(f, t, y, given, first, stop - start, rtol, atol, tableau.order, beforehand)
    before, total = torch.ones_like(t), None
    parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
    evaluations, steps, rejected = 2, 0, 0
    while True:
        last = reach * h.abs() >= (end - t).abs()
        h = torch.where(last, end - t, h if beforehand is None else rounded(t, h))
        wide = over(h, y)
        at_nodes: Sequence[Any] = torch.addcmul(t, nodes, h).unbind() if beforehand is None else shared(beforehand, t, h, nodes)
        times = [at_nodes[i] for i in node_of]
        slopes, proposal = [first], y
        for time, row in zip(times, tableau.a[1:], strict=False):
            proposal = torch.addcmul(y, wide, weighted(slopes, row))
            slopes.append(f(time, proposal, given))
        evaluations, steps = evaluations + len(slopes) - 1, steps + 1
        mixed = torch.tensordot(mixes, torch.stack(slopes), 1)  # one product for all combinations of the slopes
        with torch.no_grad():
            r = _rms(wide * mixed[0], torch.maximum(y.abs(), proposal.abs()), rtol, atol)
            accepted = r <= 1
            done = accepted & last
            finished, kept = torch.stack([done.sum(), accepted.sum()]).tolist()
            growth = (SAFETY * r.clamp(min=1e-10).pow(-alpha) * before.pow(beta)).clamp(SHRINK, GROW)
            calm = r.clamp(min=CALM)
        part: Tensor | None = None
        if integrand is not None:
            places = torch.addcmul(y, wide, mixed[1:]).unbind()
            values = [integrand(time, place, given) for time, place in zip(times[len(slopes) - 1 :], places, strict=True)]
            part = weighted(values, weights)
            part = over(h, part) * part
        if kept == len(y):
            t, y, first, before = torch.where(last, end, t + h), proposal, slopes[-1], calm
        else:
            rejected += 1
            lost = ~r.isfinite() & (h.abs() < 1e-8 * abs(stop - start))
            if bool(lost.any()):
                raise not_finite(float(t[lost][0]))
            good = over(accepted, y)
            t = torch.where(accepted, torch.where(last, end, t + h), t)
            y, first = torch.where(good, proposal, y), torch.where(good, slopes[-1], first)
            before = torch.where(accepted, calm, before)
            growth = torch.where(accepted, growth, growth.nan_to_num(0.1).clamp(max=SAFETY / reach))
            part = None if part is None else torch.where(over(accepted, part), part, torch.zeros_like(part))
        total = part if total is None or part is None else total + part
        if finished == len(y):
            parts.append((rows, y, total))
            break
        h = h * growth
        if steps >= max_steps or evaluations >= max_evaluations:
            limits.check(steps, evaluations, float(t[~done][0]), stop)
        if finished * 8 >= len(y):  # else the rows that are done wait where they are, by steps of no length
            parts.append((rows[done], y[done], None if total is None else total[done]))
            left = (~done).nonzero().flatten()
            rows, end, t, h, before, y, first = (v[left] for v in (rows, end, t, h, before, y, first))
            total, given = None if total is None else total[left], tuple(v[left] for v in given)
    order = torch.cat([r for r, _, _ in parts]).argsort()
    y = torch.cat([v for _, v, _ in parts])[order]
    total = None if total is None else torch.cat([v for _, _, v in parts if v is not None])[order]
    return Solution((y,), evaluations, steps, rejected, integral=total)


def _rms(error: Tensor, size: Tensor, rtol: float, atol: float) -> Tensor:
    """The root mean square of error / (atol + rtol · size) over each row, (A,)."""
    return (error / (atol + rtol * size)).square().flatten(1).mean(1).sqrt()


@torch.no_grad()
def _first_steps(
    f: RowField,
    t: Tensor,
    y: Tensor,
    given: Given,
    first: Tensor,
    span: float,
    rtol: float,
    atol: float,
    order: int,
    beforehand: Beforehand | None,
) -> Tensor:
    """Steps (A,) for the start, as in ``adaptive``; rows that do not move at all try the whole way."""
    direction = 1.0 if span > 0 else -1.0
    size, speed = _rms(y, y.abs(), rtol, atol), _rms(first, y.abs(), rtol, atol)
    trial = torch.where((size > 1e-5) & (speed > 1e-5), 0.01 * size / speed, torch.full_like(size, 1e-6)).clamp(max=abs(span))
    ahead: Any = t + direction * trial
    if beforehand is not None:
        trial = torch.ldexp(torch.ones_like(trial), torch.frexp(trial).exponent - 1)
        (ahead,) = shared(beforehand, t, direction * trial, t.new_ones(1, 1))
    moved = torch.addcmul(y, over(direction * trial, y), first)
    bend = _rms(f(ahead, moved, given) - first, y.abs(), rtol, atol) / trial
    top = torch.maximum(speed, bend.nan_to_num(0.0))
    h = torch.minimum(top.pow(-1 / order), 1000 * trial)
    return direction * torch.where(top > 1e-15, h, torch.full_like(h, abs(span))).clamp(max=abs(span))
