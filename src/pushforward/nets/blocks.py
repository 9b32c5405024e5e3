"""The residual block and the attention that the image nets are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.nets.common import zeroed
from pushforward.nets.norm import GroupNorm


class ResidualBlock(nn.Module):
    """Feature maps (B, inputs, H, W) to (B, outputs, H, W): norm, SiLU, conv, norm, SiLU, conv, and a skip.

    Pre-activation order of He et al. 2016 (arXiv:1603.05027). With ``embedding`` > 0, a vector (B, embedding) scales
    and shifts the second norm (Perez et al. 2018, arXiv:1709.07871). The last conv starts at zero, so a new block is
    its skip.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int = 0) -> None:
        super().__init__()
        self.first_norm, self.first = GroupNorm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second_norm, self.second = GroupNorm(outputs), zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * outputs) if embedding else None
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.first(F.silu(self.first_norm(x)))
        h = self.second_norm(h)
        if self.modulation is not None and embedding is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the places of a feature map (B, channels, H, W), with a skip; starts as the identity."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        while channels % heads:
            heads -= 1
        self.heads, self.norm = heads, GroupNorm(channels)
        self.project, self.out = nn.Linear(channels, 3 * channels), zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.project(places).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # written out, since the fused kernel has no second and no forward derivative; places are few at the lowest level
        weight = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        mixed = weight.to(value.dtype) @ value
        return x + self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
