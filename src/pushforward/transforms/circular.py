"""Splines on the circle, for angles (Rezende et al. 2020, arXiv:2002.02428).

    z = s(x) + φ  mod 2π,    x, z in [−π, π)

s is a rational-quadratic spline of [−π, π] onto itself whose slopes at the two ends are one parameter, so that on the circle
the seam is a knot like any other; φ turns the circle. Both directions take angles modulo 2π.

A flow on a torus of D angles in radians is ``Flow(base, Compose([Coupling(stays, Angles(net), CircularSpline()), …]))`` with a
base that is uniform on [−π, π)^D, log p = −D log 2π. Angles in other units are mapped to radians first, by an affine map of
one whole turn. A network that reads angles must not see the seam either: ``Angles`` shows it cosines and sines, and only then
is the density continuous. A temperature, which shrinks the base, has no meaning on a circle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.transforms.monotone import Monotone
from pushforward.transforms.spline import inverse_rational_quadratic, knots, rational_quadratic


def wrap(angle: Tensor) -> Tensor:
    """The same angle in [−π, π), unchanged where it is there already."""
    turned = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    # a remainder can round up to a whole turn, and the π of a number format to more than π
    turned = torch.where(turned >= math.pi, turned - 2 * math.pi, turned)
    return torch.where((angle >= -math.pi) & (angle < math.pi), angle, turned)


class CircularSpline(Monotone):
    """K ``bins``: P = 3K + 1 parameters, of K widths, K heights, K slopes at the knots from −π on, and the turn φ in radians.

    Increasing on the circle; as a map of [−π, π) it jumps once, where z passes π. Bins take at least ``floor`` of the
    circle; slopes are between ``floor`` and 1/``floor``.
    """

    def __init__(self, bins: int = 8, floor: float = 1e-3) -> None:
        super().__init__()
        if bins < 2 or bins * floor >= 1:
            raise ValueError(f"found {bins} bins of at least {floor}: expected 2 or more that fit together")
        self.bins, self.floor, self.params = bins, floor, 3 * bins + 1
        self.offset = math.log(math.expm1(1 - floor))  # a parameter of zero is a slope of one

    def _knots(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, raw = params[:, :-1].split(self.bins, 1)
        raw = raw.clamp(max=1 / self.floor)  # the inverse squares slopes
        slopes = self.floor + F.softplus(torch.cat([raw, raw[:, :1]], 1) + self.offset)
        return knots(widths, math.pi, self.floor), knots(heights, math.pi, self.floor), slopes

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = rational_quadratic(wrap(x), *self._knots(params))
        return wrap(z + wrap(params[:, -1])), log_slope.sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        return wrap(inverse_rational_quadratic(wrap(wrap(z) - wrap(params[:, -1])), *self._knots(params)))


class Angles(nn.Module):
    """``net`` of the cosines and sines (B, 2D) of angles (B, D): net(angles, context)."""

    def __init__(self, net: Callable[[Tensor, Context | None], Tensor]) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self.net(torch.cat([x.cos(), x.sin()], 1), context)
