"""Networks over elements in order that are a sum or a running sum of what each element adds.

Fully visible belief network (Frey et al. 1995; Neal 1992): logits linear in the elements before,

    params_i = b_i + Σ_{j<i} U_ij f_j

NADE (Larochelle & Murray 2011; real values: Uria et al. 2013, arXiv:1306.0186): one hidden layer whose sums a run along,

    a_1 = c,   a_{i+1} = a_i + W_i f_i,   h_i = σ(a_i),   params_i = b_i + V_i h_i

so that all conditionals together cost one pass. f_i are the features of element i, and a condition adds to b and to c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.nets.common import context_vector, zeroed
from pushforward.nets.linear import kernels_pay
from pushforward.nets.masked import MaskedLinear
from pushforward.transforms.monotone import plain_cpu

_NUMBERS = 1 << 24  # hidden units of all rows and elements that are held at a time


class FullyVisible(nn.Module):
    """Features (B, F) to parameters (B, P); ``features`` (F,) and ``params`` (P,) say whose place in the order each is of."""

    def __init__(self, features: Tensor, params: Tensor, *, context: int = 0) -> None:
        super().__init__()
        self.context = context
        self.linear = zeroed(MaskedLinear(params[:, None] > features))
        self.from_context = nn.Linear(context, len(params), bias=False) if context else None

    def _first(self, batch: int, context: Context | None) -> Tensor:
        """b, and what the context adds to it: (B, P)."""
        vector = context_vector(context, self.context)
        first = self.linear.bias.expand(batch, -1)
        return first if self.from_context is None or vector is None else first + self.from_context(vector)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self._first(len(x), context) + nn.functional.linear(x, self.linear.masked())

    def start(self, batch: int, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """The sums so far, (B, P), and U."""
        return self._first(batch, context).clone(), self.linear.masked()

    def outputs(self, state: tuple[Tensor, Tensor], rows: slice) -> Tensor:
        return state[0][:, rows]

    def advance(self, state: tuple[Tensor, Tensor], columns: slice, values: Tensor) -> tuple[Tensor, Tensor]:
        sums, weight = state
        return torch.addmm(sums, values, weight[:, columns].T), weight


@dataclass(frozen=True)
class Running:
    """The sums a of the next element, (B, H)."""

    sums: Tensor


class NADE(nn.Module):
    """Features (B, F) to parameters (B, P) of elements in the order of the data; ``features`` and ``params`` are the slices of
    each element, ``hidden`` the number of units H."""

    def __init__(self, features: list[slice], params: list[slice], hidden: int = 500, *, context: int = 0) -> None:
        super().__init__()
        self.features, self.params, self.context = features, params, context
        self.most = max(s.stop - s.start for s in params)
        self.input = nn.Linear(features[-1].stop, hidden)
        self.output = zeroed(nn.Linear(hidden, params[-1].stop))
        with torch.no_grad():  # a sum over half of the elements, at most, is what a unit sees
            self.input.weight.mul_(0.5)
        self.from_context = nn.Linear(context, hidden, bias=False) if context else None

    def _first(self, batch: int, context: Context | None) -> Tensor:
        """c, and what the context adds to it: (B, H)."""
        vector = context_vector(context, self.context)
        first = self.input.bias.expand(batch, -1)
        return first if self.from_context is None or vector is None else first + self.from_context(vector)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        if self._quick(x):
            from pushforward.kernels.nade import params_of

            return params_of(x, self._first(len(x), context), self.input.weight, self.output.weight, self.output.bias)
        sums, outputs = self._first(len(x), context), []
        step = max(1, _NUMBERS // max(1, sums.numel()))
        for start in range(0, len(self.features), step):
            some = range(start, min(start + step, len(self.features)))
            added = torch.stack([x[:, self.features[i]] @ self.input.weight[:, self.features[i]].T for i in some], 1)
            running = sums[:, None] + added.cumsum(1)
            before = torch.cat([sums[:, None], running[:, :-1]], 1).sigmoid()
            sums = running[:, -1]
            outputs += [before[:, i - start] @ self.output.weight[self.params[i]].T for i in some]
        return torch.cat(outputs, 1) + self.output.bias

    def _quick(self, x: Tensor) -> bool:
        """Whether the kernel applies: elements of one number and one parameter, float32 on the CPU, no gradient by x."""
        single = len(self.params) == self.input.in_features == self.output.out_features
        alike = x.dtype == self.input.weight.dtype == torch.float32
        return single and alike and not x.requires_grad and plain_cpu(x) and kernels_pay()

    def draw(
        self,
        elements: Any,
        u: Tensor,
        context: Context | None = None,
        held: tuple[Tensor, Tensor] | None = None,
        how: Any = None,
    ) -> Tensor | None:
        """All elements (B, E), as ``models.autoregressive.ancestral`` draws them; None where they are not all binary, or
        sharpened."""
        alike = elements.alike
        quick = not torch.is_grad_enabled() and self._quick(u.to(self.input.weight.dtype))
        if how is not None or alike is None or alike[0] != "bernoulli" or not quick:
            return None
        from pushforward.kernels.nade import draw

        kept = u.new_empty(0, u.shape[1]) if held is None else torch.where(held[1], held[0], math.nan)
        given = u, kept, self._first(len(u), context), self.input.weight.t(), self.output.weight, self.output.bias + alike[1]
        return draw(*(t.float().contiguous() for t in given)).double()

    def start(self, batch: int, context: Context | None = None) -> Running:
        return Running(self._first(batch, context))

    def outputs(self, state: Running, rows: slice) -> Tensor:
        return nn.functional.linear(state.sums.sigmoid(), self.output.weight[rows], self.output.bias[rows])

    def advance(self, state: Running, columns: slice, values: Tensor) -> Running:
        return Running(torch.addmm(state.sums, values, self.input.weight[:, columns].T))
