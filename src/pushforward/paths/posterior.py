"""The reverse of one step of a Gaussian path, and the bound of log p(x_0) made of such steps (Ho et al. 2020,
arXiv:2006.11239).

For s before t, x_t = q x_s + noise of variance v with q = α_t/α_s, v = σ_t² − q² σ_s²:

    q(x_s | x_t, x_0) = N(q (σ_s²/σ_t²) x_t + (α_s v/σ_t²) x_0,  σ_s² v/σ_t²)
    −log p(x_0) ≤ KL(q(x_1 | x_0) ‖ N(0, s²)) + Σ KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) − E log p(x_0 | x_first)

A model's p(x_s | x_t) has that mean with its own guess of x_0, and a variance between the posterior's and v (Nichol & Dhariwal
2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pushforward.core.shapes import over, per_example
from pushforward.paths.schedule import Schedule


def posterior(schedule: Schedule, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shares of x_t and x_0 in the mean of q(x_s | x_t, x_0), its variance, and v: each of the shape of s < t."""
    q = schedule.alpha(t) / schedule.alpha(s)
    after, before = schedule.sigma(s).square(), schedule.sigma(t).square()
    v = before - q.square() * after
    return q * after / before, schedule.alpha(s) * v / before, after * v / before, v


def step_bound(
    schedule: Schedule, s: Tensor, t: Tensor, y: Tensor, x: Tensor, guess: Tensor, spread: Tensor | None = None
) -> Tensor:
    """The term (B,), in nats, of the step from x (B, …) at t (B,) to s (B,), where y is x_0 and ``guess`` the model's: a
    divergence, or where s is clean −log p(y | x). ``spread`` (B, …) in [0, 1] says where log variances lie between the
    posterior's and v; v is taken without it."""
    share, add, least, most = (over(p.to(y.dtype), y) for p in posterior(schedule, s.double(), t.double()))
    clean = over(s == schedule.start, y)
    # where s is clean the posterior is a point: the model's variance is between v and itself
    low = torch.where(clean, most, least).clamp(min=torch.finfo(y.dtype).tiny).log()
    log_variance = most.log().expand_as(y) if spread is None else low + spread * (most.log() - low)
    apart = (add * (y - guess)).square()
    divergence = 0.5 * (log_variance - low + torch.expm1(low - log_variance) + apart * (-log_variance).exp())
    likelihood = log_normal(y, share * x + add * guess, log_variance)
    return per_example(torch.where(clean, -likelihood, divergence))


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, e^{log_variance}) of each coordinate."""
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))


def end_bound(schedule: Schedule, y: Tensor) -> Tensor:
    """KL(q(x | y) ‖ N(0, s²)) (B,) at the noisy end, s² = α² + σ²."""
    end = torch.tensor(schedule.stop, dtype=torch.float64)
    alpha2, sigma2 = float(schedule.alpha(end)) ** 2, float(schedule.sigma(end)) ** 2
    total = alpha2 + sigma2
    return per_example(0.5 * (alpha2 * y.square() + sigma2) / total - 0.5 - 0.5 * math.log(sigma2 / total))
