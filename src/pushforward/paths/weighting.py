"""How much an error counts at each time, and how often each time is seen.

Weights are relative to the error of ``v`` on the unit circle, c ε − r x_0 with c = α/s, r = σ/s: an error e of it is an error r
e of the data and c e of the noise, so that the weights below are finite at both ends of time. A network that predicts something
else, P with determinant Δ_P, errs s/Δ_P times as much in v as in P.

| weighting | of v | what it is |
|---|---|---|
| ``noise`` | c² | DDPM's simple loss (Ho et al. 2020, arXiv:2006.11239) |
| ``data`` | r² | |
| ``v`` | 1 | SNR + 1 on data; EDM's for data of variance 1 (Karras et al. 2022, arXiv:2206.00364) |
| ``velocity`` | (Δ/s)² | flow matching's (Lipman et al. 2022, arXiv:2210.02747) |
| ``score`` | (c/σ)² | |
| ``likelihood`` | −λ' c²/2 | g²/2 on the score: the bound of −log p (Song et al. 2021, arXiv:2101.09258) |
| ``min-snr`` | min(c², γ r²) | Hang et al. 2023, arXiv:2303.09556 |
| ``p2`` | c²/(k + SNR)^γ | Choi et al. 2022, arXiv:2204.00227 |

``likelihood`` grows without bound towards both ends. Times are drawn by maps of a uniform number, stratified ones included.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError, did_you_mean
from pushforward.paths.prediction import determinant
from pushforward.paths.schedule import Schedule
from pushforward.paths.table import Table

Weighting = Callable[[Schedule, Tensor], Tensor]
Sampling = Callable[[Schedule, Tensor], Tensor]
_EDGE = 1e-6  # quantiles stay finite


def _circle(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α², σ² and s²."""
    alpha2, sigma2 = schedule.alpha(t).square(), schedule.sigma(t).square()
    return alpha2, sigma2, alpha2 + sigma2


def noise(schedule: Schedule, t: Tensor) -> Tensor:
    alpha2, _, s2 = _circle(schedule, t)
    return alpha2 / s2


def data(schedule: Schedule, t: Tensor) -> Tensor:
    _, sigma2, s2 = _circle(schedule, t)
    return sigma2 / s2


def v(schedule: Schedule, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def velocity(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.delta(t).square() / _circle(schedule, t)[2]


def score(schedule: Schedule, t: Tensor) -> Tensor:
    alpha2, sigma2, s2 = _circle(schedule, t)
    return alpha2 / (s2 * sigma2)


def likelihood(schedule: Schedule, t: Tensor) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return schedule.delta(t) * alpha / (sigma * (alpha.square() + sigma.square()))


def min_snr(gamma: float = 5.0) -> Weighting:
    def weight(schedule: Schedule, t: Tensor) -> Tensor:
        alpha2, sigma2, s2 = _circle(schedule, t)
        return torch.minimum(alpha2, gamma * sigma2) / s2

    return weight


def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    def weight(schedule: Schedule, t: Tensor) -> Tensor:
        alpha2, sigma2, s2 = _circle(schedule, t)
        # c² / (k + α²/σ²)^γ
        return alpha2 / s2 * (sigma2 / (k * sigma2 + alpha2)) ** gamma

    return weight


WEIGHTINGS: dict[str, Weighting] = {
    "noise": noise,
    "data": data,
    "v": v,
    "velocity": velocity,
    "score": score,
    "likelihood": likelihood,
    "min-snr": min_snr(),
    "p2": p2(),
}


def weighting_named(name: str) -> Weighting:
    """The weighting of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in WEIGHTINGS:
        raise RecipeError(f"no weighting is called '{name}': {did_you_mean(name, WEIGHTINGS)}")
    return WEIGHTINGS[name]


def weight(weighting: Weighting, prediction: str, schedule: Schedule, t: Tensor) -> Tensor:
    """What a squared error of the ``prediction`` counts at times t."""
    if prediction == "score":  # Δ = −α/σ; written out so that σ = 0 gives 0, not 0/0
        alpha2, sigma2, s2 = _circle(schedule, t)
        return weighting(schedule, t) * s2 * sigma2 / alpha2
    return weighting(schedule, t) * _circle(schedule, t)[2] / determinant(prediction, schedule, t).square()


# times


def uniform(schedule: Schedule, u: Tensor) -> Tensor:
    """Evenly, from ``least`` on; of a table, its own T times."""
    inner = getattr(schedule, "inner", schedule)
    if isinstance(inner, Table):
        return (u * inner.steps).floor().clamp(max=inner.steps - 1).add(1) / inner.steps
    return schedule.least + (schedule.stop - schedule.least) * u


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Sampling:
    """logit t ~ N(mean, std²) (Esser et al. 2024, arXiv:2403.03206)."""

    def times(schedule: Schedule, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
        t = (mean + std * z).sigmoid()
        return schedule.start + (schedule.stop - schedule.start) * t

    return times


def mode(scale: float = 1.29) -> Sampling:
    """t = 1 − u − scale (cos²(πu/2) − 1 + u): heavier in the middle for a scale above 0, and monotone for −1 … 2/(π − 2)
    (Esser et al. 2024)."""
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"found the scale {scale}: expected it in [-1, 1.75]")

    def times(schedule: Schedule, u: Tensor) -> Tensor:
        t = 1 - u - scale * ((0.5 * math.pi * u).cos().square() - 1 + u)
        return schedule.least + (schedule.stop - schedule.least) * t

    return times


def log_normal(mean: float = -0.5, std: float = 1.2) -> Sampling:
    """log σ/α ~ N(mean, std²) (Karras et al. 2022, whose data have deviation ½, so that their mean is log ½ less)."""

    def times(schedule: Schedule, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
        return schedule.time(-2 * (mean + std * z)).clamp(schedule.least, schedule.stop)

    return times


SAMPLINGS: dict[str, Sampling] = {
    "uniform": uniform,
    "logit-normal": logit_normal(),
    "mode": mode(),
    "log-normal": log_normal(),
}


def sampling_named(name: str) -> Sampling:
    """The distribution of times of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in SAMPLINGS:
        raise RecipeError(f"no distribution of times is called '{name}': {did_you_mean(name, SAMPLINGS)}")
    return SAMPLINGS[name]
