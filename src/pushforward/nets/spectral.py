"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): weights divided by their largest singular value.

A weight W of more than two dimensions counts as a matrix (outputs, everything else). With u, kept from step to step,

    v = Wᵀu / ‖Wᵀu‖,   u' = Wv / ‖Wv‖,   σ = u'ᵀ W v,   W / σ,

is one step of power iteration; σ has a gradient in W alone. The forward pass keeps nothing, so it is the same function in
training and after, with and without gradients, however often it runs. ``advance`` puts u' in the place of u: call it once
after each optimiser step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

_START = 20  # iterations of a new layer


class SpectralNorm(nn.Module):
    """W ↦ W / σ(W), for ``torch.nn.utils.parametrize``."""

    u: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn(len(weight)).to(weight), dim=0))
        self.advance(weight, _START)

    def _iterate(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        v = F.normalize(matrix.T @ self.u, dim=0)
        return F.normalize(matrix @ v, dim=0), v

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad():
            u, v = self._iterate(matrix)
        return weight / (u @ (matrix @ v)).clamp(min=torch.finfo(weight.dtype).eps)

    @torch.no_grad()
    def advance(self, weight: Tensor, steps: int = 1) -> None:
        """``steps`` of power iteration on ``weight`` as it is now."""
        for _ in range(steps):
            self.u.copy_(self._iterate(weight.flatten(1))[0])


def spectral(net: nn.Module) -> nn.Module:
    """``net`` with the weight of every linear layer and convolution in it normalised."""
    for layer in list(net.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach()))
    return net


def advance(net: nn.Module) -> None:
    """One step of power iteration for every normalised weight of ``net``."""
    for part in net.modules():
        if isinstance(part, parametrize.ParametrizationList):
            for norm in part:
                if isinstance(norm, SpectralNorm):
                    norm.advance(part.original)
