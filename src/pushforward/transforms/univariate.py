"""Element-wise affine maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise

_PULLED = 4096  # rows that prepare hands on: statistics want all, layers behind them a sample


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


class SharedStandardise(Elementwise):
    """x = mean + std · z over ``shape``; V = −Σ log std. Statistics are set once by ``prepare``.

    All places along the axes ``mean_over`` (of one example, from 0) have one mean, and those along ``std_over`` one deviation,
    which is about those means: a network that treats places alike needs numbers that are. Missing numbers stay NaN. The z come
    in the dtype of the module's ``like`` (float32 unless the model is turned to float64).
    """

    mean: Tensor
    std: Tensor
    like: Tensor

    def __init__(self, shape: tuple[int, ...], mean_over: tuple[int, ...], std_over: tuple[int, ...]) -> None:
        super().__init__()
        self.mean_over, self.std_over = tuple(1 + a for a in mean_over), tuple(1 + a for a in std_over)
        sizes = [[1 if a in over else n for a, n in enumerate(shape)] for over in (mean_over, std_over)]
        self.register_buffer("mean", torch.zeros(sizes[0], dtype=torch.float64))
        self.register_buffer("std", torch.ones(sizes[1], dtype=torch.float64))
        self.register_buffer("like", torch.zeros(()))
        self.times = math.prod(shape) // math.prod(sizes[1])  # places that share a deviation

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        x = x.to(self.mean.dtype)
        mean = x.nanmean((0, *self.mean_over), keepdim=True)[0].nan_to_num()
        std = (x - mean).square().nanmean((0, *self.std_over), keepdim=True)[0].sqrt().nan_to_num()
        self.mean.copy_(mean)
        size = mean.abs().amax([a - 1 for a in self.std_over], keepdim=True) if self.std_over else mean.abs()
        self.std.copy_(torch.where(std > 1e-8 * (1 + size), std, torch.ones_like(std)))
        return self.pull(x[:_PULLED])[0]

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.mean + self.std * z

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z = (x.to(self.mean.dtype) - self.mean) / self.std
        return z.to(self.like.dtype), (-self.times * self.std.log().sum()).expand(len(x))


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
