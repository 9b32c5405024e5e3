"""Attention softmax(q kᵀ/√d) v (Vaswani et al. 2017, arXiv:1706.03762), by a fused kernel wherever its derivatives suffice.

A kernel never holds all weights at once: on the CPU ours (``kernels.attention``) for narrow heads over few places, or torch's.
Both have a first derivative only: no forward one, no second one, none for many gradients at a time, and those are what exact
divergences and gradient penalties ask for. ``attend`` therefore runs the kernel forwards, and on the way back again where a
plain gradient is asked for; else it writes the weights out, in operations that can be differentiated however often.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from pushforward.nets.norm import as_it_runs

_FEW = 128  # keys below which writing the weights out is as quick on the CPU as torch's kernel
_NARROW, _SOME, _MANY = 32, 32, 1024  # heads up to which, and keys from which and up to which, our kernel is the quickest


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, H, N, d), keys and values (B, H, T, d) → (B, H, N, d).

    ``mask`` (B, T), bool, says which keys may be looked at; an example that may look at none gets zeros.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast a norm may have widened them
    ours = _suits_ours(v)
    if not ours and not _fusable(q, k, v):
        return written(q, k, v, mask)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)) and not torch.compiler.is_compiling():
        return _Fused.apply(q, k, v, mask, ours)  # type: ignore[no-untyped-call]
    return _by_ours(q, k, v, mask)[0] if ours else _by_torch(q, k, v, mask)


def written(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """``attend`` in plain operations."""
    score = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is None:
        return score.softmax(-1).to(v.dtype) @ v
    mask = mask[:, None, None]
    # a finite number: where no key is left, the softmax of infinities would be undefined
    weight = score.masked_fill(~mask, torch.finfo(score.dtype).min / 2).softmax(-1)
    return (weight * mask).to(v.dtype) @ v


def _suits_ours(v: Tensor) -> bool:
    small = v.shape[-1] <= _NARROW and _SOME <= v.shape[-2] <= _MANY
    return small and v.device.type == "cpu" and v.dtype in (torch.float32, torch.bfloat16) and as_it_runs()


def _fusable(q: Tensor, k: Tensor, v: Tensor) -> bool:
    derived = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not derived and (v.device.type != "cpu" or k.shape[-2] >= _FEW)


def _by_ours(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    from pushforward.kernels import attention

    return attention.forward(q, k, v, mask)


def _by_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    some = mask.any(-1)[:, None]  # (B, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(mask | ~some)[:, None, None])
    return mixed * some[:, :, None, None]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, ours: bool) -> Tensor:
        mixed, known = _by_ours(q, k, v, mask) if ours else (_by_torch(q, k, v, mask), None)
        ctx.save_for_backward(q, k, v, mask, known)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        q, k, v, mask, known = ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradient will itself be differentiated
        many = not torch._C._has_storage(g)  # a batch of gradients
        if known is not None and not again and not many:
            from pushforward.kernels import attention

            return *attention.backward(q, k, v, mask, known, g.to(v.dtype)), None, None
        if not again:
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        with torch.enable_grad():
            mixed = written(q, k, v, mask) if again or many else _by_torch(q, k, v, mask)
        wanted = [x for x in (q, k, v) if x.requires_grad]
        found = iter(torch.autograd.grad(mixed, wanted, g, create_graph=again))
        return *(next(found) if x.requires_grad else None for x in (q, k, v)), None, None
