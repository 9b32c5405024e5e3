"""Increasing maps of single numbers, each steered by parameters that somebody else computes.

Coupling and autoregressive layers are one idea with two ways of computing the parameters (a network of the coordinates that
stay, a masked network of the coordinates before); what they do to a number is a ``Monotone``: z = f(x; params), ∂z/∂x > 0.
With parameters of zero every one of them is the identity, so that a network that starts at zero starts the flow there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Monotone(nn.Module, ABC):
    """z = f(x) for x, z (B, D), with ``params`` P numbers for each of them, given as (B, P, D).

    V = Σ_d log ∂z_d/∂x_d, (B,). Both directions take every finite number to a finite one.
    """

    params: int
    kernel: tuple[str, tuple[float, ...]] | None = None
    """The name by which ``kernels.autoregressive`` knows the map, and its constants; None where it does not."""

    @abstractmethod
    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) and V (B,)."""

    @abstractmethod
    def push(self, z: Tensor, params: Tensor) -> Tensor:
        """The x (B, D) with f(x) = z."""

    def push_scored(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """x, and V there."""
        x = self.push(z, params)
        return x, self.pull(x, params)[1]


def soft_clip(value: Tensor, bound: float) -> Tensor:
    """value / (1 + |value| / bound): the identity near zero, inside ±``bound`` everywhere."""
    return value / (1 + value.abs() / bound)


def plain_cpu(x: Tensor) -> bool:
    """Whether ``x`` is on the CPU and computed with as the code runs: neither traced by a compiler nor transformed by
    functorch.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


class Additive(Monotone):
    """z = x + t: volume is kept, V = 0 (NICE, Dinh et al. 2014, arXiv:1410.8516)."""

    params = 1
    kernel = ("additive", ())

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params[:, 0], x.new_zeros(len(x))

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        return z - params[:, 0]

    def push_scored(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.push(z, params), z.new_zeros(len(z))


class Affine(Monotone):
    """z = x · eˢ + t, V = Σ s (RealNVP, Dinh et al. 2016, arXiv:1605.08803; MAF, Papamakarios et al. 2017, arXiv:1705.07057).

    Parameters (t, a): s = a / (1 + |a|/c) with c = −log ``slope``, so that scales stay within [slope, 1/slope] whatever the
    network says, and a flow can always be undone.
    """

    params = 2

    def __init__(self, slope: float = 1e-3) -> None:
        super().__init__()
        self.bound = -math.log(slope)
        self.kernel = ("affine", (self.bound,))

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        if x.dtype == params.dtype == torch.float32 and plain_cpu(x):
            return _AffinePull.apply(x.contiguous(), params.contiguous(), self.bound)  # type: ignore[no-untyped-call]
        t, s = params[:, 0], soft_clip(params[:, 1], self.bound)
        return torch.addcmul(t, x, s.exp()), s.sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        return self.push_scored(z, params)[0]

    def push_scored(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        t, s = params[:, 0], soft_clip(params[:, 1], self.bound)
        return (z - t) * (-s).exp(), s.sum(1)


class _AffinePull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        from pushforward.kernels import affine

        ctx.save_for_backward(x, params)
        ctx.bound = bound
        return affine.pull(x, params, bound)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gz: Tensor, gv: Tensor) -> tuple[Tensor | None, ...]:
        from pushforward.kernels import affine

        x, params = ctx.saved_tensors
        return *affine.gradient(x, params, gz.contiguous(), gv.contiguous(), ctx.bound), None
