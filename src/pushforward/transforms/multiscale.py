"""Multi-scale pictures: after each level half of the channels leave, the others go on to the next, coarser one.

    x_0 = x,    h_l = T_l.pull(x_{l−1}),    (x_l, z_l) = halves of the channels of h_l,    z = (x_L, z_{L−1}, …, z_1)

(Dinh et al. 2016, arXiv:1605.08803). Most numbers meet a few layers only, and what is decided last, at the coarse levels, is
the whole of the picture. A level ends with a coupling where the half that leaves is to be judged given the half that goes on
(Kingma & Dhariwal 2018, arXiv:1807.03039): its affine map is what a learned prior N(μ(x_l), σ(x_l)) would be. The latent is
one vector (B, D), coarsest first, for any base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Transform

_PULLED = 1024  # rows that prepare looks at: a pixel of a picture is an example to the layers inside


class MultiScale(Transform):
    """``levels`` T_1 … T_L, the finest first, and the ``shapes`` (C, H, W) of what each gives, before channels leave."""

    def __init__(self, levels: Iterable[Transform], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.shapes = [tuple(shape) for shape in shapes]
        if len(self.levels) != len(self.shapes):
            raise ValueError(f"found {len(self.levels)} levels and {len(self.shapes)} shapes: expected one for each")
        self.stochastic = any(cast(Transform, level).stochastic for level in self.levels)
        self.leaving = [c // 2 for c, _, _ in self.shapes[:-1]] + [0]

    def _each(self) -> list[tuple[Transform, int, tuple[int, ...]]]:
        return [(cast(Transform, t), n, s) for t, n, s in zip(self.levels, self.leaving, self.shapes, strict=True)]

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        total, left = x.new_zeros(len(x)), []
        for level, leaving, (channels, *_) in self._each():
            x, score = level.pull(x, context, draws)
            total = total + score
            left.append(x[:, channels - leaving :].flatten(1))
            x = x[:, : channels - leaving]
        return torch.cat([x.flatten(1), *reversed(left)], 1), total

    def _join(self, x: Tensor | None, z: Tensor, leaving: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """What the level gives for x, which came from the coarser one, and the rest of z."""
        channels, height, width = shape
        if x is None:
            size = channels * height * width
            return z[:, :size].unflatten(1, shape), z[:, size:]
        size = leaving * height * width
        return torch.cat([x, z[:, :size].unflatten(1, (leaving, height, width))], 1), z[:, size:]

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        x: Tensor | None = None
        for level, leaving, shape in reversed(self._each()):
            h, z = self._join(x, z, leaving, shape)
            x = level.push(h, context)
        assert x is not None
        return x

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        x, total = None, z.new_zeros(len(z))
        for level, leaving, shape in reversed(self._each()):
            h, z = self._join(x, z, leaving, shape)
            x, score = level.push_scored(h, context)
            total = total + score
        assert x is not None
        return x, total

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        x, left = x[:_PULLED], []
        for level, leaving, (channels, *_) in self._each():
            x = level.prepare(x, context)
            left.append(x[:, channels - leaving :].flatten(1))
            x = x[:, : channels - leaving]
        return torch.cat([x.flatten(1), *reversed(left)], 1)
