"""Deterministic samplers in terms of D(x, α, σ) = E[x_0 | α x_0 + σ ε = x], one evaluation a step.

With λ = log α/σ, and from a node t to the next s, h = λ_s − λ_t, the flow is exactly

    x_s = (σ_s/σ_t) x_t + σ_s ∫_{λ_t}^{λ_s} e^λ D dλ,        α_s ∫_0^h e^{−(h−u)} uʲ/j! du = α_s φ_j

so that a method is a guess of D as a polynomial of λ, through the values at the nodes behind:

| method | D | order | source |
|---|---|---|---|
| ``ddim`` | constant; Euler's method in σ/α | 1 | Song et al. 2020, arXiv:2010.02502 |
| ``dpm++2m`` | a line, integrated by the midpoint rule | 2 | Lu et al. 2022, arXiv:2211.01095 |
| ``exponential`` | a polynomial, integrated exactly: Adams–Bashforth's methods | 1 … 3 | Zhang & Chen 2022, arXiv:2204.13902 |
| ``unipc`` | as many nodes, and each step mended by the value at its end | p + 1 | Zhao et al. 2023, arXiv:2302.04867 |

(Orders are measured in tests/solvers.) Next to an end where α or σ is zero, λ is infinite and D constant: there each of them
takes DDIM's step, whose limits are finite. ``watch``(i, x, D) is shown every node before it is left, and the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pushforward.solvers.grids import Grid

Denoise = Callable[[Tensor, float, float], Tensor]
Watch = Callable[[int, Tensor, Tensor], None]


def drift(grid: Grid, i: int) -> tuple[float, float]:
    """x's and a constant D's share of x at node i + 1."""
    ratio = grid.sigma[i + 1] / grid.sigma[i]
    return ratio, grid.alpha[i + 1] - grid.alpha[i] * ratio


def ddim(denoise: Denoise, x: Tensor, grid: Grid, *, watch: Watch | None = None) -> Tensor:
    """x_s = (σ_s/σ_t) x_t + (α_s − α_t σ_s/σ_t) D."""
    for i in range(grid.steps):
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if watch:
            watch(i, x, data)
        keep, add = drift(grid, i)
        x = (keep * x).add_(data, alpha=add)
    return _ended(x, grid, watch)


def ddim_inverse(denoise: Denoise, x: Tensor, grid: Grid) -> Tensor:
    """From data ``x`` to the first node: DDIM's steps backwards, with the noise of the node they start from (of the last noisy
    one for the data themselves), as in Mokady et al. 2022, arXiv:2211.09794."""
    for i in reversed(range(grid.steps)):
        at = i + 1 if grid.sigma[i + 1] else i
        alpha, sigma = grid.alpha[at], grid.sigma[at]
        noise = torch.add(x, denoise(x, alpha, sigma), alpha=-alpha).div_(sigma)
        ratio = grid.alpha[i] / grid.alpha[i + 1]
        x = (ratio * x).add_(noise, alpha=grid.sigma[i] - ratio * grid.sigma[i + 1])
    return x


def _ended(x: Tensor, grid: Grid, watch: Watch | None) -> Tensor:
    if watch:
        watch(grid.steps, x, x)
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, grid: Grid, *, watch: Watch | None = None) -> Tensor:
    """DPM-Solver++(2M): D̂ = D + (D − D_before) h / 2h_before."""
    rows = _second_order(grid)
    before: Tensor | None = None
    for i in range(grid.steps):
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if watch:
            watch(i, x, data)
        keep, add, slope = rows[i]
        x = (keep * x).add_(data, alpha=add + slope)
        if slope and before is not None:
            x.add_(before, alpha=-slope)
        before = data
    return _ended(x, grid, watch)


def _second_order(grid: Grid) -> list[tuple[float, float, float]]:
    """Shares of x, of D and of D − D_before in each step."""
    lam = grid.half_log_snr()
    rows = []
    for i in range(grid.steps):
        keep, add = drift(grid, i)
        ratio = (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1]) if i else math.inf
        rows.append((keep, add, 0.5 * add * ratio if math.isfinite(ratio) else 0.0))
    return rows


def exponential(denoise: Denoise, x: Tensor, grid: Grid, *, order: int = 3, watch: Watch | None = None) -> Tensor:
    """The exponential Adams–Bashforth method of that order, 1 to 3; the first steps have as many nodes as there are."""
    if not 1 <= order <= 3:
        raise ValueError(f"found the order {order}: expected 1 to 3")
    rows = _weights(grid, order)
    behind: list[Tensor] = []
    first = x
    for i in range(grid.steps):
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if i == 1 and order == 3:
            x = _again(grid, first, behind[0], data)
        if watch:
            watch(i, x, data)
        behind = [data, *behind[: order - 1]]
        keep, weights = rows[i]
        x = keep * x
        for weight, value in zip(weights, behind, strict=False):
            x.add_(value, alpha=weight)
    return _ended(x, grid, watch)


def _again(grid: Grid, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The first step with D a line through both its ends: with DDIM's there, the method would be of order 2."""
    keep, add = drift(grid, 0)
    lam = grid.half_log_snr()
    h = lam[1] - lam[0]
    slope = grid.alpha[1] * phi(1, h) / h if math.isfinite(h) else 0.0
    return (keep * x).add_(before, alpha=add - slope).add_(after, alpha=slope)


def _weights(grid: Grid, order: int) -> list[tuple[float, list[float]]]:
    """Shares of x, and of D at each of the last nodes, newest first, in each step."""
    lam, rows = grid.half_log_snr(), []
    for i in range(grid.steps):
        keep, add = drift(grid, i)
        nodes = [0.0]
        h = lam[i + 1] - lam[i]
        while math.isfinite(h) and len(nodes) < min(order, i + 1) and math.isfinite(lam[i - len(nodes)]):
            nodes.append(lam[i - len(nodes)] - lam[i])
        if len(nodes) == 1:
            rows.append((keep, [add]))
            continue
        # Σ_k w_k D(u_k) integrates 1, u, u²/2, … against e^{−(h−u)} exactly
        powers = np.array([[u**j / math.factorial(j) for u in nodes] for j in range(len(nodes))])
        weights = np.linalg.solve(powers, [phi(j, h) for j in range(len(nodes))])
        rows.append((keep, (grid.alpha[i + 1] * weights).tolist()))
    return rows


def phi(j: int, h: float) -> float:
    """φ_j(h) = ∫_0^h e^{−(h−u)} uʲ/j! du = h^{j+1} Σ_m (−h)^m / (m + j + 1)!."""
    if abs(h) < 1.0:
        term, total, m = h ** (j + 1) / math.factorial(j + 1), 0.0, j + 2
        while abs(term) > 1e-18 * abs(total):
            total, term, m = total + term, -term * h / m, m + 1
        return total
    value = -math.expm1(-h)
    for k in range(1, j + 1):
        value = h**k / math.factorial(k) - value
    return value


def unipc(denoise: Denoise, x: Tensor, grid: Grid, *, order: int = 2, watch: Watch | None = None) -> Tensor:
    """UniPC of that order with B(h) = e^{−h} − 1: what D was at the end of a step also corrects the step."""
    if not 1 <= order <= 4:
        raise ValueError(f"found the order {order}: expected 1 to 4")
    lam = grid.half_log_snr()
    values: list[Tensor] = []  # D at the nodes behind, newest first
    base = x  # the corrected state that the last step started from
    for i in range(grid.steps):
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if i and math.isfinite(lam[i] - lam[i - 1]):
            keep, weights = _unipc_weights(grid, lam, i - 1, min(order, i), corrects=True)
            x = keep * base
            for weight, value in zip(weights, [data, *values], strict=False):
                x = x.add_(value, alpha=weight)
        if watch:
            watch(i, x, data)
        values = [data, *values[: order - 1]]
        keep, weights = _unipc_weights(grid, lam, i, min(order, i + 1), corrects=False)
        base, x = x, keep * x
        for weight, value in zip(weights, values, strict=False):
            x.add_(value, alpha=weight)
    return _ended(x, grid, watch)


def _unipc_weights(grid: Grid, lam: list[float], i: int, order: int, corrects: bool) -> tuple[float, list[float]]:
    """Shares of x and of D in the step from node i: at the end of the step where it ``corrects``, then at i, i − 1, …

    In u = (λ − λ_i)/h, the differences D(u_k) − D(0) over u_k get the ρ that solve Σ_k ρ_k u_k^{m−1} = b_m with
    b_m = m! φ_m(h)/(h^m φ_0(h)): the moments of the weight. With one node UniPC takes ρ = ½ instead of b_1.
    """
    keep, add = drift(grid, i)
    h = lam[i + 1] - lam[i]
    nodes = [1.0] if corrects else []
    while math.isfinite(h) and len(nodes) < order - (not corrects):
        back = lam[i - len(nodes) - (not corrects)]
        if not math.isfinite(back):
            break
        nodes.append((back - lam[i]) / h)
    if not nodes or not math.isfinite(h):
        return keep, [0.0, add] if corrects else [add]
    count = len(nodes)
    if count == 1:
        rho = [0.5]
    else:
        moments = [math.factorial(m) * phi(m, h) / (h**m * phi(0, h)) for m in range(1, count + 1)]
        rho = np.linalg.solve(np.array([[u ** (m - 1) for u in nodes] for m in range(1, count + 1)]), moments).tolist()
    shares = [add * r / u for r, u in zip(rho, nodes, strict=True)]
    rest = add - sum(shares)
    return keep, [shares[0], rest, *shares[1:]] if corrects else [rest, *shares]
