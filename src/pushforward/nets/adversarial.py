"""Generators and critics of images, and the critic's head.

No layer looks at other examples of a batch: where the papers normalise over the batch, generators normalise groups of
channels, so that a sample does not depend on its neighbours and averaged weights need no statistics to go with them;
critics normalise nothing, since a penalty on the slope at one example must be about that example (arXiv:1704.00028, section 4).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.common import context_vector
from pushforward.nets.norm import GroupNorm

_SLOPE = 0.2  # of the rectifier below zero


def halvings(height: int, width: int) -> int:
    """How often sides are halved until the longer one is 4 to 7, once at least."""
    return max(1, (max(height, width) // 4).bit_length() - 1)


class Projection(nn.Module):
    """The critic's head (Miyato & Koyama 2018, arXiv:1802.05637): D(y, c) = ψᵀφ(y) + (Vc)ᵀφ(y), (B, 1).

    ``body`` is φ: y to (B, features). c is ``Context.vector`` (B, context); with ``context`` 0 there is no second term. There
    is no bias: a constant is nothing to objectives of differences, and the biases of φ give it to the others.
    """

    def __init__(self, body: nn.Module, features: int, context: int = 0) -> None:
        super().__init__()
        self.body, self.context = body, context
        self.last = nn.Linear(features, 1, bias=False)
        self.embed = nn.Linear(context, features, bias=False) if context else None

    def forward(self, y: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        phi = self.body(y)
        score = self.last(phi)
        if self.embed is None or vector is None:
            return score
        return score + (self.embed(vector) * phi).sum(1, keepdim=True)


class DCGenerator(nn.Module):
    """Vectors (B, inputs) to images (B, channels, height, width) (Radford et al. 2016, arXiv:1511.06434).

    A linear layer fills the coarsest grid; every transposed convolution doubles its side and halves its channels, down to
    ``features``; what exceeds the image is cut off. The values are not bounded.
    """

    def __init__(self, inputs: int, channels: int, height: int, width: int, *, features: int = 32) -> None:
        super().__init__()
        count = halvings(height, width)
        widths = [features * 2**k for k in reversed(range(count))]
        cell = 2**count
        self.height, self.width = height, width
        self.grid = (widths[0], -(-height // cell), -(-width // cell))
        self.first = nn.Linear(inputs, self.grid[0] * self.grid[1] * self.grid[2])
        self.norms = nn.ModuleList(GroupNorm(w) for w in widths)
        self.lift = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in itertools.pairwise([*widths, channels]))

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z).unflatten(1, self.grid)
        for norm, lift in zip(self.norms, self.lift, strict=True):
            h = lift(norm(h).relu())
        return h[:, :, : self.height, : self.width]


class DCBody(nn.Module):
    """Images (B, channels, H, W) to ``features_out`` numbers: convolutions that halve the side and double the channels."""

    def __init__(self, channels: int, height: int, width: int, *, features: int = 32) -> None:
        super().__init__()
        widths = [features * 2**k for k in range(halvings(height, width))]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise([channels, *widths]))
        for _ in widths:
            height, width = height // 2, width // 2
        self.features_out = widths[-1] * height * width

    def forward(self, y: Tensor) -> Tensor:
        for layer in self.layers:
            y = F.leaky_relu(layer(y), _SLOPE)
        return y.flatten(1)


class ResidualDown(nn.Module):
    """Maps (B, inputs, H, W) to (B, outputs, ⌈H/2⌉, ⌈W/2⌉): two rectified convolutions and a skip, without normalisation."""

    def __init__(self, inputs: int, outputs: int, *, raw: bool = False) -> None:
        super().__init__()
        self.raw = raw
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.raw else F.leaky_relu(x, _SLOPE)  # pixels are not rectified
        h = self.second(F.leaky_relu(self.first(h), _SLOPE))
        # averages commute with a convolution of one place, which costs a quarter behind them
        return _halved(h) + self.skip(_halved(x))


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


class ResidualBody(nn.Module):
    """Images (B, channels, H, W) to ``features_out`` numbers: residual blocks that halve the side, then the sum over places.

    The critic of Miyato et al. 2018 (arXiv:1802.05957) and Gulrajani et al. 2017 (arXiv:1704.00028), for any H and W of 4 or
    more.
    """

    def __init__(self, channels: int, height: int, width: int, *, features: int = 32) -> None:
        super().__init__()
        widths = [features * 2**k for k in range(halvings(height, width))]
        self.blocks = nn.ModuleList(
            ResidualDown(a, b, raw=index == 0) for index, (a, b) in enumerate(itertools.pairwise([channels, *widths]))
        )
        self.features_out = widths[-1]

    def forward(self, y: Tensor) -> Tensor:
        for block in self.blocks:
            y = block(y)
        return F.leaky_relu(y, _SLOPE).sum((2, 3))


class FlatBody(nn.Module):
    """Vectors (B, inputs) to ``features_out`` numbers: a multilayer net rectified to the end."""

    def __init__(self, net: nn.Module, features_out: int) -> None:
        super().__init__()
        self.net, self.features_out = net, features_out

    def forward(self, y: Tensor) -> Tensor:
        return torch.relu(self.net(y))
