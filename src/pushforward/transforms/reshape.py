"""Maps that only move numbers about: V = 0."""

from __future__ import annotations

import itertools

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


class Squeeze(Elementwise):
    """Pictures (B, C, H, W) ↔ smaller ones of more channels (B, C·f·g, H/f, W/g), for a ``factor`` f or (f, g).

    Each block of f × g pixels becomes one pixel. Channels are ordered by the place in the block first, then by colour, and the
    places like the squares of a chess board: those with an even sum of row and column, in reading order, then the others. For a
    factor of 2 that is (0, 0), (1, 1), (0, 1), (1, 0), so that the first half of the channels is every second pixel of the
    picture, in all its colours, and not its upper rows (the alternating pattern of Dinh et al. 2016, arXiv:1605.08803).
    """

    def __init__(self, factor: int | tuple[int, int] = 2) -> None:
        super().__init__()
        self.rows, self.columns = (factor, factor) if isinstance(factor, int) else factor
        places = sorted(itertools.product(range(self.rows), range(self.columns)), key=lambda p: (sum(p) % 2, p))
        order = torch.tensor([i * self.columns + j for i, j in places])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    order: Tensor
    back: Tensor

    def _down(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height % self.rows or width % self.columns:
            raise ValueError(f"found {height}×{width} pixels: blocks of {self.rows}×{self.columns} must fill the picture")
        blocks = x.reshape(batch, channels, height // self.rows, self.rows, width // self.columns, self.columns)
        places = blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 2)
        return places.index_select(1, self.order).flatten(1, 2)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        places = z.unflatten(1, (self.rows * self.columns, -1)).index_select(1, self.back)
        blocks = places.unflatten(1, (self.rows, self.columns)).permute(0, 3, 4, 1, 5, 2)
        return blocks.flatten(4, 5).flatten(2, 3)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return self._down(x), torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def spread(self, observed: Tensor) -> Tensor:
        return self._down(observed)
