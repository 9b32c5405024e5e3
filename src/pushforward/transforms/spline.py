"""Monotone rational-quadratic splines (Gregory & Delbourgo 1982; as a flow Durkan et al. 2019, arXiv:1906.04032).

Between knots (x_k, y_k) and (x_{k+1}, y_{k+1}) with slopes d_k, d_{k+1}, w and h the bin's width and height, δ = h/w, ξ =
(x − x_k)/w:

    z = y_k + h (δ ξ² + d_k ξ(1−ξ)) / (δ + (d_{k+1} + d_k − 2δ) ξ(1−ξ))
    ∂z/∂x = δ² (d_{k+1} ξ² + 2δ ξ(1−ξ) + d_k (1−ξ)²) / (δ + (d_{k+1} + d_k − 2δ) ξ(1−ξ))²

Outside [−bound, bound] the map is the identity. The inverse is the root of a quadratic equation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.transforms.monotone import Monotone, plain_cpu


def knots(logits: Tensor, bound: float, floor: float) -> Tensor:
    """K bins (B, K, D) by softmax, none narrower than ``floor`` of the whole, as knots (B, K + 1, D) from −bound to bound."""
    share = floor + (1 - floor * logits.shape[1]) * logits.softmax(1)
    inner = 2 * bound * share.cumsum(1)[:, :-1] - bound
    end = torch.full_like(logits[:, :1], bound)
    return torch.cat([-end, inner, end], 1)


def _bin(value: Tensor, places: Tensor, others: Tensor, slopes: Tensor) -> list[Tensor]:
    """For the bin of each value (B, D) among ``places`` (B, K + 1, D): left knot and width of both axes, both slopes."""
    k = (value[:, None] >= places[:, 1:-1]).sum(1, keepdim=True)
    left, right, left2, right2, d0, d1 = (table.gather(1, at)[:, 0] for table in (places, others, slopes) for at in (k, k + 1))
    return [left, right - left, left2, right2 - left2, d0, d1]


def rational_quadratic(x: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """z and log ∂z/∂x, (B, D) each, for x (B, D) within the knots (B, K + 1, D)."""
    x0, w, y0, h, d0, d1 = _bin(x, knots_x, knots_y, slopes)
    xi = ((x - x0) / w).clamp(0, 1)
    delta, t = h / w, xi * (1 - xi)
    down = delta + (d1 + d0 - 2 * delta) * t
    up = d1 * xi.square() + 2 * delta * t + d0 * (1 - xi).square()
    return y0 + h * (delta * xi.square() + d0 * t) / down, 2 * (delta / down).log() + up.log()


def inverse_rational_quadratic(z: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> Tensor:
    """The x (B, D) that ``rational_quadratic`` takes to z (B, D)."""
    y0, h, x0, w, d0, d1 = _bin(z, knots_y, knots_x, slopes)
    rise, delta = (z - y0).clamp(min=0).minimum(h), h / w
    bend = rise * (d1 + d0 - 2 * delta)
    a, b, c = h * (delta - d0) + bend, h * d0 - bend, -delta * rise
    root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
    # two ways of writing the root between 0 and 1: neither may subtract like numbers, and a vanishes only where b > 0
    falls = b < 0
    xi = torch.where(falls, (root - b) / torch.where(falls, 2 * a, 1.0), 2 * c / -torch.where(falls, 1.0, b + root))
    return x0 + xi.clamp(max=1) * w


class Spline(Monotone):
    """K ``bins`` on [−bound, bound] with slope 1 at both ends: P = 3K − 1 parameters, of K widths, K heights and K − 1
    inner slopes.

    Bins take at least ``floor`` of the whole, slopes are at least ``floor``.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, floor: float = 1e-3) -> None:
        super().__init__()
        if bins < 2 or bins * floor >= 1:
            raise ValueError(f"found {bins} bins of at least {floor}: expected 2 or more that fit together")
        self.bins, self.bound, self.floor, self.params = bins, bound, floor, 3 * bins - 1
        self.offset = math.log(math.expm1(1 - floor))  # a parameter of zero is a slope of one
        self.kernel = ("spline", (bound, floor, self.offset))

    def _knots(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, raw = params.split([self.bins, self.bins, self.bins - 1], 1)
        slopes = self.floor + F.softplus(F.pad(raw, (0, 0, 1, 1)) + self.offset)
        return knots(widths, self.bound, self.floor), knots(heights, self.bound, self.floor), slopes

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        if _kernel_applies(x, params):
            return _Pull.apply(x.contiguous(), params.contiguous(), self.bound, self.floor, self.offset)  # type: ignore[no-untyped-call]
        inside = x.abs() <= self.bound
        z, score = rational_quadratic(x.clamp(-self.bound, self.bound), *self._knots(params))
        return torch.where(inside, z, x), torch.where(inside, score, torch.zeros_like(score)).sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        if _kernel_applies(z, params) and not (torch.is_grad_enabled() and (z.requires_grad or params.requires_grad)):
            from pushforward.kernels import spline

            return spline.push(z.contiguous(), params.contiguous(), self.bound, self.floor, self.offset)
        inside = z.abs() <= self.bound
        x = inverse_rational_quadratic(z.clamp(-self.bound, self.bound), *self._knots(params))
        return torch.where(inside, x, z)


def _kernel_applies(x: Tensor, params: Tensor) -> bool:
    return x.dtype == params.dtype == torch.float32 and plain_cpu(x)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, *settings: float) -> tuple[Tensor, Tensor]:
        from pushforward.kernels import spline

        ctx.save_for_backward(x, params)
        ctx.settings = settings
        return spline.pull(x, params, *settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gz: Tensor, gv: Tensor) -> tuple[Tensor | None, ...]:
        from pushforward.kernels import spline

        x, params = ctx.saved_tensors
        gx, gparams = spline.pull_gradient(x, params, gz.contiguous(), gv.contiguous(), *ctx.settings)
        return gx, gparams, None, None, None
