"""Estimators of E f(z) and of its gradient to the parameters of z's distribution, from random numbers that are given.

    ∇ E f(z),   z ~ p_θ

| function | gradient | bias |
|---|---|---|
| ``reparameterised`` | f′(z) · ∂z/∂θ, z = μ + σ ε: f must be differentiable | none |
| ``relaxed`` (Gumbel-softmax) | through z̃ = softmax((log p + g)/τ), where f must be known too | falls with τ, variance rises |
| ``straight_through`` | ∂f/∂z at the category, then as of z̃ | yes |
| ``score_function`` | (f(z) − b) ∇ log p_θ(z), whatever f is | none, where b does not depend on z |
| ``leave_one_out`` | the same with S ≥ 2 draws, b the mean of the others | none |

Every estimator returns one number for each row, whose value is an unbiased estimate of E f(z) (of ``relaxed``: of f at the
relaxed z) and whose gradient is the estimate of ∇ E f(z); f's own parameters get theirs too. Categories: logits (…, K), f takes
one-hot vectors, or relaxed ones, with all of the logits' dimensions, and gives values (…) without those that belong to one
example, which is how it is known what they are. Each costs one call of f, and O(numbers) beside it.

Sources: Maddison et al. 2014 (arXiv:1411.0030) for Gumbel-max; Jang et al. 2016 (arXiv:1611.01144) and Maddison et al. 2016
(arXiv:1611.00712) for the relaxation; Bengio et al. 2013 (arXiv:1308.3432) for straight-through; Williams 1992 for the score
function; Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!") for leave-one-out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel numbers −log(−log u) of uniform ones in [0, 1), finite for every u. O(numbers)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(tiny, 1 - torch.finfo(uniform.dtype).eps / 2).log()).log()


def gumbel_max(logits: Tensor, uniform: Tensor) -> Tensor:
    """Categories drawn from softmax(``logits``) (…, K) with ``uniform`` numbers of that shape: int64 (…). O(numbers)."""
    return (logits + gumbel(uniform)).argmax(-1)


def gumbel_softmax(logits: Tensor, uniform: Tensor, temperature: float | Tensor) -> Tensor:
    """softmax((logits + g)/τ) (…, K): near a corner, the category that ``gumbel_max`` draws with the same numbers, as the
    ``temperature`` τ > 0 goes to 0. O(numbers)."""
    return ((logits + gumbel(uniform)) / temperature).softmax(-1)


def one_hot(logits: Tensor, uniform: Tensor) -> Tensor:
    """The categories of ``gumbel_max`` as one-hot vectors (…, K), without gradient. O(numbers)."""
    return F.one_hot(gumbel_max(logits, uniform), logits.shape[-1]).to(logits.dtype)


def log_mass(logits: Tensor, z: Tensor) -> Tensor:
    """log p of each one-hot ``z`` (…, K) under softmax(``logits``): (…). O(numbers)."""
    return (logits.log_softmax(-1) * z).sum(-1)


def reparameterised(f: Function, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """f(μ + σ ε) with standard normal ``noise`` ε, all of one shape (Kingma & Welling 2013, arXiv:1312.6114). One call of f."""
    return f(mean + log_std.exp() * noise)


def normal_score_function(f: Function, mean: Tensor, log_std: Tensor, noise: Tensor, baseline: float | Tensor = 0.0) -> Tensor:
    """The score function estimator for z = μ + σ ε: f sees z as a number, and need not be differentiable. One call of f."""
    z = (mean + log_std.exp() * noise).detach()
    log_p = -0.5 * ((z - mean) * (-log_std).exp()).square() - log_std
    return _with_score(f(z), log_p, baseline)


def relaxed(f: Function, logits: Tensor, uniform: Tensor, temperature: float | Tensor) -> Tensor:
    """f at a point of the Gumbel-softmax. One call of f."""
    return f(gumbel_softmax(logits, uniform, temperature))


def straight_through(f: Function, logits: Tensor, uniform: Tensor, temperature: float | Tensor) -> Tensor:
    """f at a category, with the gradient of the Gumbel-softmax of the same numbers. One call of f."""
    soft = gumbel_softmax(logits, uniform, temperature)
    return f(one_hot(logits, uniform) + soft - soft.detach())


def score_function(f: Function, logits: Tensor, uniform: Tensor, baseline: float | Tensor = 0.0) -> Tensor:
    """f at a category, with the gradient (f(z) − ``baseline``) ∇ log p(z) (REINFORCE). One call of f."""
    z = one_hot(logits, uniform)
    return _with_score(f(z), log_mass(logits, z), baseline)


def leave_one_out(f: Function, logits: Tensor, uniform: Tensor) -> Tensor:
    """The mean of S score function estimates, ``uniform`` (S, …, K), each with the mean of the other f as its baseline.

    f takes S draws at once, (S, …, K). One call of f. Raises ValueError where there is one draw only.
    """
    draws = len(uniform)
    if draws < 2:
        raise ValueError(f"found {draws} draws: leave-one-out needs 2 or more")
    z = one_hot(logits.expand(uniform.shape), uniform)
    value = f(z)
    fixed = value.detach()
    others = (fixed.sum(0) - fixed) / (draws - 1)
    return _with_score(value, log_mass(logits, z), others).mean(0)


def _with_score(value: Tensor, log_p: Tensor, baseline: float | Tensor) -> Tensor:
    """``value``, and the gradient of log p weighed with how much more than ``baseline`` it is."""
    if log_p.dim() > value.dim():  # independent variables of one example
        log_p = log_p.flatten(value.dim()).sum(-1)
    return value + (value.detach() - baseline) * (log_p - log_p.detach())
