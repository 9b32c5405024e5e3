"""Linear layers, and stacks of them with rectified units between, at the speed of the machine.

On the CPU torch sends a float32 product to the BLAS it was built with, which on some processors uses half of their width;
oneDNN, which is in the same build, uses all of it at the same precision (measured: docs/benchmarks.md). Small products stay
where they are, since setting up a oneDNN call costs about as much as four million multiplications. A stack is one node of the
graph: its gradient is written out, which spares half of the small operations that a net of a few narrow layers is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ENOUGH = 4_000_000  # floating-point operations of a product from which oneDNN is the quicker way
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """x Wᵀ + b, then max(0, ·) with ``relu``."""
    if _AVAILABLE and 2 * x.shape[0] * weight.numel() >= _ENOUGH:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    y = F.linear(x, weight, bias)
    return y.relu_() if relu else y


def _direct(x: Tensor, *others: Tensor) -> bool:
    """Vectors in float32 on the CPU, computed with as the code runs: not cast, traced or transformed."""
    return (
        x.dim() == 2
        and x.device.type == "cpu"
        and all(t.dtype == torch.float32 for t in (x, *others))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class Linear(nn.Linear):
    """A linear layer of vectors (B, inputs)."""

    def forward(self, x: Tensor) -> Tensor:
        if not _direct(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not learns:
            return _product(x, self.weight, self.bias)
        return _Stack.apply(x, None, [None], self.weight, self.bias)  # type: ignore[no-untyped-call]


def rectified(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    shift: Tensor | None = None,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Linear layers on x (B, inputs) with max(0, ·) between them: (B, outputs).

    ``shift`` (B, hidden) is added to the first layer before its max; ``masks`` are multiplied with the weights.
    """
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, shift, *weights, *biases))
    if learns and _direct(x, *weights):
        given = list(masks) if masks is not None else [None] * len(weights)
        return _Stack.apply(x, shift, given, *weights, *biases)  # type: ignore[no-untyped-call]
    used = [w * m for w, m in zip(weights, masks, strict=True)] if masks is not None else list(weights)
    direct = not learns and _direct(x, *weights)
    last = len(used) - 1
    for i, (w, b) in enumerate(zip(used, biases, strict=True)):
        if direct and not (i == 0 and shift is not None):
            x = _product(x, w, b, relu=i < last)
            continue
        x = F.linear(x, w, b)
        x = x + shift if i == 0 and shift is not None else x
        x = x.relu() if i < last else x
    return x


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor | None, masks: list[Tensor | None], *parameters: Tensor) -> Tensor:
        count = len(masks)
        weights = [w if m is None else w * m for w, m in zip(parameters[:count], masks, strict=True)]
        biases, values = parameters[count:], [x]
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            added = shift if i == 0 else None
            y = _product(values[-1], w, b, relu=i < count - 1 and added is None)
            if added is not None:
                y += added
                y = y.relu_() if i < count - 1 else y
            values.append(y)
        ctx.save_for_backward(*values[:-1], *weights)
        ctx.masks, ctx.shifted = masks, shift is not None
        return values[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,) = gradients
        count = len(ctx.masks)
        values, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        # a gradient that will be differentiated again, or many at once, is made of operations that can be
        again = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        by_weight: list[Tensor | None] = [None] * count
        by_bias: list[Tensor | None] = [None] * count
        by_x = by_shift = None
        for i in reversed(range(count)):
            if i < count - 1:
                above = values[i + 1]
                g = g * (above > 0) if again else torch.ops.aten.threshold_backward(g, above, 0)
            if ctx.needs_input_grad[3 + i]:
                # oneDNN is slow over transposed views, the more so where rows have gaps between them: copies are quicker
                gw = g.t() @ values[i] if again else _product(g.t().contiguous(), values[i].t().contiguous())
                by_weight[i] = gw if ctx.masks[i] is None else gw * ctx.masks[i]
            if ctx.needs_input_grad[3 + count + i]:
                by_bias[i] = g.sum(0)
            if i == 0:
                by_shift = g if ctx.shifted else None
            if i > 0 or ctx.needs_input_grad[0]:
                by_x = g @ weights[i] if again else _product(g, weights[i].t().contiguous())
                g = by_x
        return by_x if ctx.needs_input_grad[0] else None, by_shift, None, *by_weight, *by_bias
