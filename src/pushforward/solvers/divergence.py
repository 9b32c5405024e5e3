"""The divergence tr ∂f/∂x of a vector field, for densities along its flow: d log p / dt = −tr ∂f/∂x.

Exact, it takes D products of the Jacobian with unit vectors: backwards, one coordinate after the other or, of few rows, several
in a batch, or forwards, all at once. Measured on residual networks of 3 × 128 and 3 × 256 units at D = 2 … 64 on a CPU: of 64
rows and more one after the other takes 0.4 to 0.6 of the time of batches, for which our own products of rectified and linear
layers have no form; of 8 rows 1.5 to 5 times. Where the trace is to be differentiated again, forwards takes half of backwards
at D = 64 and as much at D = 16. With a probe e, E[e eᵀ] = 1, one
product gives an unbiased estimate, tr ∂f/∂x = E[eᵀ (∂f/∂x) e] (Hutchinson 1989; Grathwohl et al. 2018, arXiv:1810.01367).

Under ``torch.no_grad`` results carry no graph; otherwise they are differentiable in x and in all that f holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

Vectors = Callable[[Tensor], Tensor]

_ROWS = {"cpu": 64}  # rows of a batch of products: more take longer than the loop they save
_ROWS_ELSEWHERE = 2048
_FORWARD = 32  # coordinates from which forward products pay in a graph


def exact(f: Vectors, x: Tensor, mode: str | None = None) -> tuple[Tensor, Tensor]:
    """f(x) (B, …) and its exact divergence (B,). ``mode``: reverse, forward, or by default what is quicker."""
    if mode not in (None, "reverse", "forward"):
        raise ValueError(f"found mode {mode!r}: expected reverse, forward or None")
    size = x[0].numel() if len(x) else 0
    if size == 0:
        return f(x), x.new_zeros(len(x))
    if mode == "forward" or (mode is None and torch.is_grad_enabled() and size >= _FORWARD):
        return _forward(f, x, size)
    return _reverse(f, x, size)


def _reverse(f: Vectors, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(x)
        if not value.requires_grad:  # a field that does not look at x
            return value, torch.zeros(len(x), dtype=value.dtype, device=x.device)
        flat = value.flatten(1)
        few = max(1, _ROWS.get(x.device.type, _ROWS_ELSEWHERE) // len(x))
        trace = torch.zeros(len(x), dtype=value.dtype, device=x.device)
        for start in range(0, size, few):
            keep = graph or start + few < size
            if few == 1:
                unit = torch.zeros_like(flat)
                unit[:, start] = 1
                (found,) = torch.autograd.grad(flat, x, unit, retain_graph=keep, create_graph=graph, materialize_grads=True)
                trace = trace + found.flatten(1)[:, start]
                continue
            index = torch.arange(start, min(start + few, size), device=x.device)
            units = torch.zeros(len(index), *flat.shape, dtype=value.dtype, device=x.device)
            place = torch.arange(len(index), device=x.device)
            units[place, :, index] = 1
            (found,) = torch.autograd.grad(
                flat, x, units, retain_graph=keep, create_graph=graph, is_grads_batched=True, materialize_grads=True
            )
            trace = trace + found.flatten(2)[place, :, index].sum(0)
    return (value, trace) if graph else (value.detach(), trace.detach())


def _forward(f: Vectors, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    units = torch.eye(size, dtype=x.dtype, device=x.device).view(size, *x.shape[1:])

    def one(unit: Tensor) -> tuple[Tensor, Tensor]:
        value, product = cast(tuple[Tensor, Tensor], torch.func.jvp(f, (x,), (unit.expand_as(x),)))
        return value, (product * unit).flatten(1).sum(1)

    values, traces = torch.func.vmap(one)(units)  # the values are views of one
    return values[0], traces.sum(0)


def product(f: Vectors, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) (B, …) and eᵀ ∂f/∂x (B, P, …) for the probes e (B, P, …)."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(x)
        if not value.requires_grad:
            return value, torch.zeros_like(probe)
        weights = probe.to(value.dtype)
        rows = [
            torch.autograd.grad(
                value, x, e, retain_graph=graph or i + 1 < probe.shape[1], create_graph=graph, materialize_grads=True
            )[0]
            for i, e in enumerate(weights.unbind(1))
        ]
    found = torch.stack(rows, 1)
    return (value, found) if graph else (value.detach(), found.detach())


def hutchinson(f: Vectors, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) (B, …) and an unbiased estimate (B,) of its divergence from the ``probe``, (B, …) or several, (B, P, …).

    The numbers of a probe have mean zero, variance one and are independent: signs (the least variance) or standard normals.
    """
    probes = probe if probe.dim() > x.dim() else probe.unsqueeze(1)
    value, found = product(f, x, probes)
    return value, (found * probes).flatten(2).sum(2).mean(1)
