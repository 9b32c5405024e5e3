"""Numbers on a grid as continuous ones.

A value k of a grid with step δ stands for the cell (k − δ/2, k + δ/2]. Uniform dequantisation draws x' = k + δ (u − ½); the
density on the grid, mass of the cell per step, is p(k) = ∫ p(x') du, so V = 0 and the mean of log p(x') is a lower bound
(Theis et al. 2016, arXiv:1511.01844). With δ = 1, as for pixels and counts, p(k) is the probability of k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise


class Dequantise(Elementwise):
    """Grids of step ``resolution``, a number or one per coordinate of the last dimension; step 0 leaves a number as it is.

    ``bounds`` (lower, upper) clamp what ``push`` rounds to, as pixel values need.
    """

    resolution: Tensor
    lower: Tensor
    upper: Tensor
    stochastic = True
    tight = False

    def __init__(self, resolution: float | Tensor = 1.0, bounds: tuple[float | Tensor, float | Tensor] | None = None) -> None:
        super().__init__()
        self.register_buffer("resolution", torch.as_tensor(resolution, dtype=torch.float64))
        lower, upper = bounds if bounds is not None else (-torch.inf, torch.inf)
        self.register_buffer("lower", torch.as_tensor(lower, dtype=torch.float64), persistent=False)
        self.register_buffer("upper", torch.as_tensor(upper, dtype=torch.float64), persistent=False)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        # times the inverse step, whole for decimal grids, gives back the very double that came in
        inverse = torch.where(self.resolution < 1, (1 / self.resolution).round(), 1 / self.resolution)
        x = torch.where(self.resolution > 0, (z * inverse).round() / inverse, z)
        return x.clamp(self.lower, self.upper)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        noise = draws.uniform(*x.shape[1:], dtype=self.resolution.dtype) - 0.5
        return x + self.resolution * noise, torch.zeros(len(x), dtype=self.resolution.dtype, device=x.device)
