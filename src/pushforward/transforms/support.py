"""Bijections from the line to a part of it, coordinate by coordinate, so that a model respects bounds.

With a bound a below, b above, or both, and a scale s in the data's units:

    x = a + s softplus(z/s)        V = −log(1 − e^{−y}),   y = (x − a)/s         [a, ∞)
    x = b − s softplus(−z/s)       likewise with y = (b − x)/s                   (−∞, b]
    x = a + (b − a) σ(z)           V = −log u − log(1 − u) − log(b − a)          [a, b],   u = (x − a)/(b − a)

softplus rather than exp: far from the bound the map is the identity, so that tails stay what they were and nothing overflows,
and near it the logarithm, so that small numbers keep their digits.

A datum exactly on its bound would be at z = ±∞. Whatever is within ``MARGIN`` of s (of b − a) from a bound counts as being at
that distance, and is put on the bound on its way back: data on their bound have the finite density of data so near, and stay
there. Data beyond a bound have density 0, V = −∞.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.shapes import per_example
from pushforward.core.transform import Elementwise

MARGIN = 1e-9


def _softplus(t: Tensor) -> Tensor:
    return torch.logaddexp(t, torch.zeros_like(t))  # torch's own cuts off at 20, which float64 notices


def _snapped(y: Tensor) -> Tensor:
    # a little more than the margin: what went in at it comes back rounded
    return y.masked_fill(y <= 1.1 * MARGIN, 0.0)


class Support(Elementwise):
    """x (B, …, D) with lower_d ≤ x_d ≤ upper_d ↔ z of the same shape, any real numbers.

    ``lower`` and ``upper`` (D,) are in the data's units; an infinite one does not bound, and a coordinate with two of them is
    left alone. ``prepare`` sets s to the median distance of the data from the bound; before that it is 1. NaN stay NaN.
    """

    lower: Tensor
    upper: Tensor
    scale: Tensor

    def __init__(self, lower: Sequence[float] | Tensor, upper: Sequence[float] | Tensor) -> None:
        super().__init__()
        low, high = (torch.as_tensor(bound, dtype=torch.float64).flatten() for bound in (lower, upper))
        if low.shape != high.shape or not bool((low < high).all()):
            raise ValueError(f"found bounds {low.tolist()} and {high.tolist()}: expected as many of each, lower < upper")
        self.register_buffer("lower", low, persistent=False)
        self.register_buffer("upper", high, persistent=False)
        self.register_buffer("scale", torch.ones_like(low))
        below, above = low.isfinite(), high.isfinite()
        self.sides = [  # which coordinates are bounded on one side, and the sign that turns that side down
            (sign, where.nonzero().flatten().tolist()) for sign, where in ((1.0, below & ~above), (-1.0, above & ~below))
        ]
        self.between = (below & above).nonzero().flatten().tolist()

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        for sign, at in self.sides:
            for d in at:
                distance = sign * (x[..., d].double() - (self.lower if sign > 0 else self.upper)[d])
                distance = distance[distance > 0]  # those on the bound say nothing of a scale
                if len(distance):
                    self.scale[d] = distance.median()
        return self.pull(x)[0]

    def _bound(self, sign: float, at: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
        return (self.lower if sign > 0 else self.upper)[at].to(like.dtype), self.scale[at].to(like.dtype)

    def push_each(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x, and log dz/dx of each coordinate."""
        x, score = z.clone(), torch.zeros_like(z)
        for sign, at in self.sides:
            if at:
                bound, s = self._bound(sign, at, z)
                t = sign * z[..., at] / s
                x[..., at] = bound + sign * s * _snapped(_softplus(t))
                score[..., at] = _softplus(-t)
        if self.between:
            low, high = (bound[self.between].to(z.dtype) for bound in (self.lower, self.upper))
            t = z[..., self.between]
            u, v = _snapped(torch.sigmoid(t)), _snapped(torch.sigmoid(-t))
            # from the nearer end, so that no digits are lost at either
            x[..., self.between] = torch.where(t < 0, low + (high - low) * u, high - (high - low) * v)
            score[..., self.between] = _softplus(t) + _softplus(-t) - (high - low).log()
        return x, score

    def pull_each(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, and log dz/dx of each coordinate, −∞ beyond a bound."""
        z, score = x.clone(), torch.zeros_like(x)
        for sign, at in self.sides:
            if at:
                bound, s = self._bound(sign, at, x)
                y = sign * (x[..., at] - bound) / s
                log = (-torch.expm1(-y.clamp(min=MARGIN))).log()
                z[..., at] = sign * s * (y.clamp(min=MARGIN) + log)
                score[..., at] = (-log).masked_fill(y < -MARGIN, -math.inf)
        if self.between:
            low, high = (bound[self.between].to(x.dtype) for bound in (self.lower, self.upper))
            u, v = (x[..., self.between] - low) / (high - low), (high - x[..., self.between]) / (high - low)
            log_u, log_v = (part.clamp(min=MARGIN).log() for part in (u, v))
            z[..., self.between] = log_u - log_v
            outside = torch.minimum(u, v) < -MARGIN
            score[..., self.between] = (-log_u - log_v - (high - low).log()).masked_fill(outside, -math.inf)
        return z, score

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.push_each(z)[0]

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        x, score = self.push_each(z)
        return x, per_example(score)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z, score = self.pull_each(x)
        return z, per_example(score)
