"""The residual block and the attention that the image nets are made of."""

from __future__ import annotations

from torch import Tensor, nn

from pushforward.nets.attention import attend
from pushforward.nets.common import zeroed
from pushforward.nets.norm import GroupNorm


class ResidualBlock(nn.Module):
    """Feature maps (B, inputs, H, W) to (B, outputs, H, W): norm, SiLU, conv, norm, SiLU, conv, and a skip.

    Pre-activation order of He et al. 2016 (arXiv:1603.05027). With ``embedding`` > 0, a vector (B, embedding) scales
    and shifts the second norm (Perez et al. 2018, arXiv:1709.07871); with ``shift_only`` it is added in front of it (Ho et
    al. 2020, arXiv:2006.11239). An embedding of one row serves all examples. The convolutions see ``kernel`` places. The
    last one starts at zero, so a new block is its skip.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int = 0,
        *,
        groups: int = 8,
        shift_only: bool = False,
        kernel: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        self.shift_only, pad = shift_only, (kernel[0] // 2, kernel[1] // 2)
        self.first_norm, self.first = GroupNorm(inputs, groups), nn.Conv2d(inputs, outputs, kernel, padding=pad)
        self.second_norm = GroupNorm(outputs, groups)
        self.second = zeroed(nn.Conv2d(outputs, outputs, kernel, padding=pad))
        self.modulation = nn.Linear(embedding, outputs if shift_only else 2 * outputs) if embedding else None
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.first(self.first_norm(x, silu=True))
        before = scale = shift = None
        if self.modulation is not None and embedding is not None:
            if self.shift_only:
                before = self.modulation(embedding)
            else:
                scale, shift = self.modulation(embedding).chunk(2, 1)
        h = self.second_norm(h, before=before, scale=scale, shift=shift, silu=True)
        return self.second(h).add_(self.skip(x))


class Attention(nn.Module):
    """Attention of the places of a feature map (B, channels, H, W), with a skip; starts as the identity.

    To each other, or to ``tokens`` of that width where it is not 0. Heads are ``head_size`` wide, more where that does not
    divide the channels.
    """

    def __init__(self, channels: int, head_size: int = 16, *, tokens: int = 0, groups: int = 8) -> None:
        super().__init__()
        heads = max(1, channels // head_size)
        while channels % heads:
            heads -= 1
        self.heads, self.norm = heads, GroupNorm(channels, groups)
        self.query, self.pair = nn.Linear(channels, channels), nn.Linear(tokens or channels, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``tokens`` (B, T, tokens), of which ``mask`` (B, T) is true for those that may be seen."""
        places = self.norm(x).flatten(2).transpose(1, 2)
        query = self.query(places).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        pair = self.pair(places if tokens is None else tokens).unflatten(-1, (2, self.heads, -1))
        key, value = pair.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, mask)
        return x + self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
