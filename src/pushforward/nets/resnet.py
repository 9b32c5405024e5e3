"""Images to vectors and vectors to images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.blocks import ResidualBlock
from pushforward.nets.common import context_vector
from pushforward.nets.norm import GroupNorm
from pushforward.nets.unet import default_multipliers


class ResNet(nn.Module):
    """Images (B, channels, H, W) to vectors (B, outputs), for any H and W of 4 or more.

    Pre-activation residual blocks (He et al. 2016, arXiv:1603.05027): stage s has ``width · stages[s]`` channels and
    half the side of the stage before; the mean over all places feeds the last layer. ``Context.vector`` (B, context)
    scales and shifts every block.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 32,
        stages: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.outputs, self.context = channels, outputs, context
        widths = [width * m for m in stages]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        now = widths[0]
        for level in widths:
            sizes = [now] + [level] * blocks
            self.stages.append(nn.ModuleList(ResidualBlock(a, level, context) for a in sizes[:-1]))
            now = level
        self.norm, self.last = GroupNorm(now), nn.Linear(now, outputs)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        h = self.stem(x)
        for index, blocks in enumerate(self.stages):
            # rounding up keeps the last row and column of an odd side
            h = F.avg_pool2d(h, 2, ceil_mode=True) if index else h
            for block in cast(nn.ModuleList, blocks):
                h = block(h, vector)
        return self.last(F.silu(self.norm(h)).mean((2, 3)))


class ConvDecoder(nn.Module):
    """Vectors (B, inputs) to images (B, channels, height, width), for any height and width of 4 or more.

    A linear layer fills the coarsest grid; each stage doubles the side by repeating pixels, then runs ``blocks``
    residual blocks; what exceeds the image is cut off. Stage s has ``features · stages[s]`` channels, coarsest first;
    the default follows the image's size. ``Context.vector`` (B, context) scales and shifts every block. The values
    are not bounded: a loss or a recipe that wants [-1, 1] puts its own tanh on top.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        height: int,
        width: int,
        *,
        features: int = 32,
        stages: Sequence[int] | None = None,
        blocks: int = 1,
        context: int = 0,
    ) -> None:
        super().__init__()
        stages = default_multipliers(height, width)[::-1] if stages is None else stages
        widths = [features * m for m in stages]
        cell = 2 ** (len(widths) - 1)
        self.inputs, self.channels, self.height, self.width, self.context = inputs, channels, height, width, context
        self.grid = (widths[0], -(-height // cell), -(-width // cell))
        self.first = nn.Linear(inputs, self.grid[0] * self.grid[1] * self.grid[2])
        self.stages, self.lift = nn.ModuleList(), nn.ModuleList()
        now = widths[0]
        for index, level in enumerate(widths):
            if index:
                self.lift.append(nn.Conv2d(now, level, 3, padding=1))
            self.stages.append(nn.ModuleList(ResidualBlock(level, level, context) for _ in range(blocks)))
            now = level
        self.norm, self.last = GroupNorm(now), nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, z: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        h = self.first(z).unflatten(1, self.grid)
        for index, blocks in enumerate(self.stages):
            if index:
                h = F.interpolate(self.lift[index - 1](h), scale_factor=2.0, mode="nearest")
            for block in cast(nn.ModuleList, blocks):
                h = block(h, vector)
        return self.last(F.silu(self.norm(h)))[:, :, : self.height, : self.width]
