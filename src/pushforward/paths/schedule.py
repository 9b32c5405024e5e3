"""Schedules of Gaussian paths x_t = α(t) x_0 + σ(t) ε, from data at ``start`` to noise at ``stop``.

    log-SNR  λ = 2 log α/σ  falls with t, and ``time`` is its inverse
    Δ = α σ' − σ α' > 0,    −λ' = 2Δ / (ασ),    dx = (α'/α) x dt + g dw with g² = −σ² λ'

A path is known by its λ(t) up to a scale of x: what one schedule calls (x, t), another calls (x s̃/s, t̃) with λ̃(t̃) = λ(t)
and s² = α² + σ². That is how a model trained on one is sampled on another.

| name | α | σ | source |
|---|---|---|---|
| ``rectified`` | 1 − t | t | Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747 |
| ``polynomial`` | (1 − t)ⁿ | 1 − (1 − t)ⁿ | Lipman et al. 2024, arXiv:2412.06264 |
| ``vp`` | e^{−B/2} | √(1 − e^{−B}) | Song et al. 2020, arXiv:2011.13456; the limit of DDPM's linear β |
| ``subvp`` | e^{−B/2} | 1 − e^{−B} | the same |
| ``ve`` | 1 | σ₀ (σ₁/σ₀)ᵗ | the same |
| ``edm`` | 1 | t | Karras et al. 2022, arXiv:2206.00364 |
| ``cosine`` | cos((t + s) π / (2 + 2s)), scaled to 1 at 0 | √(1 − α²) | Nichol & Dhariwal 2021, arXiv:2102.09672 |
| ``angle`` | cos(πt/2) | sin(πt/2) | Albergo et al. 2023, arXiv:2303.08797 |

with B(t) = β₀ t + (β₁ − β₀) t²/2. A discrete process is a ``Table`` (``table.py``), a schedule in another time is ``Warped`` or
``Shifted`` (``wrapped.py``), and all have their names in ``schedules.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Schedule(ABC):
    """α(t) falls and σ(t) rises while t (any shape) runs from ``start`` to ``stop``; λ runs from +∞ or much to little or −∞.

    ``regular`` says that α' and σ' are finite at both ends, σ(start) = 0 included, so that the velocity α' x_0 + σ' ε is.
    ``least`` is the smallest time to train at.
    """

    start: float = 0.0
    stop: float = 1.0
    least: float = 0.0
    regular: bool = True

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """dα/dt."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """dσ/dt."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The t at which the log-SNR is that."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = 2 log α/σ, ±∞ where σ or α is zero."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def delta(self, t: Tensor) -> Tensor:
        """Δ = α σ' − σ α'."""
        return self.alpha(t) * self.d_sigma(t) - self.sigma(t) * self.d_alpha(t)

    def clock(self, t: Tensor) -> Tensor:
        """t as networks are told it: in [0, 1], rising."""
        return ((t - self.start) / (self.stop - self.start)).clamp(0, 1)


def convert(x: Tensor, t: Tensor, source: Schedule, target: Schedule) -> tuple[Tensor, Tensor]:
    """(x (B, …), t (B,)) on the path of ``source`` as the (x, t) of ``target`` at equal log-SNR."""
    there = target.time(source.log_snr(t))
    before = (source.alpha(t).square() + source.sigma(t).square()).sqrt()
    after = (target.alpha(there).square() + target.sigma(there).square()).sqrt()
    return x * (after / before).view(-1, *(1,) * (x.dim() - 1)), there


class Rectified(Schedule):
    """α = 1 − t, σ = t: straight lines."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr).sigmoid()


class Polynomial(Schedule):
    """α = (1 − t)ⁿ, σ = 1 − (1 − t)ⁿ for n of 1 or more."""

    def __init__(self, power: float = 2.0) -> None:
        if not power >= 1:
            raise ValueError(f"found the power {power}: expected 1 or more")
        self.power = power

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) ** self.power

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.power * torch.log1p(-t))

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.power * (1 - t) ** (self.power - 1)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.d_alpha(t)

    def time(self, log_snr: Tensor) -> Tensor:
        # log α = log sigmoid(λ/2)
        return -torch.expm1(torch.nn.functional.logsigmoid(0.5 * log_snr) / self.power)


class VP(Schedule):
    """Variance preserving: β(t) rises linearly from ``low`` to ``high`` and B is its integral."""

    regular = False
    least = 1e-5

    def __init__(self, low: float = 0.1, high: float = 20.0) -> None:
        if not 0 < low <= high:
            raise ValueError(f"found β from {low} to {high}: expected 0 < low ≤ high")
        self.low, self.high = low, high

    def _beta(self, t: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * t

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.low + 0.5 * (self.high - self.low) * t)

    def _solved(self, integral: Tensor) -> Tensor:
        """t with B(t) = ``integral``."""
        root = (self.low**2 + 2 * (self.high - self.low) * integral).sqrt()
        return 2 * integral / (self.low + root)

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self._integral(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t) * self.alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return 0.5 * self._beta(t) * (-self._integral(t)).exp() / self.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self._integral(t)).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return self._solved(torch.nn.functional.softplus(-log_snr, threshold=50))


class SubVP(VP):
    """Less noise than the variance-preserving process of the same β at every t."""

    regular = True

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def d_sigma(self, t: Tensor) -> Tensor:
        return self._beta(t) * (-self._integral(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -self._integral(t) - 2 * self.sigma(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        # α = ρ σ = ρ (1 − α²) with ρ = e^{λ/2}; in 1/ρ, so that σ → 0 keeps its digits
        inverse = (-0.5 * log_snr).exp()
        minus = 0.5 * inverse  # α = √(1 + m²) − m
        return self._solved(2 * torch.asinh(minus))


class VE(Schedule):
    """Variance exploding: α = 1 and σ rises geometrically from ``low``, which is left in the data, to ``high``."""

    regular = False  # it never comes to σ = 0

    def __init__(self, low: float = 0.01, high: float = 50.0) -> None:
        if not 0 < low < high:
            raise ValueError(f"found σ from {low} to {high}: expected 0 < low < high")
        self.low, self.high = low, high

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.low * (math.log(self.high / self.low) * t).exp()

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.high / self.low) * self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.low)) / math.log(self.high / self.low)


class EDM(Schedule):
    """α = 1 and σ = t, trained between ``low`` and ``high``; networks are told log σ."""

    def __init__(self, low: float = 0.002, high: float = 80.0) -> None:
        if not 0 < low < high:
            raise ValueError(f"found σ from {low} to {high}: expected 0 < low < high")
        self.start, self.stop, self.least = low, high, low

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr).exp()

    def clock(self, t: Tensor) -> Tensor:
        return ((t.log() - math.log(self.start)) / math.log(self.stop / self.start)).clamp(0, 1)


class Cosine(Schedule):
    """α falls like a cosine; ``offset`` s keeps the first steps from being too small."""

    regular = False
    least = 1e-5

    def __init__(self, offset: float = 0.008) -> None:
        if not 0 < offset < 1:
            raise ValueError(f"found the offset {offset}: expected it in (0, 1); without one it is the schedule 'angle'")
        self.offset = offset
        self._first = 0.5 * math.pi * offset / (1 + offset)

    def _angle(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * (t + self.offset) / (1 + self.offset)

    def alpha(self, t: Tensor) -> Tensor:
        # cos a = sin(π/2 − a), which is exactly zero at the end
        return (0.5 * math.pi * (1 - t) / (1 + self.offset)).sin() / math.cos(self._first)

    def sigma(self, t: Tensor) -> Tensor:
        # cos² a₀ − cos² a = sin(a − a₀) sin(a + a₀)
        product = (0.5 * math.pi * t / (1 + self.offset)).sin() * (self._angle(t) + self._first).sin()
        return product.sqrt() / math.cos(self._first)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi / (1 + self.offset) * self._angle(t).sin() / math.cos(self._first)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        alpha, variance = (0.5 * torch.nn.functional.logsigmoid(log_snr)).exp(), (-log_snr).sigmoid()
        c, s = math.cos(self._first), math.sin(self._first)
        # a − a₀ from its sine, which is small where σ is
        sine = (s**2 + c**2 * variance).sqrt()
        return torch.asin((sine * c - alpha * c * s).clamp(-1, 1)).where(
            variance < 0.5, torch.atan2(sine, alpha * c) - self._first
        ) * (2 * (1 + self.offset) / math.pi)


class Angle(Schedule):
    """α = cos θt, σ = sin θt up to θ = ``highest``: variance preserving with velocities that are bounded at both ends."""

    def __init__(self, highest: float = 0.5 * math.pi) -> None:
        if not 0 < highest <= 0.5 * math.pi:
            raise ValueError(f"found the angle {highest}: expected it in (0, π/2]")
        self.highest = highest

    def alpha(self, t: Tensor) -> Tensor:
        return (self.highest * t).cos() if self.highest < 0.5 * math.pi else (self.highest * (1 - t)).sin()

    def sigma(self, t: Tensor) -> Tensor:
        return (self.highest * t).sin()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.highest * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.highest * self.alpha(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan2((-log_snr).sigmoid().sqrt(), log_snr.sigmoid().sqrt()) / self.highest
