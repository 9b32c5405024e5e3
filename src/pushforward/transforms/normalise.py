"""Normalisation that is part of the flow: an affine map of each coordinate or channel, started from data.

    x = μ + eˢ · z,    V = −N Σ s

with N = 1 for vectors and N = H·W for pictures (ActNorm, Kingma & Dhariwal 2018, arXiv:1807.03039). ``prepare`` sets μ and s
to the mean and the logarithm of the deviation of what arrives here; from then on they are parameters like all others, the
same for every batch, in training and after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise


class ActNorm(Elementwise):
    """One μ and one s for each of the ``size`` coordinates of x (B, C), or channels of x (B, C, H, W).

    A coordinate that never varies starts with s = 0, so its density stays finite.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        values = x.transpose(0, 1).flatten(1)
        mean = values.mean(1)
        std = (values - mean[:, None]).square().mean(1).sqrt()
        self.shift.copy_(mean)
        self.log_scale.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std)).log())
        return self.pull(x)[0]

    def _over(self, values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.dim() - 2))

    def _score(self, x: Tensor) -> Tensor:
        places = x[0, 0].numel() if len(x) else 1
        return (-places * self.log_scale.sum()).expand(len(x))

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return torch.addcmul(self._over(self.shift, z), z, self._over(self.log_scale.exp(), z))

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return (x - self._over(self.shift, x)) * self._over((-self.log_scale).exp(), x), self._score(x)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z), self._score(z)
