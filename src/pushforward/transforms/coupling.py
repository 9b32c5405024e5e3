"""Coupling layers: half of the coordinates steer the other half.

Additive (NICE, Dinh et al. 2014, arXiv:1410.8516): x_b = z_b + m(z_a), x_a = z_a; the Jacobian is triangular with ones, V = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Transform

Net = Callable[[Tensor, Context | None], Tensor]


def alternating(size: int, parity: int) -> Tensor:
    """The mask of the coordinates that stay: every second one, starting at ``parity``. Bool (size,)."""
    return torch.arange(size) % 2 == parity % 2


class AdditiveCoupling(Transform):
    """x_b = z_b + net(z_a), where ``stays`` (D,) marks the coordinates a. ``net`` maps (B, |a|) to (B, |b|)."""

    a: Tensor
    b: Tensor
    back: Tensor

    def __init__(self, stays: Tensor, net: Net) -> None:
        super().__init__()
        self.register_buffer("a", stays.nonzero().flatten(), persistent=False)
        self.register_buffer("b", (~stays).nonzero().flatten(), persistent=False)
        self.register_buffer("back", torch.cat([self.a, self.b]).argsort(), persistent=False)
        self.net = net

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)[:, self.back]

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        a = z[:, self.a]
        return self._join(a, z[:, self.b] + self.net(a, context))

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        a = x[:, self.a]
        return self._join(a, x[:, self.b] - self.net(a, context)), torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z, context), torch.zeros(len(z), dtype=z.dtype, device=z.device)
