"""Maps that only move numbers about: V = 0."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise


class Flatten(Elementwise):
    """Data of ``shape`` ↔ latent vectors (B, D)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return z.view(len(z), *self.shape)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def spread(self, observed: Tensor) -> Tensor:
        return observed.flatten(1)
