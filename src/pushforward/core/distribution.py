"""Base distributions: what the noise is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.random import Draws
from pushforward.core.shapes import per_example


class Distribution(nn.Module, ABC):
    """A distribution over tensors of ``shape`` with a density."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """(B, *shape) → (B,) nats."""

    @abstractmethod
    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
        """One z per row of ``draws``, (B, *shape)."""


class Normal(Distribution):
    """Independent standard normals."""

    def log_prob(self, z: Tensor) -> Tensor:
        return per_example(-0.5 * z.square() - 0.5 * math.log(2 * math.pi))

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
        return draws.normal(*self.shape, dtype=dtype)


class Logistic(Distribution):
    """Independent standard logistics: log p(z) = −log(1+eᶻ) − log(1+e⁻ᶻ) (the base of NICE, arXiv:1410.8516)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return per_example(-F.softplus(z) - F.softplus(-z))

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
        uniform = draws.uniform(*self.shape, dtype=torch.float64).clamp_(1e-12, 1 - 1e-12)
        return torch.logit(uniform).to(dtype)


BASES: dict[str, type[Distribution]] = {"normal": Normal, "logistic": Logistic}
