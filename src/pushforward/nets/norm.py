"""Normalisation of feature maps, one example at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F


def as_it_runs() -> bool:
    """Whether what is computed now is computed as the code says: neither traced by a compiler nor transformed by functorch,
    and without forward derivatives.
    """
    return (
        not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0
    )


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018, arXiv:1803.08494) of (B, channels, H, W).

    ``groups`` is an upper bound: the groups divide the channels and hold four or more where there are that many, since
    a group of one channel would erase a map of one pixel.

    With what follows it nearly always, a scale and a shift and SiLU, it reads and writes the map many times, and torch has no
    quick way at all where channels come last, as convolutions on a CPU like them best. Such maps go through one kernel
    (``kernels.norm``), whose reference is ``normalised``.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        groups = max(1, min(groups, channels // 4))
        while channels % groups:
            groups -= 1
        super().__init__(groups, channels)

    def forward(
        self,
        x: Tensor,
        *,
        before: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor:
        """norm(x + before) · (1 + scale) + shift, each (B, channels) or (1, channels), and SiLU of that if wanted."""
        if _suits(x):
            a, d = self.weight.float()[None], self.bias.float()[None]
            b = torch.zeros_like(a) if before is None else before.float()
            if scale is not None and shift is not None:
                more = 1 + scale.float()
                a, d = a * more, torch.addcmul(shift.float(), d, more)
            return _fused(x, a, d, b, self.num_groups, self.eps, silu)
        h = self._plain(x if before is None else x + before[:, :, None, None])
        if scale is not None and shift is not None:
            h = torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])
        return F.silu(h) if silu else h

    def _plain(self, x: Tensor) -> Tensor:
        # torch's CPU kernel for bfloat16 with channels last takes several times that of the dense layout, so two
        # copies and the dense kernel are the quicker way; the stride is asked, not the layout, which vmap cannot tell
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.dim() == 4 and x.stride(1) == 1 < x.shape[1]:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x)


def normalised(x: Tensor, scale: Tensor, shift: Tensor, before: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """norm(x + before) · scale + shift for x (B, C, H, W) and the others (B or 1, C), and SiLU of that if wanted."""
    scale, shift, before = (t[:, :, None, None] for t in (scale, shift, before))
    # contiguous, since torch cannot take many gradients at once of what has its channels last
    h = torch.addcmul(shift, F.group_norm((x + before).to(scale.dtype).contiguous(), groups, None, None, eps), scale)
    return (F.silu(h) if silu else h).to(x.dtype)


def _suits(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() == 4
        and as_it_runs()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _fused(x: Tensor, scale: Tensor, shift: Tensor, before: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, scale, shift, before)):
        return _Fused.apply(x, scale, shift, before, groups, eps, silu)  # type: ignore[no-untyped-call]
    from pushforward.kernels import norm

    return norm.forward(x, scale, shift, before, groups, eps, silu)[0]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, before: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        from pushforward.kernels import norm

        y, known = norm.forward(x, scale, shift, before, groups, eps, silu)
        ctx.options = groups, eps, silu
        ctx.save_for_backward(x, scale, shift, before, known)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from pushforward.kernels import norm

        (g,) = gradients
        *given, known = ctx.saved_tensors
        groups, _, silu = ctx.options
        again = torch.is_grad_enabled()
        # a gradient that will be differentiated again, or many at once, is made of operations that can be
        if again or not torch._C._has_storage(g):
            given = given if again else [t.detach().requires_grad_() for t in given]
            wanted = [t for t in given if t.requires_grad]
            with torch.enable_grad():
                found = iter(torch.autograd.grad(normalised(*given, *ctx.options), wanted, g, create_graph=again))
            return *(next(found) if t.requires_grad else None for t in given), None, None, None
        x, scale, shift, _ = given
        by_x, *others = norm.backward(x, g.to(x.dtype), scale, shift, known, groups, silu)
        sums = (o if len(t) == len(x) else o.sum(0, keepdim=True) for o, t in zip(others, given[1:], strict=True))
        return by_x, *sums, None, None, None
