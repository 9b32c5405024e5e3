"""Entropic optimal transport between weighted points: Sinkhorn's iterations, safe for small ε (Cuturi 2013, arXiv:1306.0895).

    OT_ε(a, b) = min over plans P with row sums a and column sums b of  ⟨P, C⟩ + ε KL(P | a bᵀ)
    P = a bᵀ exp((f ⊕ g − C)/ε),      OT_ε = ⟨a, f⟩ + ⟨b, g⟩  at the optimum

One iteration makes the rows of P sum to a, then its columns to b. In the log domain that costs 2NM exponentials; here the
potentials are absorbed in a kernel K = a bᵀ exp((f ⊕ g − C)/ε), whose scalings u, v take two matrix-vector products instead:

    u = a / K v,    v = b / Kᵀ u,    P = diag(u) K diag(v)

Near the end both updates are over-relaxed, u ← u^{1−ω} (a / K v)^ω, with ω from the contraction that is seen (Thibault et al.
2017, arXiv:1711.01851): with small ε that saves most of the iterations. Where a scaling leaves e^{±100} (or a sum is nothing,
as can be at first), log u and log v move into f and g, an exact step in the log domain follows, and K is made anew (Schmitzer
2019, arXiv:1610.06519). What K had lost by then is below e^{−200} of the whole, so the result is that of the log domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GROWTH = 100.0
"""The largest |log u| and |log v|."""
_NOTHING = -400.0
"""An exponent below is as good as −∞ until the next absorption; the entry would only be a slow subnormal number."""
_ROUND = 10
"""Iterations between looks at the error."""
_MOST = 0.99999
"""The largest contraction that over-relaxation reckons with."""
_NEAR = 0.03
"""The error below which iterations are over-relaxed: its theory is local."""


@dataclass(frozen=True)
class Potentials:
    """The dual solution of P problems in the unit of the cost: ``f`` (P, N) and ``g`` (P, M).

    ``error`` (P,) is Σ_i |Σ_j P_ij − a_i|, the mass that misses its row (columns are exact); ``iterations`` (P,) int64.
    """

    f: Tensor
    g: Tensor
    error: Tensor
    iterations: Tensor


def sinkhorn_potentials(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, tolerance: float = 1e-6, iterations: int = 10_000
) -> Potentials:
    """Potentials of each problem: finite ``cost`` (P, N, M), positive ``a`` (P, N) and ``b`` (P, M) of sum 1, ``epsilon`` (P,).

    Each problem stops once its error is at most ``tolerance``, or after ``iterations`` (to a round of ten). In float32 errors
    below about 1e-5 are out of reach. O(iterations · P · N · M) time, O(P · N · M) memory.
    """
    problems = len(cost)
    # over ε, as all that follows
    cost, f, g = cost / epsilon[:, None, None], torch.zeros_like(a), torch.zeros_like(b)
    error = a.new_full((problems,), torch.inf)
    count = torch.zeros(problems, dtype=torch.int64, device=a.device)
    live = torch.arange(problems, device=a.device)
    while len(live):
        some = slice(None) if len(live) == problems else live
        C, alpha, beta = cost[some], a[some, None, :], b[some, None, :]
        g_now = g[some, None, :]
        f_now, K = _absorbed(C, alpha, beta.log(), g_now)
        u, v = torch.ones_like(alpha), torch.ones_like(beta)
        kept: tuple[Tensor, ...] = u, v, error[some]
        omega = torch.ones_like(kept[2])[:, None, None]
        count[live] += 1
        going = torch.ones(len(live), dtype=torch.bool, device=a.device)
        while True:
            for _ in range(_ROUND):
                u = u * (alpha / (v @ K.mT) / u) ** omega
                v = v * (beta / (u @ K) / v) ** omega
            exact = beta / (u @ K)
            left = (u * (exact @ K.mT) - alpha).abs().sum((1, 2))
            sound = (u.log().abs().amax((1, 2)) < _GROWTH) & (v.log().abs().amax((1, 2)) < _GROWTH) & left.isfinite()
            better = _relaxation((left / kept[2]) ** (1 / _ROUND), omega[:, 0, 0])
            omega = torch.where(sound & (left < _NEAR), better, 1.0)[:, None, None]
            kept = _chosen(sound, (u, exact, left), kept)
            count[live] += _ROUND * going
            ends = going & ((kept[2] <= tolerance) | (count[live] >= iterations))
            f[live[ends]], g[live[ends]] = (f_now + kept[0].log())[ends, 0], (g_now + kept[1].log())[ends, 0]
            error[live[ends]] = kept[2][ends]
            going &= ~ends
            # problems that have ended go on, unread, until half of them have: making the batch anew costs more
            if 2 * int(going.sum()) <= len(live) or bool((going & ~sound).any()):
                break
        # an exact half-step, after which no column of the next kernel is empty
        f_now, live = (f_now + kept[0].log())[going], live[going]
        g[live] = -torch.logsumexp((f_now + alpha.log()[going]).mT - C[going], 1)
    return Potentials(f * epsilon[:, None], g * epsilon[:, None], error, count)


def symmetric_potential(
    cost: Tensor, a: Tensor, epsilon: Tensor, tolerance: float = 1e-6, iterations: int = 1000
) -> tuple[Tensor, Tensor]:
    """f (P, N) = g of points with themselves, for symmetric ``cost`` (P, N, N) ≥ 0 and ``a`` (P, N), and the errors (P,).

    f ← (f + T f)/2, where T f makes the rows sum to a (Feydy et al. 2019, arXiv:1810.08278, section 3.3). Where exp(−C/ε) is
    positive definite, as for |x − y| and its square, errors halve at least with each step, however small ε is: about 20 do.
    O(iterations · P · N²) time, O(P · N²) memory.
    """
    cost, log_a, f = cost / epsilon[:, None, None], a.log(), torch.zeros_like(a)
    for _ in range(iterations):
        other = -torch.logsumexp((f + log_a)[:, None, :] - cost, 2)
        error = (a * torch.expm1(f - other)).abs().sum(1)
        if bool((error <= tolerance).all()):
            break
        f = (f + other) / 2
    return f * epsilon[:, None], error


def _relaxation(rate: Tensor, omega: Tensor) -> Tensor:
    """The best ω for the contraction that ``rate``, the error's factor an iteration at the present ``omega``, gives away.

    Without relaxation errors fall as ηᵏ; with it the rate λ solves (λ + ω − 1)² = λ ω² η, and ω = 2/(1 + √(1 − η)) is best,
    with λ = ω − 1. A rate at that bound or below tells nothing of η; one above 1 says that this was too much.
    """
    eta = ((rate + omega - 1) ** 2 / (rate * omega**2)).clamp(max=_MOST)
    best = 2 / (1 + (1 - eta).sqrt())
    return torch.where(rate < 1, torch.where(rate > omega - 1, torch.maximum(best, omega), omega), torch.ones_like(omega))


def _absorbed(C: Tensor, a: Tensor, log_b: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """f (P, 1, N) that makes the rows right for g (P, 1, M), and the kernel at both, with one exponential an entry."""
    exponent = (g + log_b) - C
    top = exponent.amax(2, keepdim=True)
    exponent -= top
    K = exponent.masked_fill_(exponent < _NOTHING, -torch.inf).exp_()
    sums = K.sum(2, keepdim=True)
    return -(top + sums.log()).mT, K.mul_(a.mT / sums)


def _chosen(first: Tensor, ones: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """For each problem what stands in ``ones`` where ``first`` (P,), else in ``others``."""
    return tuple(
        torch.where(first.view(-1, *[1] * (one.dim() - 1)), one, other) for one, other in zip(ones, others, strict=True)
    )
