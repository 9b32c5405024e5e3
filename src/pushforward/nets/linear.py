"""Linear layers, and stacks of them with rectified units between, at the speed of the machine.

On the CPU torch sends a float32 product to the BLAS it was built with, which on some processors uses half of their width, and
a net of a few narrow layers is made of so many small operations that two threads are hardly faster than one. In float32 a
stack is one kernel forward and one back (``kernels.stack``; measured: docs/benchmarks.md). What is written here with torch's
operations is its reference, and the way of small batches, other numbers and other machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# rows, and floating-point operations of a pass, from which copying the weights pays; and the size of weight beyond which not
_ROWS, _ENOUGH, _HUGE = 64, 1_000_000, 1_500_000


@cache
def kernels_pay() -> bool:
    """Whether the processor has what our products are made of."""
    from pushforward.kernels.product import AVAILABLE

    return AVAILABLE


def _large(x: Tensor, weights: Sequence[Tensor]) -> bool:
    rows = x.shape[0]  # len() of a tensor costs ten times as much
    if rows < _ROWS or not kernels_pay():
        return False
    sizes = [w.numel() for w in weights]
    return 2 * rows * sum(sizes) >= _ENOUGH and max(sizes) <= _HUGE


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
        if self.bias is None or not _direct(x, self.weight) or not _large(x, [self.weight]):
            return F.linear(x, self.weight, self.bias)
        return rectified(x, [self.weight], [self.bias])


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
    if _direct(x, *weights):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, shift, *weights, *biases)):
            given = list(masks) if masks is not None else [None] * len(weights)
            return _Stack.apply(x, shift, given, *weights, *biases)  # type: ignore[no-untyped-call]
        if _large(x, weights):
            from pushforward.kernels import stack

            return stack.forward(x, weights, biases, shift, masks, keep=False)[0]
    used = [w * m for w, m in zip(weights, masks, strict=True)] if masks is not None else weights
    return _values(x, used, biases, shift)[-1]


def _values(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], shift: Tensor | None) -> list[Tensor]:
    """x, what every layer makes of it, and the last layer's outputs."""
    values, last = [x], len(weights) - 1
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        y = F.linear(values[-1], w, b)
        y = y + shift if i == 0 and shift is not None else y
        values.append(y.relu() if i < last else y)
    return values


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor | None, masks: list[Tensor | None], *parameters: Tensor) -> Tensor:
        count = len(masks)
        weights, biases = parameters[:count], parameters[count:]
        ctx.masks, ctx.shift, ctx.made = masks, shift is not None, None
        if _large(x, weights):
            from pushforward.kernels import stack

            given = None if masks[0] is None else [m for m in masks if m is not None]
            y, ctx.made = stack.forward(x, weights, biases, shift, given, keep=True)
            ctx.values = None
        else:
            *ctx.values, y = _values(x, _masked(weights, masks), biases, shift)
        # saved, so that torch notices where one of them is changed before the way back
        ctx.save_for_backward(x, shift, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,) = gradients
        count, needed = len(ctx.masks), ctx.needs_input_grad
        x, shift, *parameters = ctx.saved_tensors
        # a gradient that will be differentiated again, or many at once, is made of operations that can be
        again = torch.is_grad_enabled() or not torch._C._has_storage(g)
        by_x = by_shift = None
        by_weight: list[Tensor | None] = [None] * count
        by_bias: list[Tensor | None] = [None] * count
        if ctx.made is not None and not again and g.dtype == torch.float32:
            from pushforward.kernels import stack

            wanted = [needed[3 + i] or needed[3 + count + i] for i in range(count)]
            by_x, by_shift, by_weight, by_bias = stack.backward(
                ctx.made, g, by_x=needed[0], by_shift=ctx.shift and needed[1], by_weight=wanted
            )
            by_weight = [w if w is None or m is None else w * m for w, m in zip(by_weight, ctx.masks, strict=True)]
            return by_x, by_shift, None, *by_weight, *by_bias
        weights = _masked(parameters[:count], ctx.masks)
        # units computed again depend on the weights and on x, as those that were kept do not
        values = _values(x, weights, parameters[count:], shift) if again or ctx.values is None else ctx.values
        for i, weight in reversed(list(enumerate(weights))):
            if i < count - 1:
                g = g * (values[i + 1] > 0)
            if needed[3 + i]:
                gw = g.t() @ values[i]
                by_weight[i] = gw if ctx.masks[i] is None else gw * ctx.masks[i]
            if needed[3 + count + i]:
                by_bias[i] = g.sum(0)
            if i == 0 and ctx.shift:
                by_shift = g
            if i > 0 or needed[0]:
                g = g @ weight
                by_x = g if i == 0 else None
        return by_x, by_shift, None, *by_weight, *by_bias


def _masked(weights: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    return [w if m is None else w * m for w, m in zip(weights, masks, strict=True)]
