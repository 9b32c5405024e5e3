"""Time and scalars as features that a net can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.shapes import over
from pushforward.nets.common import context_vector


def sinusoids(t: Tensor, size: int, *, scale: float = 1000.0, period: float = 10000.0) -> Tensor:
    """Cosines and sines of ``t`` (B,) at ``size // 2`` frequencies from ``scale`` down to ``scale / period``: (B, size).

    The position features of Vaswani et al. 2017 (arXiv:1706.03762), with t in [0, 1] stretched to [0, scale]. Computed
    in float32 (float64 for a float64 ``t``): at the highest frequency bfloat16 could not tell two times apart.
    """
    if t.dim() != 1:
        raise ValueError(f"found times of shape {tuple(t.shape)}: expected (B,), one per example")
    half = size // 2
    dtype = t.dtype if t.dtype == torch.float64 else torch.float32
    power = torch.arange(half, device=t.device, dtype=dtype) / max(half - 1, 1)
    angle = t.to(dtype)[:, None] * (scale * torch.exp(-math.log(period) * power))
    features = torch.cat([angle.cos(), angle.sin()], -1)
    return nn.functional.pad(features, (0, size - 2 * half))


class TimeEmbedding(nn.Module):
    """Times (B,) in [0, 1] to (B, size): ``features`` sinusoids (``size`` of them if 0), then a two-layer net with SiLU."""

    def __init__(self, size: int, scale: float = 1000.0, *, features: int = 0, period: float = 10000.0) -> None:
        super().__init__()
        self.features, self.scale, self.period = features or size, scale, period
        self.first, self.second = nn.Linear(self.features, size), nn.Linear(size, size)

    def forward(self, t: Tensor) -> Tensor:
        features = sinusoids(t, self.features, scale=self.scale, period=self.period).to(self.first.weight.dtype)
        return self.second(nn.functional.silu(self.first(features)))


class Steering(nn.Module):
    """Times (B,) and ``Context.vector`` (B, context) as one vector (B, size), SiLU of their sum; None for a net with neither.

    It has one row (1, size) where one time (1,) serves all examples, or all are the same one, as ``expand`` makes them.
    """

    def __init__(self, size: int, *, context: int = 0, time: bool = True, features: int = 0) -> None:
        super().__init__()
        self.context = context
        self.time = TimeEmbedding(size, features=features) if time else None
        self.from_context = nn.Linear(context, size, bias=not time) if context else None

    def forward(self, x: Tensor, t: Tensor | None, context: Context | None) -> Tensor | None:
        vector = context_vector(context, self.context)
        if (t is None) != (self.time is None):
            found = "no times" if t is None else f"times of shape {tuple(t.shape)}"
            raise ValueError(f"found {found}: this net was built with time={self.time is not None}")
        parts = []
        if self.time is not None and t is not None:
            parts.append(self.time(_one_row(t if t.shape == (1,) else over(t, x).flatten())))
        if self.from_context is not None and vector is not None:
            parts.append(self.from_context(_one_row(vector)))
        return nn.functional.silu(sum(parts[1:], parts[0])) if parts else None


def _one_row(values: Tensor) -> Tensor:
    """The first row of ``values`` (B, …) where all are the same one, as ``expand`` makes them: (1, …)."""
    return values[:1] if len(values) > 1 and values.stride(0) == 0 else values


class FourierFeatures(nn.Module):
    """Values (B, inputs) to (B, inputs · (1 + 2 · octaves)): the values, and sines and cosines of π·2^k·x, k < octaves.

    For inputs roughly in [-1, 1], where a plain net is slow to learn fine detail (Tancik et al. 2020,
    arXiv:2006.10739, who draw the frequencies; these are fixed powers of two). No parameters.
    """

    def __init__(self, inputs: int, octaves: int = 4) -> None:
        super().__init__()
        self.inputs, self.octaves, self.outputs = inputs, octaves, inputs * (1 + 2 * octaves)

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        octave = torch.pi * 2.0 ** torch.arange(self.octaves, device=x.device, dtype=wide.dtype)
        angle = (wide[..., None] * octave).flatten(-2)
        return torch.cat([wide, angle.sin(), angle.cos()], -1).to(x.dtype)
