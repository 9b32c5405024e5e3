"""What a network predicts of x = α x_0 + σ ε, and every such thing from every other.

A prediction is P = a x_0 + b ε. Together with x it tells both, with Δ = α b − σ a:

    x_0 = (b x − σ P) / Δ,    ε = (α P − a x) / Δ

| name | a | b | Δ | source |
|---|---|---|---|---|
| ``noise`` | 0 | 1 | α | Ho et al. 2020, arXiv:2006.11239 |
| ``data`` | 1 | 0 | −σ | |
| ``v`` | −σ/s | α/s | s | Salimans & Ho 2022, arXiv:2202.00512; Karras et al. 2022, arXiv:2206.00364 |
| ``velocity`` | α' | σ' | α σ' − σ α' | Lipman et al. 2022, arXiv:2210.02747 |
| ``score`` | 0 | −1/σ | −α/σ | Song et al. 2020, arXiv:2011.13456 |

For data of variance 1, s² = α² + σ² is the variance of x, and ``v`` is what is left of P when all that x says by itself, in the
best linear guess, is known: a net of zeros is then right for normal data. −v is the network's output in EDM's preconditioning:
x_0 = (α/s²) x − (σ/s) v are its c_skip and c_out. Where Δ is zero the missing part is not told by P, and comes out finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import RecipeError, did_you_mean
from pushforward.core.shapes import over
from pushforward.paths.schedule import Schedule

Number = Any  # a float or a Tensor: the formulas are the same


@dataclass(frozen=True)
class Coefficients:
    """x_0 = skip · x + out · P and ε = noise_skip · x + noise_out · P, for one prediction at one or many times."""

    skip: Number
    out: Number
    noise_skip: Number
    noise_out: Number


def _noise(alpha: Number, sigma: Number, d_alpha: Number, d_sigma: Number) -> tuple[Number, Number]:
    return 0 * alpha, 1 + 0 * alpha


def _data(alpha: Number, sigma: Number, d_alpha: Number, d_sigma: Number) -> tuple[Number, Number]:
    return 1 + 0 * alpha, 0 * alpha


def _v(alpha: Number, sigma: Number, d_alpha: Number, d_sigma: Number) -> tuple[Number, Number]:
    s = (alpha**2 + sigma**2) ** 0.5
    return -sigma / s, alpha / s


def _velocity(alpha: Number, sigma: Number, d_alpha: Number, d_sigma: Number) -> tuple[Number, Number]:
    return d_alpha, d_sigma


def _score(alpha: Number, sigma: Number, d_alpha: Number, d_sigma: Number) -> tuple[Number, Number]:
    return 0 * alpha, -1 / _away(sigma)


PREDICTIONS: dict[str, Callable[..., tuple[Number, Number]]] = {
    "noise": _noise,
    "data": _data,
    "v": _v,
    "velocity": _velocity,
    "score": _score,
}


def _away(value: Number) -> Number:
    """``value`` kept away from zero, where it would divide."""
    if isinstance(value, Tensor):
        least = torch.full_like(value, torch.finfo(value.dtype).tiny ** 0.5)
        return torch.where(value.abs() < least, torch.where(value < 0, -least, least), value)
    return value if abs(value) > 1e-150 else (-1e-150 if value < 0 else 1e-150)


def prediction_named(name: str) -> Callable[..., tuple[Number, Number]]:
    """(α, σ, α', σ') → (a, b). Raises RecipeError with the nearest name where there is none."""
    if name not in PREDICTIONS:
        raise RecipeError(f"no prediction is called '{name}': {did_you_mean(name, PREDICTIONS)}")
    return PREDICTIONS[name]


def shares(name: str, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of the prediction at times t (any shape)."""
    return prediction_named(name)(schedule.alpha(t), schedule.sigma(t), schedule.d_alpha(t), schedule.d_sigma(t))


def determinant(name: str, schedule: Schedule, t: Tensor) -> Tensor:
    """Δ at times t: an error e of P is an error σ e/Δ of x_0 and α e/Δ of ε."""
    a, b = shares(name, schedule, t)
    return schedule.alpha(t) * b - schedule.sigma(t) * a


def coefficients(name: str, schedule: Schedule, t: Tensor) -> Coefficients:
    """How x_0 and ε follow from x and P at times t (any shape)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    a, b = shares(name, schedule, t)
    if name == "score":  # the limits at σ = 0 are taken by hand: P itself is infinite there
        down = _away(alpha)
        return Coefficients(1 / down, sigma.square() / down, 0 * sigma, -sigma)
    delta = _away(alpha * b - sigma * a)
    return Coefficients(b / delta, -sigma / delta, -a / delta, alpha / delta)


def to_pair(name: str, value: Tensor, x: Tensor, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 and ε (B, …) that the prediction ``value`` of x (B, …) at times t (B,) means."""
    c = coefficients(name, schedule, t)
    skip, out, noise_skip, noise_out = (over(v.to(x.dtype), x) for v in (c.skip, c.out, c.noise_skip, c.noise_out))
    return skip * x + out * value, noise_skip * x + noise_out * value


def from_pair(name: str, data: Tensor, noise: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """The prediction (B, …) that x_0 and ε (B, …) at times t (B,) make."""
    a, b = (over(v.to(data.dtype), data) for v in shares(name, schedule, t))
    return a * data + b * noise


def convert(value: Tensor, x: Tensor, source: str, target: str, schedule: Schedule, t: Tensor) -> Tensor:
    """The prediction ``source`` (B, …) at x (B, …) and t (B,) as the prediction ``target``."""
    if source == target:
        return value
    return from_pair(target, *to_pair(source, value, x, schedule, t), schedule, t)
