"""Which noise goes with which data.

Flow matching may pair them at random, or so that little has to be moved: minibatch optimal transport (Tong et al. 2023,
arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772), which makes paths straighter.

With conditions c the plain version is wrong: it gives each c noise from its own corner, p(ε | c) ≠ N(0, 1), while samples are
drawn from all of it. Here noise keeps the condition that it was dealt with, and pairs of different conditions cost more:
infinitely much where conditions are categories, so that coupling happens within each, and ``weight`` times their squared
distance where they are numbers (Cheng & Schwing 2025, arXiv:2503.10636).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError, did_you_mean
from pushforward.core.random import Draws

_APART = 1e6  # a pair across categories, in units of the largest cost


def costs(
    data: Tensor, noise: Tensor, levels: Tensor | None = None, numbers: Tensor | None = None, weight: float = 1.0
) -> Tensor:
    """Squared distances (B, B) between rows of ``data`` and of ``noise``, which was dealt with the same rows of conditions:
    ``levels`` (B, L) of categories, ``numbers`` (B, M) standardised."""
    cost = _squared(data.flatten(1), noise.flatten(1))
    if numbers is not None and numbers.shape[1]:
        cost = cost + weight * data[0].numel() * _squared(numbers.to(cost.dtype), numbers.to(cost.dtype))
    if levels is not None and levels.shape[1]:
        different = (levels[:, None] != levels[None]).any(2)
        cost = cost + _APART * cost.max() * different
    return cost


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp(min=0)


def independent(cost: Tensor, own: slice, draws: Draws) -> Tensor:
    """As they come."""
    return torch.arange(len(cost), device=cost.device)[own]


def exact(cost: Tensor, own: slice, draws: Draws) -> Tensor:
    """The assignment of least cost: for each row of data the row of noise, a permutation. O(B³), on the CPU."""
    from scipy.optimize import linear_sum_assignment

    _, column = linear_sum_assignment(cost.detach().double().cpu().numpy())
    return torch.as_tensor(column, device=cost.device)[own]


def sinkhorn(cost: Tensor, own: slice, draws: Draws, *, temperature: float = 0.05, steps: int = 100) -> Tensor:
    """For each row of data a row of noise drawn from the plan of entropic transport (Cuturi 2013, arXiv:1306.0895), in
    logarithms.

    ``temperature`` is relative to the mean cost within conditions; below 0.01 more steps are needed.
    """
    within = cost[cost < _APART * 0.5 * cost.max()] if bool((cost > 0).any()) else cost
    scaled = -cost.detach().double() / (temperature * within.double().mean().clamp(min=1e-12))
    f = torch.zeros(len(cost), dtype=torch.float64, device=cost.device)
    g = torch.zeros_like(f)
    for _ in range(steps):
        g = -(scaled + f[:, None]).logsumexp(0)
        f = -(scaled + g).logsumexp(1)
    return draws.categorical((scaled + g)[own])


Coupling = Callable[[Tensor, slice, Draws], Tensor]  # costs (B, B) → for each row of data in the slice, its row of noise

COUPLINGS: dict[str, Coupling] = {"independent": independent, "ot": exact, "sinkhorn": sinkhorn}


def coupling_named(name: str) -> Coupling:
    """The coupling of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in COUPLINGS:
        raise RecipeError(f"no coupling is called '{name}': {did_you_mean(name, COUPLINGS)}")
    return COUPLINGS[name]
