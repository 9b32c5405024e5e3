"""The residual block and the attention that the image nets are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pushforward.nets.attention import attend, written
from pushforward.nets.common import zeroed
from pushforward.nets.norm import GroupNorm, as_it_runs


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


_NARROW, _MANY = 32, 1024  # heads up to which, and keys up to which, our kernel is the quickest


def _mixed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``attend``, by a kernel of ours for narrow heads over few places."""
    suits = value.device.type == "cpu" and value.shape[-1] <= _NARROW and value.shape[-2] <= _MANY and as_it_runs()
    if not suits or query.dtype != value.dtype or value.dtype not in (torch.float32, torch.bfloat16):
        return attend(query, key, value, mask)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)):
        return _Mixed.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
    from pushforward.kernels import attention

    return attention.forward(query, key, value, mask)[0]


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        from pushforward.kernels import attention

        mixed, known = attention.forward(query, key, value, mask)
        ctx.save_for_backward(query, key, value, mask, known)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from pushforward.kernels import attention

        (g,) = gradients
        query, key, value, mask, known = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if not again and torch._C._has_storage(g):
            return *attention.backward(query, key, value, mask, known, g.to(value.dtype)), None
        # a gradient that will be differentiated again, or many at once, is made of operations that can be
        if not again:
            query, key, value = (t.detach().requires_grad_() for t in (query, key, value))
        given = (query, key, value)
        wanted = [t for t in given if t.requires_grad]
        with torch.enable_grad():
            found = iter(torch.autograd.grad(written(query, key, value, mask), wanted, g, create_graph=again))
        return *(next(found) if t.requires_grad else None for t in given), None


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
        mixed = _mixed(query, key, value, mask)
        return x + self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
