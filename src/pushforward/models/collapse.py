"""What goes wrong with a generator, measured on examples y and generated ones, and what a critic knows of their distance.

* coverage (Naeem et al. 2020, arXiv:2002.09797): the share of real examples with a generated one nearer than their k-th
  nearest real neighbour. Of two sets of N from one distribution it is 1 − (N − 1)…(N − k) / ((2N − 1)…(2N − k)) ≈ 1 − 2^(−k).
* diversity: the mean distance of two generated examples over that of two real ones; 1 where all is well, 0 where all are alike.
* push: the mean of |∂ℓ_G/∂D(G(z))|, what reaches the generator of the critic's slope.

For the exact distance of two sets with cost c_ij = ‖y_i − y'_j‖ (Kantorovich) every pair of functions with u_i + v_j ≤ c_ij has
mean(u) + mean(v) ≤ W₁. The scores of a critic give such a pair when divided by L = max_ij (D(y_i) − D(y'_j)) / c_ij.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.metrics import Estimate
from pushforward.models.adversarial_losses import Objective

_NEIGHBOURS = 5
_COVERED, _DIVERSE, _PUSH, _APART = 0.6, 0.5, 0.05, 0.999
_ROWS = 2000  # of each set that are looked at


@dataclass(frozen=True)
class DualBound:
    """``distance``: mean(u) + mean(v) with its standard error; never above the exact W₁ of the two sets.

    ``lipschitz``: the L that the scores were divided by, the critic's steepest rise from a generated to a real example.
    """

    distance: Estimate
    lipschitz: float


def dual_bound(real: Tensor, fake: Tensor, real_scores: Tensor, fake_scores: Tensor) -> DualBound:
    """From y and generated y (N and M, …) and their scores. At most 2000 rows of each are looked at.

    The error is that of the mean scores, with L held fixed; 0 / 0, a critic that does not rise, is 0.
    """
    y, other = (part.flatten(1).double()[:_ROWS] for part in (real, fake))
    r, f = (scores.double()[:_ROWS] for scores in (real_scores, fake_scores))
    cost, rise = torch.cdist(y, other), r[:, None] - f
    steepest = float((rise / cost).masked_fill(cost == 0, 0.0).max().clamp(min=0))
    error = float((r.var() / len(r) + f.var() / len(f)).sqrt())
    scale = 1 / steepest if steepest > 0 else 0.0
    return DualBound(Estimate(scale * float(r.mean() - f.mean()), scale * error), steepest)


def coverage(real: Tensor, fake: Tensor, neighbours: int = _NEIGHBOURS) -> float:
    """Share of ``real`` (N, …) with one of ``fake`` (M, …) nearer than its ``neighbours``-th neighbour, N > neighbours."""
    y, other = (part.flatten(1).double() for part in (real, fake))
    reach = torch.cdist(y, y).kthvalue(neighbours + 1, dim=1).values  # the nearest of all is itself
    return float((torch.cdist(y, other).min(1).values < reach).double().mean())


def diversity(real: Tensor, fake: Tensor) -> float:
    """Mean distance of two of ``fake`` (M, …) over that of two of ``real`` (N, …); 1 where the real ones are all alike."""
    apart = [float(torch.nn.functional.pdist(part.flatten(1).double()).mean()) for part in (real, fake)]
    return apart[1] / apart[0] if apart[0] > 0 else 1.0


def symptoms(real: Tensor, fake: Tensor, real_scores: Tensor, fake_scores: Tensor, objective: Objective) -> list[str]:
    """Warnings from y and generated y (N, …) and their scores (N,); N of at least 200 says something, 2000 are looked at."""
    real, fake, real_scores, fake_scores = (part[:_ROWS] for part in (real, fake, real_scores, fake_scores))
    told = []
    if len(real) > _NEIGHBOURS and (share := coverage(real, fake)) < _COVERED:
        told.append(
            f"modes are missing: only {share:.0%} of the examples have a sample near them (about 97% is usual); "
            "train longer, use a larger batch_size, or loss=relativistic, or wgan-gp"
        )
    if len(real) > 1 and (spread := diversity(real, fake)) < _DIVERSE:
        told.append(
            f"samples are nearly alike: their distances are {spread:.0%} of those of the data; "
            "halve the learning rate, raise r1 and r2 (or penalty), or use a larger latent"
        )
    with torch.enable_grad():
        at = fake_scores.detach().requires_grad_()
        (slope,) = torch.autograd.grad(objective.generator(real_scores.detach(), at).sum(), at)
    push = float(slope.abs().mean())
    apart = float((real_scores[:, None] > fake_scores).double().mean())
    if apart > _APART and push < _PUSH:
        told.append(
            f"the critic has won: it tells {apart:.1%} of pairs apart and lets {push:.1%} of its slope through to the "
            "generator; use loss=non-saturating or relativistic, raise r1, or lower critic_steps"
        )
    return told
