"""Schedules run in a changed time: α(u(t)) and σ(u(t)) of another one, on the same path.

* ``Warped``: u = tⁿ
* ``Shifted``: λ(u) = λ(t) − 2 log s
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pushforward.paths.schedule import Schedule


class Warped(Schedule):
    """``inner`` on [0, 1] with its time run as t^``power``: even steps are finer near the data, where flows change fastest.

    Powers between whole numbers bend without end at 0, where solvers lose their order.
    """

    def __init__(self, inner: Schedule, power: float = 2.0) -> None:
        if (inner.start, inner.stop) != (0.0, 1.0) or not power >= 1:
            raise ValueError(
                f"found times {inner.start:g} to {inner.stop:g} and the power {power}: expected 0 to 1, and 1 or more"
            )
        self.inner, self.power, self.regular = inner, power, inner.regular

    def _slope(self, t: Tensor) -> Tensor:
        return self.power * t ** (self.power - 1)

    def alpha(self, t: Tensor) -> Tensor:
        return self.inner.alpha(t**self.power)

    def sigma(self, t: Tensor) -> Tensor:
        return self.inner.sigma(t**self.power)

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.inner.d_alpha(t**self.power) * self._slope(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.inner.d_sigma(t**self.power) * self._slope(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.inner.time(log_snr) ** (1 / self.power)


class Shifted(Schedule):
    """``inner`` with σ/α ``shift`` times what it was.

    Larger pictures need more noise for as little to be left of them (Hoogeboom et al. 2023, arXiv:2301.11093; Esser et al.
    2024, arXiv:2403.03206: for the rectified path the new time is shift · t / (1 + (shift − 1) t)).
    """

    def __init__(self, inner: Schedule, shift: float) -> None:
        if not shift > 0:
            raise ValueError(f"found the shift {shift}: expected it above 0")
        if not math.isinf(float(inner.log_snr(torch.tensor(inner.start, dtype=torch.float64)))):
            raise ValueError(f"{type(inner).__name__} has no end without noise: shift its σ from low to high instead")
        self.inner, self.shift = inner, shift
        self.start, self.stop, self.least = inner.start, inner.stop, inner.least
        # a Δ of zero makes the changed time infinitely fast or slow
        self.regular = inner.regular and float(inner.delta(torch.tensor(inner.stop, dtype=torch.float64))) > 0

    def _time(self, t: Tensor) -> Tensor:
        return self.inner.time(self.inner.log_snr(t) - 2 * math.log(self.shift))

    def _slope(self, t: Tensor, there: Tensor) -> Tensor:
        """du/dt of the changed time u, from λ'(t) = λ'(u) du/dt in a form without 0/0."""
        alpha2, sigma2 = self.inner.alpha(t).square(), self.inner.sigma(t).square()
        norm2 = self.inner.alpha(there).square() + self.inner.sigma(there).square()
        share = self.shift / (alpha2 + self.shift**2 * sigma2)
        return self.inner.delta(t) / self.inner.delta(there) * norm2 * share

    def alpha(self, t: Tensor) -> Tensor:
        return self.inner.alpha(self._time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.inner.sigma(self._time(t))

    def d_alpha(self, t: Tensor) -> Tensor:
        there = self._time(t)
        return self.inner.d_alpha(there) * self._slope(t, there)

    def d_sigma(self, t: Tensor) -> Tensor:
        there = self._time(t)
        return self.inner.d_sigma(there) * self._slope(t, there)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.inner.time(log_snr + 2 * math.log(self.shift))
