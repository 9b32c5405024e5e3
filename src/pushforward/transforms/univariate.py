"""Element-wise affine maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise


class Standardise(Elementwise):
    """x = mean + std · z over ``shape``, with statistics set once by ``prepare``; V = −Σ log std.

    A coordinate that never varies keeps std 1, so its density stays finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        known = ~x.isnan()
        count = known.sum(0).clamp(min=1)
        mean = x.nan_to_num().sum(0) / count
        std = (((x - mean).nan_to_num() * known).square().sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-8 * (1 + mean.abs()), std, torch.ones_like(std)))
        return self.pull(x)[0]

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.mean + self.std * z

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z = (x - self.mean) / self.std
        return z, -self.std.log().sum().expand(len(x))


class Scale(Elementwise):
    """Learned diagonal scaling, x = exp(−s) · z (NICE's last layer, Dinh et al. 2014, arXiv:1410.8516); V = Σ s."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(size))

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return z * (-self.log_scale).exp()

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z), self.log_scale.sum().expand(len(z))


class Interval(Elementwise):
    """Fixed affine map of codes in [lower, upper] to [−1, 1]: z = 2 (x − lower)/(upper − lower) − 1; V = −D log radius."""

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__()
        self.middle, self.radius = (lower + upper) / 2, (upper - lower) / 2

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.middle + self.radius * z

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        score = torch.full((len(x),), -x[0].numel() * math.log(self.radius), dtype=x.dtype, device=x.device)
        return (x - self.middle) / self.radius, score
