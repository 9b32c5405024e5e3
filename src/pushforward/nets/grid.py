"""Images to grids of vectors and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.blocks import ResidualBlock
from pushforward.nets.common import context_vector
from pushforward.nets.norm import GroupNorm


def grid_sides(height: int, width: int, halvings: int) -> tuple[int, int]:
    """The sides of the grid after so many halvings, each rounding up."""
    return -(-height // 2**halvings), -(-width // 2**halvings)


class GridEncoder(nn.Module):
    """Images (B, channels, H, W) to grids (B, h·w, size), row by row, with sides halved ``halvings`` times, rounding up.

    A residual block at each resolution, of ``width`` channels, twice as many from the second on. ``Context.vector`` (B,
    context) scales and shifts every block.
    """

    def __init__(self, channels: int, size: int, *, halvings: int = 2, width: int = 32, context: int = 0) -> None:
        super().__init__()
        widths = [width] + [2 * width] * halvings
        self.context = context
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b, context) for a, b in zip([width, *widths], widths, strict=False))
        self.norm, self.last = GroupNorm(widths[-1]), nn.Conv2d(widths[-1], size, 1)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        h = self.stem(x)
        for index, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2, ceil_mode=True) if index else h, vector)
        return self.last(F.silu(self.norm(h))).flatten(2).transpose(1, 2)


class GridDecoder(nn.Module):
    """Grids (B, h·w·size), and a vector of ``extra`` numbers after each, to images (B, channels, height, width).

    The way of ``GridEncoder`` back: sides are doubled ``halvings`` times by repeating places, and what exceeds the image is cut
    off. The extra numbers are seen at every place.
    """

    def __init__(
        self, size: int, channels: int, height: int, width: int, *, halvings: int = 2, features: int = 32, extra: int = 0
    ) -> None:
        super().__init__()
        widths = [2 * features] * halvings + [features]
        self.size, self.sides, self.height, self.width = size, grid_sides(height, width, halvings), height, width
        self.first = nn.Conv2d(size + extra, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip([widths[0], *widths], widths, strict=False))
        self.norm, self.last = GroupNorm(widths[-1]), nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h, w = self.sides
        cells, extra = z.split([h * w * self.size, z.shape[1] - h * w * self.size], 1)
        maps = cells.unflatten(1, (h, w, self.size)).permute(0, 3, 1, 2)
        a = self.first(torch.cat([maps, extra[:, :, None, None].expand(-1, -1, h, w)], 1))
        for index, block in enumerate(self.blocks):
            a = block(F.interpolate(a, scale_factor=2.0, mode="nearest") if index else a)
        return self.last(F.silu(self.norm(a)))[:, :, : self.height, : self.width]
