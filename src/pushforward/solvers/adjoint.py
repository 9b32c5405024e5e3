"""Gradients of a solution by solving a second equation backwards in time (Chen et al. 2018, arXiv:1806.07366).

    dy/dt = f(t, y; θ),   q = ∫ g(t, y; θ) dt,   L = L(y(t₁), q)
    a(t) = ∂L/∂y(t):   da/dt = −aᵀ ∂f/∂y − (∂L/∂q)ᵀ ∂g/∂y
    ∂L/∂θ = ∫ aᵀ ∂f/∂θ + (∂L/∂q)ᵀ ∂g/∂θ dt,   ∂L/∂t₁ = aᵀf + (∂L/∂q)ᵀg at t₁,   ∂L/∂t₀ = −(the same at t₀)

Only y(t₁) is kept: the way back to t₀ is solved again, with a and the running ∂L/∂θ beside it, so that memory does not grow
with the number of steps. The price is a second solve, and gradients that are exact to the solver's error, where going back
through the steps gives those of the discrete solution to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pushforward.solvers.choice import Choice
from pushforward.solvers.rowwise import Given, RowField
from pushforward.solvers.steps import State

Build = Callable[[tuple[Tensor, ...]], tuple[RowField, RowField | None, Given]]


@torch.compiler.disable  # its backward pass solves again
def adjoint(
    build: Build, params: Sequence[Tensor], y: Tensor, start: float | Tensor, stop: float | Tensor, choice: Choice
) -> tuple[Tensor, Tensor | None]:
    """y(``stop``) from ``y`` (B, …) at ``start``, and ∫ g dt, (B,) or (B, Q), where there is a g.

    ``build`` makes (f, g or None, given) of tensors in the place of ``params``, as ``Choice.rows`` takes them. Differentiable
    once: in ``y``, in ``params``, and in ``start`` and ``stop`` where they are tensors. Raises PushforwardError as the solver
    does.
    """
    ends = [t if isinstance(t, Tensor) else torch.tensor(t, dtype=y.dtype, device=y.device) for t in (start, stop)]
    end, integral = _Adjoint.apply(build, choice, *ends, y, *params)
    return end, integral


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, build: Build, choice: Choice, start: Tensor, stop: Tensor, y: Tensor, *params: Tensor) -> Any:
        f, g, given = build(params)
        solution = choice.rows(f, y, float(start), float(stop), given=given, integrand=g)
        ctx.build, ctx.choice = build, choice
        ctx.save_for_backward(start, stop, solution.state[0], *params)
        return solution.state[0], solution.integral

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor, a_q: Tensor | None) -> Any:
        start, stop, y, *params = ctx.saved_tensors
        needs = [i for i, p in enumerate(params) if ctx.needs_input_grad[5 + i]]
        # the equation of a is linear: it is solved at the size of one, for which an absolute tolerance means something
        scale = max(float(v.abs().max()) if v.numel() else 0.0 for v in (a, a_q) if v is not None) or 1.0
        a, a_q = a / scale, None if a_q is None else a_q / scale

        def slopes(t: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
            """f, g and the products aᵀ ∂f + a_qᵀ ∂g with respect to y and those of the params that ask for it."""
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                leaves = [p.detach().requires_grad_(i in needs) for i, p in enumerate(params)]
                f, g, given = ctx.build(tuple(leaves))
                outputs, weights = [f(t, y, given)], [a]
                if g is not None:
                    outputs.append(g(t, y, given))
                    weights.append(a_q if a_q is not None else torch.zeros_like(outputs[1]))
                inputs = [y, *(leaves[i] for i in needs)]
                used = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
                if not used:  # nothing depends on anything
                    return outputs[0], outputs[1] if g is not None else None, [torch.zeros_like(v) for v in inputs]
                products = torch.autograd.grad(
                    [o for o, _ in used], inputs, [w for _, w in used], allow_unused=True, materialize_grads=True
                )
            return outputs[0].detach(), outputs[1].detach() if g is not None else None, list(products)

        def at_end(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
            value, integrand, _ = slopes(t, y, a)
            total = (a * value).sum()
            return total if integrand is None or a_q is None else total + (a_q * integrand).sum()

        def backwards(t: Tensor, state: State) -> State:
            value, _, (by_y, *by_params) = slopes(t, state[0], state[1])
            flat = [p.flatten() for p in by_params]
            return value, -by_y, -torch.cat(flat) if flat else state[2]

        total = torch.zeros(sum(params[i].numel() for i in needs), dtype=y.dtype, device=y.device)
        before = ctx.choice.solve(backwards, (y, a, total), float(stop), float(start), controlling=2).state
        by_start = -scale * at_end(start, before[0], before[1]) if ctx.needs_input_grad[2] else None
        by_stop = scale * at_end(stop, y, a) if ctx.needs_input_grad[3] else None
        grads: list[Tensor | None] = [None] * len(params)
        for i, part in zip(needs, before[2].split([params[i].numel() for i in needs]), strict=True):
            grads[i] = scale * part.view_as(params[i])
        return None, None, by_start, by_stop, scale * before[1], *grads
