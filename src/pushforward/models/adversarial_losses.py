"""What the two players of a GAN minimise, as values: functions of the critic's scores, and penalties on its slope.

With r = D(y) on real examples, f = D(G(z)) on generated ones, s(t) = log(1 + eᵗ), every loss (B,):

| objective | critic | generator | source |
|---|---|---|---|
| minimax | s(−r) + s(f) | −s(f) = log(1 − σ(f)) | Goodfellow et al. 2014, arXiv:1406.2661, equation 1 |
| non-saturating | s(−r) + s(f) | s(−f) | the same, section 3 |
| hinge | max(0, 1 − r) + max(0, 1 + f) | −f | Miyato et al. 2018, arXiv:1802.05957 |
| least-squares | ½(r − 1)² + ½f² | ½(f − 1)² | Mao et al. 2017, arXiv:1611.04076 |
| relativistic | s(f − r) | s(r − f) | Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441 |
| wasserstein | f − r | −f | Arjovsky et al. 2017, arXiv:1701.07875 |

Relativistic and Wasserstein look at differences only: a constant added to D changes nothing. A penalty is a weight times a
price of the slope ‖∇D‖² at certain places:

| penalty | places | price | source |
|---|---|---|---|
| penalty | u y + (1 − u) G(z), u ~ U(0, 1) | (‖∇D‖ − 1)² | Gulrajani et al. 2017, arXiv:1704.00028 |
| r1 | y | ½‖∇D‖² | Mescheder et al. 2018, arXiv:1801.04406 |
| r2 | G(z) | ½‖∇D‖² | the same |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scores of real and of generated examples, each (B,), to a loss (B,)."""


@dataclass(frozen=True)
class Objective:
    """The losses of both players. ``gap`` is the name under which D(real) − D(fake) is logged.

    ``paired`` says that the generator's loss looks at the scores of real examples too.
    """

    critic: Loss
    generator: Loss
    paired: bool = False
    gap: str = "gap"


def _told_apart(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real) + softplus(fake)


def _not_found_out(real: Tensor, fake: Tensor) -> Tensor:
    return -softplus(fake)


def _believed(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-fake)


def _beyond_margins(real: Tensor, fake: Tensor) -> Tensor:
    return relu(1 - real) + relu(1 + fake)


def _score(real: Tensor, fake: Tensor) -> Tensor:
    return -fake


def _one_and_nought(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - 1).square() + fake.square())


def _one(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (fake - 1).square()


def _pair(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(fake - real)


def _turned_pair(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(real - fake)


def _gap(real: Tensor, fake: Tensor) -> Tensor:
    return fake - real


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(_told_apart, _not_found_out),
    "non-saturating": Objective(_told_apart, _believed),
    "hinge": Objective(_beyond_margins, _score),
    "least-squares": Objective(_one_and_nought, _one),
    "relativistic": Objective(_pair, _turned_pair, paired=True),
    "wasserstein": Objective(_gap, _score, gap="wasserstein"),
}


def objective(name: str) -> Objective:
    """The objective of that name; ValueError names the known ones."""
    if name not in OBJECTIVES:
        raise ValueError(f"found loss {name!r}: expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


@dataclass(frozen=True)
class Penalty:
    """``weight`` × ``price``(‖∇D‖²) at ``place``: real, fake or between."""

    name: str
    place: str
    weight: float
    price: Callable[[Tensor], Tensor]


def gradient_penalty(weight: float) -> Penalty:
    """Slopes of 1 on the lines between real and generated examples."""
    return Penalty("penalty", "between", weight, _to_one)


def r1(weight: float) -> Penalty:
    """Slopes of 0 at real examples."""
    return Penalty("r1", "real", weight, _to_zero)


def r2(weight: float) -> Penalty:
    """Slopes of 0 at generated examples."""
    return Penalty("r2", "fake", weight, _to_zero)


def _to_one(square: Tensor) -> Tensor:
    # the root has no slope at 0, and a critic may be flat somewhere
    return (square.clamp(min=torch.finfo(square.dtype).tiny).sqrt() - 1).square()


def _to_zero(square: Tensor) -> Tensor:
    return 0.5 * square
