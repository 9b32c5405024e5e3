"""Coupling layers: some of the coordinates steer the others.

    z_a = x_a,    z_b = f(x_b; net(x_a)),    V = Σ_b log ∂z_b/∂x_b

The Jacobian is triangular, whatever the network: both directions cost one pass of it (Dinh et al. 2014, arXiv:1410.8516,
where f adds; 2016, arXiv:1605.08803, where it scales too; Durkan et al. 2019, arXiv:1906.04032, where it is a spline).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Transform
from pushforward.transforms.monotone import Monotone

Net = Callable[[Tensor, Context | None], Tensor]


def alternating(size: int, parity: int) -> Tensor:
    """The mask of the coordinates that stay: every second one, starting at ``parity``. Bool (size,)."""
    return torch.arange(size) % 2 == parity % 2


def halves(size: int, parity: int) -> Tensor:
    """The mask of the coordinates that stay: the first half (rounded up), or for odd ``parity`` the second. Bool (size,)."""
    return (torch.arange(size) < (size + 1) // 2) == (parity % 2 == 0)


def checkerboard(height: int, width: int, parity: int) -> Tensor:
    """The pixels that stay, like the squares of one colour of a chess board. Bool (height, width)."""
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == parity % 2


class Coupling(Transform):
    """``stays`` (C,) marks the coordinates a of x (B, C), or channels of x (B, C, H, W), that steer the others, b.

    ``net`` maps x_a (B, |a|, …) to (B, P · |b|, …), the parameters of ``monotone`` one after the other, each for all of b.
    """

    first: Tensor
    back: Tensor

    def __init__(self, stays: Tensor, net: Net, monotone: Monotone) -> None:
        super().__init__()
        stays = stays.bool()
        order = torch.cat([stays.nonzero().flatten(), (~stays).nonzero().flatten()])
        self.size, self.kept = len(stays), int(stays.sum())
        # where a comes first or last as a block, taking it is a view and putting it back one copy
        self.leading = bool(stays[: self.kept].all())
        self.trailing = not self.leading and bool(stays[self.size - self.kept :].all())
        self.register_buffer("first", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.net, self.monotone = net, monotone

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sizes = self.kept, self.size - self.kept
        if self.leading:
            a, b = x.split(sizes, 1)
            return a, b
        if self.trailing:
            b, a = x.split(sizes[::-1], 1)
            return a, b
        return x.index_select(1, self.first[: self.kept]), x.index_select(1, self.first[self.kept :])

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        b = b.view(len(b), self.size - self.kept, *a.shape[2:])
        if self.leading or self.trailing:
            return torch.cat([a, b] if self.leading else [b, a], 1)
        return torch.cat([a, b], 1).index_select(1, self.back)

    def _params(self, a: Tensor, context: Context | None) -> Tensor:
        # under mixed precision a network gives half precision, in which no map could be undone
        return self.net(a, context).to(a.dtype).reshape(len(a), self.monotone.params, -1)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        a, b = self._split(z)
        return self._join(a, self.monotone.push(b.flatten(1), self._params(a, context)))

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        a, b = self._split(x)
        z, score = self.monotone.pull(b.flatten(1), self._params(a, context))
        return self._join(a, z), score

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        a, b = self._split(z)
        x, score = self.monotone.push_scored(b.flatten(1), self._params(a, context))
        return self._join(a, x), score


class CheckerboardCoupling(Transform):
    """Pixels of x (B, C, H, W) where ``stays`` (H, W) is true steer the others.

    ``net`` maps the picture with the others at zero to (B, P · C, H, W), of which the parameters at the pixels that stay
    are not used.
    """

    stays: Tensor
    moves: Tensor

    def __init__(self, stays: Tensor, channels: int, net: Net, monotone: Monotone) -> None:
        super().__init__()
        self.register_buffer("stays", stays, persistent=False)
        self.register_buffer("moves", (~stays).expand(channels, *stays.shape).flatten().nonzero().flatten(), persistent=False)
        self.net, self.monotone = net, monotone

    def _split(self, x: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
        """The numbers that move (B, M), and their parameters (B, P, M)."""
        params = self.net(x * self.stays, context).to(x.dtype).reshape(len(x), self.monotone.params, -1)
        return x.flatten(1).index_select(1, self.moves), params.index_select(2, self.moves)

    def _join(self, x: Tensor, moved: Tensor) -> Tensor:
        return x.flatten(1).index_copy(1, self.moves, moved).view_as(x)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self._join(z, self.monotone.push(*self._split(z, context)))

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z, score = self.monotone.pull(*self._split(x, context))
        return self._join(x, z), score

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        x, score = self.monotone.push_scored(*self._split(z, context))
        return self._join(z, x), score
