"""The divergence tr ∂f/∂x of a vector field, for densities along its flow: d log p / dt = −tr ∂f/∂x."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.shapes import per_example

Vectors = Callable[[Tensor], Tensor]


def exact(f: Vectors, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and its exact divergence (B,), by one reverse pass for each of the D coordinates."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = f(x)
        flat = value.flatten(1)
        trace = torch.zeros(len(x), dtype=value.dtype, device=x.device)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < flat.shape[1])
            trace = trace + row.flatten(1)[:, i]
    return value.detach(), trace.detach()


def hutchinson(f: Vectors, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and the unbiased estimate eᵀ (∂f/∂x) e of its divergence (B,), with E[e eᵀ] = 1 (Hutchinson 1989)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = f(x)
        (product,) = torch.autograd.grad(value, x, probe.to(value.dtype))
    return value.detach(), per_example(product * probe).detach()
