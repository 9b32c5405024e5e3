"""Mixtures of normals, for which everything along a Gaussian path is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WIDE = torch.float64


@dataclass(frozen=True)
class Mixture:
    """Σ_k w_k N(m_k, s_k² I) in D dimensions: ``weights`` (K,), ``means`` (K, D), ``stds`` (K,)."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities' logits (B, K), variances (B, K) and x − α m (B, K, D) under the law of α x_0 + σ ε."""
        alpha, sigma = (torch.as_tensor(v, dtype=x.dtype).expand(len(x))[:, None] for v in (alpha, sigma))
        variance = alpha**2 * self.stds**2 + sigma**2
        apart = x[:, None] - alpha[..., None] * self.means
        d = x.shape[1]
        logits = self.weights.log() - 0.5 * apart.square().sum(2) / variance - 0.5 * d * (2 * math.pi * variance).log()
        return logits, variance, apart

    def log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """log p(x) of α x_0 + σ ε, (B,)."""
        return self._parts(x, alpha, sigma)[0].logsumexp(1)

    def denoise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[x_0 | α x_0 + σ ε = x], (B, D)."""
        logits, variance, apart = self._parts(x, alpha, sigma)
        a = torch.as_tensor(alpha, dtype=x.dtype).expand(len(x))[:, None]
        each = self.means + (a * self.stds**2 / variance)[..., None] * apart
        return (logits.softmax(1)[..., None] * each).sum(1)

    def noise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[ε | α x_0 + σ ε = x], (B, D): (x − α D)/σ without the division."""
        logits, variance, apart = self._parts(x, alpha, sigma)
        s = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))[:, None]
        return (logits.softmax(1)[..., None] * (s / variance)[..., None] * apart).sum(1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        of = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=WIDE)
        return self.means[of] + self.stds[of, None] * noise

    def label(self, k: int) -> Mixture:
        """Component k alone: p(x | label k)."""
        return Mixture(torch.ones(1, dtype=WIDE), self.means[k : k + 1], self.stds[k : k + 1])


THREE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=WIDE),
    torch.tensor([[0.9, 0.4], [-1.1, 0.5], [0.1, -1.3]], dtype=WIDE),
    torch.tensor([0.4, 0.5, 0.3], dtype=WIDE),
)
ONE = Mixture(torch.ones(1, dtype=WIDE), torch.tensor([[0.3, -0.2]], dtype=WIDE), torch.tensor([0.6], dtype=WIDE))
