"""Autoregressive layers: every coordinate is steered by those before it.

    z_i = f(x_i; net_i(x_1 … x_{i−1})),    V = Σ_i log ∂z_i/∂x_i

(MAF, Papamakarios et al. 2017, arXiv:1705.07057). ``pull`` is one pass of a masked network. ``push`` has to find the
coordinates one after the other, but not with a pass for each of them: a hidden unit needs inputs up to its own degree only,
so each is computed once, as soon as it can be, and the whole costs the arithmetic of one pass. ``inverse()`` is the inverse
autoregressive flow (IAF, Kingma et al. 2016, arXiv:1606.04934): fast to push, sequential to pull.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Transform
from pushforward.transforms.monotone import Monotone


class MaskedNet(Protocol):
    """A network (B, D) → (B, P · D) whose outputs p · D + i depend only on inputs that come before i in its order."""

    def __call__(self, x: Tensor, context: Context | None = None) -> Tensor: ...

    def unroll(self, z: Tensor, monotone: Monotone, context: Context | None = None) -> Tensor:
        """The x (B, D) that ``monotone`` pulls to z (B, D) with the parameters the network gives at x."""
        ...


class Autoregressive(Transform):
    """``net`` gives the parameters of ``monotone`` for all of x (B, D); its masks are the order."""

    def __init__(self, net: MaskedNet, monotone: Monotone) -> None:
        super().__init__()
        self.net, self.monotone = net, monotone

    def _params(self, x: Tensor, context: Context | None) -> Tensor:
        return self.net(x, context).to(x.dtype).view(len(x), self.monotone.params, -1)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return self.monotone.pull(x, self._params(x, context))

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self.net.unroll(z, self.monotone, context)
