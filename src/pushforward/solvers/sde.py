"""Stochastic samplers in terms of D(x, α, σ) = E[x_0 | α x_0 + σ ε = x].

Going from a node t to the next s, the forward process has x_t = q x_s + noise of variance v, q = α_t/α_s, v = σ_t² − q² σ_s²,
and

    q(x_s | x_t, x_0) = N(q (σ_s²/σ_t²) x_t + (α_s v/σ_t²) x_0,  σ_s² v/σ_t²)

| sampler | what it is | source |
|---|---|---|
| ``ddpm`` | that posterior with D for x_0; its variance, or v, or between | Ho et al. 2020, arXiv:2006.11239 |
| ``ddim`` with η | η times its deviation; η = 1 is ddpm with the posterior's variance | Song et al. 2020, arXiv:2010.02502 |
| ``euler-maruyama`` | dx = [α'/α x − g² ∇log p] dt + g dw in time t | Song et al. 2020, arXiv:2011.13456 |
| ``pc`` | a Langevin step at each node before it | the same |
| ``dpm++sde`` | the same equation solved exactly for a D linear in log α/σ | Lu et al. 2022, arXiv:2211.01095 |
| ``edm`` | Heun's method in σ/α, after some noise is put back | Karras et al. 2022, arXiv:2206.00364 |
| ``consistency`` | D, and fresh noise for the next node; D is a consistency function | Song et al. 2023, arXiv:2303.01469 |

``normal``() gives fresh standard normal numbers like x. The last step ends in D, without noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError
from pushforward.solvers.grids import Grid
from pushforward.solvers.multistep import Denoise, Watch

Normal = Callable[[], Tensor]
Estimate = Tensor | tuple[Tensor, Tensor]  # D, or D and where between the two variances the network puts the posterior's
RATIO = 0.16  # signal to noise of the corrector, as in the source


def posterior(grid: Grid, i: int) -> tuple[float, float, float, float]:
    """q(x_s | x_t, x_0): shares of x and x_0, its variance, and v."""
    q = grid.alpha[i] / grid.alpha[i + 1]
    before, after = grid.sigma[i] ** 2, grid.sigma[i + 1] ** 2
    v = max(before - q**2 * after, 0.0)
    return q * after / before, grid.alpha[i + 1] * v / before, after * v / before, v


def ddpm(
    denoise: Callable[[Tensor, float, float], Estimate],
    x: Tensor,
    grid: Grid,
    normal: Normal,
    *,
    spread: float = 0.0,
    watch: Watch | None = None,
) -> Tensor:
    """Ancestral sampling with variance exp(spread · log v + (1 − spread) · log of the posterior's): 0 is right for data that
    are one point, 1 for normal data. Where ``denoise`` gives a pair its second part (B, …) is the spread (Nichol & Dhariwal
    2021)."""
    for i in range(grid.steps):
        found = denoise(x, grid.alpha[i], grid.sigma[i])
        data, learned = found if isinstance(found, tuple) else (found, None)
        if watch:
            watch(i, x, data)
        keep, add, least, most = posterior(grid, i)
        x = (keep * x).add_(data, alpha=add)
        if not least:
            continue
        if learned is None:
            x.add_(normal(), alpha=math.exp(0.5 * (spread * math.log(most) + (1 - spread) * math.log(least))))
        else:
            deviation = (0.5 * (learned * (math.log(most) - math.log(least)) + math.log(least))).exp()
            x.add_(deviation * normal())
    if watch:
        watch(grid.steps, x, x)
    return x


def _follow(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    normal: Normal,
    shares: Callable[[int], tuple[float, float, float]],
    watch: Watch | None,
    correct: Callable[[int, Tensor], Tensor] = lambda i, x: x,
) -> Tensor:
    """x ← a x + b D + c z with (a, b, c) = ``shares``(i) at every node i, where x is corrected first."""
    for i in range(grid.steps):
        x = correct(i, x)
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if watch:
            watch(i, x, data)
        keep, add, noise = shares(i)
        x = (keep * x).add_(data, alpha=add)
        if noise:
            x.add_(normal(), alpha=noise)
    if watch:
        watch(grid.steps, x, x)
    return x


def ddim(denoise: Denoise, x: Tensor, grid: Grid, normal: Normal, *, eta: float = 1.0, watch: Watch | None = None) -> Tensor:
    """η times the posterior's noise, and as much less of the noise that was there."""

    def shares(i: int) -> tuple[float, float, float]:
        variance = eta**2 * posterior(grid, i)[2]
        kept = math.sqrt(max(grid.sigma[i + 1] ** 2 - variance, 0.0)) / grid.sigma[i]
        return kept, grid.alpha[i + 1] - grid.alpha[i] * kept, math.sqrt(variance)

    return _follow(denoise, x, grid, normal, shares, watch)


def _reverse(grid: Grid, i: int) -> tuple[float, float, float]:
    """Euler–Maruyama: shares of x and D, and the noise, in dx = [α' D + (σ' + Δ/α) ε] dt + g dw, g² = 2σΔ/α."""
    alpha, sigma, step = grid.alpha[i], grid.sigma[i], grid.t[i + 1] - grid.t[i]
    if grid.sigma[i + 1] == 0:
        return 0.0, grid.alpha[i + 1], 0.0
    delta = alpha * grid.d_sigma[i] - sigma * grid.d_alpha[i]
    rate = (grid.d_sigma[i] + delta / alpha) / sigma
    return 1 + step * rate, step * (grid.d_alpha[i] - alpha * rate), math.sqrt(-step * 2 * sigma * delta / alpha)


def _has_signal(grid: Grid) -> None:
    if grid.alpha[0] == 0:
        raise RecipeError(
            "the reverse-time equation has infinite noise where a path has no signal: use the sampler dpm++sde or ddpm, "
            "or another path (vp, ve)"
        )


def euler_maruyama(denoise: Denoise, x: Tensor, grid: Grid, normal: Normal, *, watch: Watch | None = None) -> Tensor:
    """The reverse-time equation in steps of t. Needs α > 0 at the first node."""
    _has_signal(grid)
    return _follow(denoise, x, grid, normal, partial(_reverse, grid), watch)


def predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    normal: Normal,
    *,
    ratio: float = RATIO,
    watch: Watch | None = None,
) -> Tensor:
    """At each node a Langevin step x + e ∇log p + √(2e) z with e = 2 (ratio · σ)², then Euler–Maruyama's: two evaluations a
    step.

    The source takes |z|/|∇log p| of the batch where this has its value in the mean, σ: no row then depends on the others."""
    _has_signal(grid)
    share = 2 * ratio**2  # e/σ²

    def correct(i: int, x: Tensor) -> Tensor:
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        x = ((1 - share) * x).add_(denoise(x, alpha, sigma), alpha=share * alpha)
        return x.add_(normal(), alpha=math.sqrt(2 * share) * sigma)

    return _follow(denoise, x, grid, normal, partial(_reverse, grid), watch, correct)


def dpmpp_sde(denoise: Denoise, x: Tensor, grid: Grid, normal: Normal, *, watch: Watch | None = None) -> Tensor:
    """DPM-Solver++(2M) for the reverse-time equation: x_s = (σ_s/σ_t) e^{−h} x + α_s (1 − e^{−2h}) D̂ + σ_s √(1 − e^{−2h})
    z."""
    lam = grid.half_log_snr()
    before: Tensor | None = None
    for i in range(grid.steps):
        data = denoise(x, grid.alpha[i], grid.sigma[i])
        if watch:
            watch(i, x, data)
        h = lam[i + 1] - lam[i]
        ratio = h / (lam[i] - lam[i - 1]) if i else math.inf
        shrink, fresh = math.exp(-h), -math.expm1(-2 * h)
        weight = grid.alpha[i + 1] * fresh
        slope = 0.5 * weight * ratio if math.isfinite(ratio) else 0.0
        x = (grid.sigma[i + 1] / grid.sigma[i] * shrink * x).add_(data, alpha=weight + slope)
        if slope and before is not None:
            x.add_(before, alpha=-slope)
        if grid.sigma[i + 1]:
            x.add_(normal(), alpha=grid.sigma[i + 1] * math.sqrt(fresh))
        before = data
    if watch:
        watch(grid.steps, x, x)
    return x


def edm(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    normal: Normal,
    *,
    churn: float = 0.0,
    lowest: float = 0.0,
    highest: float = math.inf,
    inflate: float = 1.0,
    watch: Watch | None = None,
) -> Tensor:
    """EDM's stochastic sampler in u = σ/α: u rises by the factor 1 + min(churn/n, √2 − 1) where ``lowest`` ≤ u ≤ ``highest``,
    with noise ``inflate`` times as strong, then a step of Heun's method; the last step is Euler's. Two evaluations a step, one
    in the last."""
    if grid.alpha[0] == 0:
        raise RecipeError("Heun's method in σ/α cannot start where a path has no signal: use the path edm, or dpm++2m")
    x = x / grid.alpha[0]
    u = [s / a for a, s in grid.levels]
    for i in range(grid.steps):
        now, then = u[i], u[i + 1]
        if churn and lowest <= now <= highest:
            raised = now * (1 + min(churn / grid.steps, math.sqrt(2) - 1))
            x = x.add(normal(), alpha=inflate * math.sqrt(raised**2 - now**2))
            now = raised
        data = denoise(x, 1.0, now)
        if watch:
            watch(i, grid.alpha[i] * x, data)
        slope = (x - data).div_(now)
        ahead = torch.add(x, slope, alpha=then - now)
        if then:
            slope.add_((ahead - denoise(ahead, 1.0, then)).div_(then))
            ahead = torch.add(x, slope, alpha=0.5 * (then - now))
        x = ahead
    x = grid.alpha[-1] * x
    if watch:
        watch(grid.steps, x, x)
    return x


def consistency(denoise: Denoise, x: Tensor, grid: Grid, normal: Normal, *, watch: Watch | None = None) -> Tensor:
    """x_s = α_s D + σ_s z: where D is the end of the flow from x_t every node is right by itself, and one step is enough. A
    posterior mean has too little variance for that: of normal data half is left after many steps."""
    return _follow(denoise, x, grid, normal, lambda i: (0.0, grid.alpha[i + 1], grid.sigma[i + 1]), watch)
