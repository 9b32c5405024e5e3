"""A variance-preserving process of T steps with noise β_i in each, as DDPM's (Ho et al. 2020, arXiv:2006.11239).

    σ²(i/T) = 1 − α²(i/T) = 1 − Π_{j≤i} (1 − β_j),  i = 0 … T,  and linear between

so that t = i/T is what diffusion libraries call the timestep i − 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.paths.schedule import Cosine, Schedule


class Table(Schedule):
    """The process with noise β_i (T,) in step i; a last β of 1 leaves no signal at t = 1."""

    regular = False

    def __init__(self, betas: Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).flatten()
        if not len(betas) or not bool(((betas > 0) & (betas <= 1)).all()) or bool((betas[:-1] == 1).any()):
            raise ValueError("found betas outside (0, 1): expected them inside, the last one 1 at most")
        self.steps = len(betas)
        self.least = 1 / self.steps
        self.betas = betas
        kept = torch.log1p(-betas).cumsum(0)
        self.variances = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.expm1(kept)])
        self.signals = torch.cat([torch.ones(1, dtype=torch.float64), kept.exp()])

    @classmethod
    def linear(cls, steps: int = 1000, low: float = 1e-4, high: float = 0.02) -> Table:
        """β rising linearly; ``low`` and ``high`` are those of 1000 steps, and are scaled for others."""
        scale = 1000 / steps
        return cls(torch.linspace(low * scale, min(high * scale, 0.999), steps, dtype=torch.float64))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, most: float = 0.999) -> Table:
        """The cosine schedule at steps + 1 times, with β of ``most`` at most (Nichol & Dhariwal 2021)."""
        square = Cosine(offset).alpha(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).square()
        return cls((1 - square[1:] / square[:-1]).clamp(max=most))

    def zero_terminal(self) -> Table:
        """√ᾱ shifted and scaled so that the last is 0 and the first stays (Lin et al. 2023, arXiv:2305.08891)."""
        root = self.signals[1:].sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        square = torch.cat([torch.ones(1, dtype=torch.float64), root.square()])
        return Table(1 - square[1:] / square[:-1])

    def _between(self, knots: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The piecewise linear function through ``knots`` at t, and its slope."""
        knots = knots.to(t.device)
        place = t.double() * self.steps
        cell = place.detach().ceil().clamp(1, self.steps).long() - 1
        rise = knots[cell + 1] - knots[cell]
        return knots[cell] + (place - cell) * rise, rise * self.steps

    def alpha(self, t: Tensor) -> Tensor:
        return self._between(self.signals, t)[0].sqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return self._between(self.variances, t)[0].sqrt().to(t.dtype)

    def d_alpha(self, t: Tensor) -> Tensor:
        value, slope = self._between(self.signals, t)
        return (0.5 * slope / value.sqrt()).to(t.dtype)

    def d_sigma(self, t: Tensor) -> Tensor:
        value, slope = self._between(self.variances, t)
        return (0.5 * slope / value.sqrt()).to(t.dtype)

    def time(self, log_snr: Tensor) -> Tensor:
        knots = self.variances.to(log_snr.device)
        variance, signal = (-log_snr.double()).sigmoid(), log_snr.double().sigmoid()
        cell = torch.searchsorted(knots, variance.detach().contiguous()).clamp(1, self.steps) - 1
        signals = self.signals.to(log_snr.device)
        # whichever of σ² and α² is small has the digits
        risen = torch.where(variance < 0.5, variance - knots[cell], signals[cell] - signal)
        return ((cell + risen / (knots[cell + 1] - knots[cell])) / self.steps).clamp(0, 1).to(log_snr.dtype)
