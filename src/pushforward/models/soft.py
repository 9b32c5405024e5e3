"""Categories that a gradient passes through: the Gumbel-softmax (Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017,
arXiv:1611.00712).

    g_k = −log(−log u_k),  u_k ~ U(0, 1);     argmax_k(ℓ_k + g_k) ~ softmax(ℓ);     soft = softmax((ℓ + g)/τ)

As τ → 0 the soft choice becomes the hard one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.random import Draws

_EDGE = 1e-16  # u stays inside (0, 1) by this much in float64


def gumbel_softmax(logits: Tensor, uniform: Tensor, temperature: float, *, hard: bool = False) -> Tensor:
    """Logits (B, K) and float64 uniforms (B, K) to points of the simplex (B, K); temperature τ > 0.

    With ``hard`` the value is a one-hot and the gradient that of the soft choice (straight through).
    """
    gumbel = -(-uniform.clamp(_EDGE, 1 - _EDGE).log()).log()
    soft = ((logits + gumbel.to(logits.dtype)) / temperature).softmax(-1)
    if not hard:
        return soft
    corner = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return corner + (soft - soft.detach())


class MixedHead(nn.Module):
    """What a generator gives for a table (B, N + Σ levels) to N numbers and a choice for each column of ``levels``.

    The last groups are the gap indicators (present, missing) of the numbers ``gapped``: these are multiplied by the share of
    present, as those of real rows are 0 where they are missing.
    """

    def __init__(self, numbers: int, levels: Sequence[int], gapped: Sequence[int], temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"found a temperature of {temperature}: expected a positive number")
        self.numbers, self.levels, self.gapped, self.temperature = numbers, tuple(levels), tuple(gapped), temperature

    def forward(self, raw: Tensor, draws: Draws, decided: bool) -> Tensor:
        """Soft choices, or one-hots where ``decided``."""
        numbers, logits = raw[:, : self.numbers], raw[:, self.numbers :]
        if not self.levels:
            return numbers
        uniform = draws.uniform(logits.shape[1], dtype=torch.float64)
        groups = zip(logits.split(self.levels, 1), uniform.split(self.levels, 1), strict=True)
        chosen = [gumbel_softmax(l, u, self.temperature, hard=decided) for l, u in groups]
        if self.gapped:
            present = torch.ones_like(numbers)
            present[:, self.gapped] = torch.stack([pair[:, 0] for pair in chosen[-len(self.gapped) :]], 1)
            numbers = numbers * present
        return torch.cat([numbers, *chosen], 1)
