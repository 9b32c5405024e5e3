"""A U-Net of residual blocks, for fields over images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.shapes import over
from pushforward.nets.blocks import Attention, ResidualBlock
from pushforward.nets.common import context_vector, zeroed
from pushforward.nets.embed import TimeEmbedding
from pushforward.nets.norm import GroupNorm


def default_multipliers(height: int, width: int) -> tuple[int, ...]:
    """Levels that bring an image down to 4 to 8 pixels a side at the sizes in common use, and the width of each level."""
    side = max(height, width)
    if side < 16:
        return (1, 2)
    return (1, 2, 2) if side <= 32 else (1, 2, 2, 4)


class UNet(nn.Module):
    """Images x (B, channels, H, W) at times t (B,) in [0, 1] to (B, outputs, H, W), for any H and W of 4 or more.

    Level l has ``width · multipliers[l]`` channels and half the side of the level before, with ``blocks`` residual
    blocks going down and as many going up, joined by concatenation (Ronneberger et al. 2015, arXiv:1505.04597; Ho et
    al. 2020, arXiv:2006.11239). ``attention`` puts self-attention at the lowest level. Time and ``Context.vector``
    (B, context) scale and shift every block; a net built with ``time`` False takes t = None. Sides that
    2^(levels - 1) does not divide are padded with zeros inside. ``zero_last`` starts the net as the zero field.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: bool = True,
        context: int = 0,
        time: bool = True,
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.outputs, self.context = channels, outputs, context
        self.multiple = 2 ** (len(multipliers) - 1)
        embedding = 4 * width if time or context else 0
        self.time = TimeEmbedding(embedding) if time else None
        self.from_context = nn.Linear(context, embedding, bias=not time) if context else None
        widths = [width * m for m in multipliers]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up, self.lift = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        now = widths[0]
        for level in widths:
            sizes = [now] + [level] * blocks
            self.down.append(nn.ModuleList(ResidualBlock(a, level, embedding) for a in sizes[:-1]))
            now = level
        self.middle_in = ResidualBlock(now, now, embedding)
        self.attention = Attention(now) if attention else None
        self.middle_out = ResidualBlock(now, now, embedding)
        for index, level in reversed(list(enumerate(widths))):
            sizes = [now] + [level] * blocks
            self.up.append(nn.ModuleList(ResidualBlock(a + level, level, embedding) for a in sizes[:-1]))
            # the conv of an up-step runs before the enlargement, at a quarter of the cost of running after it
            now = widths[max(index - 1, 0)]
            if index:
                self.lift.append(nn.Conv2d(level, now, 3, padding=1))
        self.norm = GroupNorm(now)
        last = nn.Conv2d(now, outputs, 3, padding=1)
        self.last = zeroed(last) if zero_last else last

    def _embedding(self, x: Tensor, t: Tensor | None, context: Context | None) -> Tensor | None:
        """Time and context as one vector (B, embedding), or None where the net takes neither."""
        vector = context_vector(context, self.context)
        if (t is None) != (self.time is None):
            found = "no times" if t is None else f"times of shape {tuple(t.shape)}"
            raise ValueError(f"found {found}: this net was built with time={self.time is not None}")
        parts = []
        if self.time is not None and t is not None:
            parts.append(self.time(over(t, x).flatten()))
        if self.from_context is not None and vector is not None:
            parts.append(self.from_context(vector))
        return F.silu(sum(parts[1:], parts[0])) if parts else None

    def forward(self, x: Tensor, t: Tensor | None = None, context: Context | None = None) -> Tensor:
        embedding = self._embedding(x, t, context)
        height, width = x.shape[2:]
        h = self.stem(F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple)))
        kept = []
        for level, blocks in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if level else h
            for block in cast(nn.ModuleList, blocks):
                h = block(h, embedding)
                kept.append(h)
        h = self.middle_in(h, embedding)
        h = h if self.attention is None else self.attention(h)
        h = self.middle_out(h, embedding)
        for level, blocks in enumerate(self.up):
            if level:
                h = F.interpolate(self.lift[level - 1](h), scale_factor=2.0, mode="nearest")
            for block in cast(nn.ModuleList, blocks):
                h = block(torch.cat([h, kept.pop()], 1), embedding)
        return self.last(F.silu(self.norm(h)))[:, :, :height, :width]
