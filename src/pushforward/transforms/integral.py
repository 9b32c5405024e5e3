"""Integrals of positive networks: unconstrained monotonic neural networks (Wehenkel & Louppe 2019, arXiv:1908.05164).

    ∂z/∂x = e^{c(γ g(x; signal))},   z = β + ∫₀ˣ ∂z/∂x dx    for x in [−bound, bound], with straight lines beyond

g is any network of a number and a signal; c keeps the logarithm of the slope within ±log 1/ε. The parameters are β, γ and
the signal: where they are zero the slope is 1, whatever g.

A quadrature of the slope between 0 and x would give a map whose derivative is not quite the slope, so that densities would
not quite integrate to one. Here the quadrature comes first: with s = x / bound, r is the polynomial of degree n − 1 that
equals the square root of the network's slope at n Chebyshev nodes, and

    ∂z/∂x = ε + (1 − ε) r(s)²,    z = β + ∫₀ˣ ∂z/∂x dx

are both exact. What is computed is thus a flow for every n, V its very derivative, and as n grows it tends to the integral
of the network (with slope ε + (1 − ε) eᶜ), exponentially where g is smooth: choose tanh or SiLU, not ReLU or ELU. The network
is called once, on all nodes together, for the inverse as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pushforward.transforms.polynomial import chebyshev_angles, chebyshev_terms, integration, interpolation
from pushforward.transforms.rootfinding import Increasing, LinearTails

Integrand = Callable[[Tensor, Tensor], Tensor]
"""g: numbers t (n, N) and signals (N, S) to numbers (n, N), each from its own t and the signal of its column."""


def _smooth_clip(value: Tensor, bound: float) -> Tensor:
    """value / √(1 + (value / bound)²): like ``soft_clip``, but without a corner in its second derivative."""
    return value / torch.hypot(value / bound, torch.ones_like(value))


class Integral(LinearTails):
    """``integrand`` g, steered by ``signal`` S numbers, known at n ``nodes``: P = S + 2. Slopes are at least ``slope``, ε."""

    nodes: Tensor
    fit: Tensor
    at_more: Tensor
    area: Tensor

    def __init__(self, integrand: Integrand, signal: int, *, nodes: int = 24, bound: float = 4.0, slope: float = 1e-2) -> None:
        super().__init__()
        if signal < 0 or nodes < 1 or bound <= 0 or not 0 < slope < 1:
            raise ValueError(
                f"found signal {signal}, nodes {nodes}, bound {bound}, slope {slope}: expected ≥ 0, ≥ 1, > 0, within (0, 1)"
            )
        self.integrand, self.signal, self.bound, self.slope, self.params = integrand, signal, bound, slope, signal + 2
        self.degree = nodes - 1
        tables = {
            "nodes": bound * np.cos(chebyshev_angles(nodes)),
            "fit": interpolation(nodes),
            # r² has twice the degree: its values at twice the nodes give its integral
            "at_more": np.cos(np.arange(nodes) * chebyshev_angles(2 * nodes - 1)[:, None]),
            "area": integration(2 * nodes - 1),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def _inside(self, params: Tensor) -> Increasing:
        beta, gamma = params[:, 0], params[:, 1:2]
        signal = params[:, 2:].transpose(1, 2).flatten(0, 1)  # (B · D, S)
        g = self.integrand(self.nodes.to(params)[:, None].expand(-1, len(signal)), signal)
        g = _smooth_clip(g, 100.0).view(-1, *beta.shape).transpose(0, 1)  # (B, n, D); with a huge γ it must not overflow
        roots = (_smooth_clip(gamma * g, -math.log(self.slope)) / 2).exp()
        r = self.fit.to(params) @ roots
        area = self.area.to(params) @ (self.at_more.to(params) @ r).square()

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            terms = chebyshev_terms(x / self.bound, 2 * self.degree + 1)
            root = (r * terms[:, : self.degree + 1]).sum(1)
            z = beta + self.slope * x + (1 - self.slope) * self.bound * (area * terms).sum(1)
            return z, (self.slope + (1 - self.slope) * root.square()).log()

        return f
