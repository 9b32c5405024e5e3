"""Distributions over codes: priors p(z) that learn, and posteriors q(z | x) that are more than independent normals.

flow prior       z = push(u), u ~ base           log p(z) = log p_base(u) + V(z, u)
VampPrior        p(z) = 1/K Σ_k q(z | u_k)       with K learned pseudo-examples u_k (Tomczak & Welling 2017, arXiv:1705.07120)
flow posterior   z = push(u; h(x)), u ~ N(μ, σ²)   (Kingma et al. 2016, arXiv:1606.04934, where the map is an inverse
                                                 autoregressive one, steered by what else the encoder says, h)
prior of codes   p(c) = Π_i p(c_i | c_1 … c_{i−1})   over n codes in {0 … K−1}, one masked network
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.distribution import Distribution
from pushforward.core.random import Draws
from pushforward.core.transform import Transform
from pushforward.nets.masked import MaskedMLP


class Density(Protocol):
    """What a prior must know; every ``Distribution`` does."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(N, L) → (N,) nats."""
        ...

    def sample(self, draws: Draws, dtype: torch.dtype = ..., temperature: float = ...) -> Tensor:
        """One z per row of ``draws``."""
        ...


class Pushed(Distribution):
    """``base`` pushed through ``transform``."""

    independent = False

    def __init__(self, base: Distribution, transform: Transform) -> None:
        super().__init__(base.shape)
        self.base, self.transform = base, transform

    def log_prob(self, z: Tensor) -> Tensor:
        u, score = self.transform.pull(z)
        return self.base.log_prob(u) + score

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        return self.transform.push(self.base.sample(draws, dtype, temperature))


@dataclass(frozen=True)
class EqualNormals:
    """The mixture of K normals N(μ_k, σ_k²), with ``mean`` and ``log_std`` (K, L), each as likely as the others."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        standard = (z[:, None] - self.mean) * (-self.log_std).exp()
        of_each = (-0.5 * standard.square() - self.log_std).sum(2) - 0.5 * math.log(2 * math.pi) * z.shape[1]
        return of_each.logsumexp(1) - math.log(len(self.mean))

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        of = draws.categorical(self.mean.new_zeros(len(draws), len(self.mean)))
        noise = draws.normal(self.mean.shape[1], dtype=dtype)
        return self.mean[of] + temperature * self.log_std[of].exp() * noise


class VampPrior(nn.Module):
    """``count`` pseudo-examples of ``shape``, that of what the encoder sees; they start at examples of the data."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"found {count} pseudo-examples: expected at least 1")
        self.pseudo = nn.Parameter(torch.zeros(count, *shape))

    @torch.no_grad()
    def prepare(self, seen: Tensor) -> None:
        """Start at rows spread over ``seen`` (N, *shape)."""
        places = torch.arange(len(self.pseudo), device=seen.device) * max(1, len(seen) // len(self.pseudo)) % len(seen)
        self.pseudo.copy_(seen[places])


Prior = Distribution | VampPrior


class FlowPosterior(nn.Module):
    """The map from N(μ, σ²) to q(z | x), steered by a vector (N, H) of the encoder's."""

    def __init__(self, transform: Transform, size: int) -> None:
        super().__init__()
        self.transform, self.size = transform, size

    def forward(self, u: Tensor, steering: Tensor) -> tuple[Tensor, Tensor]:
        """z = push(u), and V there: log q(z | x) = log N(u; μ, σ²) + V."""
        return self.transform.push_scored(u, Context(steering))


class CodePrior(nn.Module):
    """p(c) of ``places`` codes, each one of ``codes``, given a vector of ``context`` numbers where there is one.

    Every code is seen as a learned vector of ``width`` numbers, and guessed by what it has in common with a prediction of it.
    """

    def __init__(self, places: int, codes: int, hidden: tuple[int, ...], *, width: int = 32, context: int = 0) -> None:
        super().__init__()
        self.places, self.codes, self.width = places, codes, width
        degrees = torch.arange(1, places + 1).repeat_interleave(width)
        self.net = MaskedMLP(degrees, degrees, hidden, context=context)
        self.seen = nn.Parameter(torch.randn(codes, width))
        self.guess = nn.Parameter(torch.randn(codes, width) / width**0.5)
        self.often = nn.Parameter(torch.zeros(places, codes))

    def _logits(self, outputs: Tensor, at: slice) -> Tensor:
        """Outputs (B, p · width) of the p places ``at`` → log p of each code there, (B, p, K)."""
        scores = outputs.unflatten(1, (-1, self.width)) @ self.guess.T.to(outputs.dtype)
        return (scores + self.often[at]).log_softmax(-1)

    def log_prob(self, codes: Tensor, context: Context | None = None) -> Tensor:
        """log p of codes (B, places): (B,)."""
        logits = self._logits(self.net(self.seen[codes].flatten(1), context).to(self.often.dtype), slice(None))
        return logits.gather(2, codes[..., None])[..., 0].sum(1)

    def sample(self, draws: Draws, context: Context | None = None, temperature: float = 1.0) -> Tensor:
        """Codes (B, places), one place after the other; each piece of the network is computed once."""
        state, codes = self.net.start(len(draws), context), []
        for i in range(self.places):
            columns = slice(i * self.width, (i + 1) * self.width)
            logits = self._logits(self.net.outputs(state, columns), slice(i, i + 1))[:, 0]
            code = draws.categorical(logits / temperature) if temperature > 0 else logits.argmax(-1)
            state = self.net.advance(state, columns, self.seen[code])
            codes.append(code)
        return torch.stack(codes, 1)
