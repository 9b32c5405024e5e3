"""Paths from discrete data (t = 0) to noise (t = 1): Markov chains in continuous time, each element on its own.

An element x ∈ {0 … K−1} is kept until t with probability α(t), and otherwise is noise:

    q_t(z | x) = α δ_x(z) + (1 − α) π(z),      π the mask (``Masked``) or uniform over the K values (``Uniform``)

(Austin et al. 2021, arXiv:2107.03006), which is what the rates Q_t(j → z) = β π(z), β = −α'/α, j ≠ z, bring about. Backwards,
the chain of a known x jumps at the rates (Campbell et al. 2022, arXiv:2205.14987)

    R(z → j | x) = Q_t(j → z) q_t(j | x) / q_t(z | x),

and a model that predicts p(x | z) jumps at R^θ(z → j) = Σ_x p(x | z) R(z → j | x). Its bound is

    −log p(x) ≤ ∫_0^1 E_{q_t(z|x)} Σ_{j≠z} [R^θ − R + R log(R / R^θ)] dt,

summed over elements; nothing is added for the end of the path, since α(1) = 0 makes q_1 the noise itself. With the true
p(x | z) the bound is −log p(x). ``bound`` has its closed forms (Lou et al. 2023, arXiv:2310.16834; Sahoo et al. 2024,
arXiv:2406.07524; Shi et al. 2024, arXiv:2406.04329; Schiff et al. 2024, arXiv:2412.10193).

Shapes: z and x int64 (B, …), p or log_p (B, …, K), t (B,). A known x is a p of one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.random import Draws
from pushforward.core.shapes import over

_TINY = 1e-20  # keeps ratios finite at both ends of the path


@dataclass(frozen=True)
class Keep:
    """The probability α(t) that an element is kept; ``gone`` is 1 − α without loss of digits near 0.

    ``linear`` is 1 − t; ``cosine``, 1 − sin(πt/2), loses few elements per unit of time late and many early.
    """

    name: str = "linear"

    def __post_init__(self) -> None:
        if self.name not in ("linear", "cosine"):
            raise ValueError(f"found schedule {self.name!r}: expected linear or cosine")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t if self.name == "linear" else 2 * torch.sin(0.25 * math.pi * (1 - t)).square()

    def gone(self, t: Tensor) -> Tensor:
        return t if self.name == "linear" else torch.sin(0.5 * math.pi * t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t) if self.name == "linear" else -0.5 * math.pi * torch.cos(0.5 * math.pi * t)

    def rate(self, t: Tensor) -> Tensor:
        """−α'/(1 − α), which is 1/t for the linear one: what an element that is noise becomes data at."""
        return -self.d_alpha(t) / self.gone(t).clamp_min(_TINY)


class DiscretePath(ABC):
    """``levels`` values K of data; ``states`` what an element can be along the path."""

    states: int

    def __init__(self, levels: int, keep: str = "linear") -> None:
        if levels < 1:
            raise ValueError(f"found {levels} levels: expected 1 at least")
        self.levels, self.keep = levels, Keep(keep)

    @abstractmethod
    def noise(self, draws: Draws, *tail: int) -> Tensor:
        """States at t = 1, int64 (B, *tail)."""

    @abstractmethod
    def marginal(self, p: Tensor, t: Tensor) -> Tensor:
        """q_t(z) = Σ_x p(x) q_t(z | x), (B, …, states)."""

    def draw(self, x: Tensor, t: Tensor, draws: Draws) -> Tensor:
        """z ~ q_t(· | x), int64 (B, …)."""
        kept = draws.uniform(*x.shape[1:], dtype=torch.float64) < over(self.keep.alpha(t), x)
        return torch.where(kept, x, self.noise(draws, *x.shape[1:]))

    @abstractmethod
    def rates(self, z: Tensor, p: Tensor, t: Tensor) -> Tensor:
        """R(z → j) = Σ_x p(x) R(z → j | x) backwards in time, (B, …, states), with 0 at j = z."""

    @abstractmethod
    def posterior(self, z: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(z_s | z_t = z) = Σ_x p(x) q(z_s | z_t = z, x) for s < t, each (B,): (B, …, states)."""

    @abstractmethod
    def bound(self, z: Tensor, x: Tensor, log_p: Tensor, t: Tensor) -> Tensor:
        """The integrand of the bound for each element, (B, …), with log p(x | z) = ``log_p`` (B, …, K)."""


class Masked(DiscretePath):
    """Elements are replaced by a mask, the state K. What is not masked is data, and stays.

        R(mask → j | x) = −α'/(1 − α) δ_x(j)
        q(z_s | mask, x) = (α_s − α_t)/(1 − α_t) δ_x + (1 − α_s)/(1 − α_t) δ_mask
        bound = −α'/(1 − α) · (−log p(x | z)) where z is masked, else 0

    Integrated over t, the bound is the mean over random orders of the elements of −Σ_i log p(x_i | those before): all that
    counts is which elements are masked (Ou et al. 2024, arXiv:2406.03736).
    """

    def __init__(self, levels: int, keep: str = "linear") -> None:
        super().__init__(levels, keep)
        self.states, self.mask = levels + 1, levels

    def noise(self, draws: Draws, *tail: int) -> Tensor:
        return torch.full((len(draws), *tail), self.mask, dtype=torch.int64, device=draws.device)

    def marginal(self, p: Tensor, t: Tensor) -> Tensor:
        alpha, gone = over(self.keep.alpha(t), p), over(self.keep.gone(t), p)
        return torch.cat([alpha * p, gone.expand_as(p[..., :1])], -1)

    def rates(self, z: Tensor, p: Tensor, t: Tensor) -> Tensor:
        return F.pad(over(self.keep.rate(t), p) * p * (z == self.mask)[..., None], (0, 1))

    def posterior(self, z: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor:
        stay = over(self.keep.gone(s) / self.keep.gone(t), p)
        back = torch.cat([(1 - stay) * p, stay.expand_as(p[..., :1])], -1)
        return torch.where((z == self.mask)[..., None], back, F.one_hot(z, self.states).to(p.dtype))

    def bound(self, z: Tensor, x: Tensor, log_p: Tensor, t: Tensor) -> Tensor:
        nats = -log_p.gather(-1, x[..., None])[..., 0]
        return over(self.keep.rate(t), nats) * torch.where(z == self.mask, nats, 0.0)


class Uniform(DiscretePath):
    """Elements are replaced by uniform ones. With u = Kα/(1 − α), the ratio of likelihoods of a value kept and a value drawn,

        ρ_j = Σ_x p(x) q_t(j|x)/q_t(z|x) = 1 + u (p_j − p_z/(1 + u)) = 1 − p_z + p_z/(1 + u) + u p_j,      j ≠ z
        R(z → j) = β/K · ρ_j,      β/K = −α'/(1 − α) / u
        bound = β/K Σ_{j≠z} [ρ^θ_j − ρ_j + ρ_j log(ρ_j/ρ^θ_j)]

    The first way to write ρ keeps its digits where u is small (t near 1, ρ near 1), the second where u is large.
    """

    def __init__(self, levels: int, keep: str = "linear") -> None:
        super().__init__(levels, keep)
        self.states = levels

    def noise(self, draws: Draws, *tail: int) -> Tensor:
        return draws.integers(self.levels, *tail)

    def marginal(self, p: Tensor, t: Tensor) -> Tensor:
        return over(self.keep.alpha(t), p) * p + over(self.keep.gone(t), p) / self.levels

    def evidence(self, z: Tensor, t: Tensor) -> Tensor:
        """log q_t(z | x) for every x up to a constant, (B, …, K): what a prior needs to be a posterior."""
        here = F.one_hot(z, self.levels).to(t.dtype)
        return here * self._odds(here, t).log1p()

    def _odds(self, p: Tensor, t: Tensor) -> Tensor:
        """u (B, 1, …)."""
        return over(self.levels * self.keep.alpha(t).clamp_min(_TINY) / self.keep.gone(t).clamp_min(_TINY), p)

    def _excess(self, z: Tensor, p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """d = (ρ − 1)/u and log ρ, (B, …, K); both are of use at j ≠ z only."""
        at = p.gather(-1, z[..., None])
        d = p - at / (1 + u)
        # at j = z the sum would be above what it stands for and the first way may leave the domain of log1p: unused there
        small = torch.log1p((u * d).clamp_min(-0.9))
        large = ((1 - at).clamp_min(0) + at / (1 + u) + u * p).clamp_min(_TINY).log()
        return d, torch.where(u <= 1, small, large)

    def rates(self, z: Tensor, p: Tensor, t: Tensor) -> Tensor:
        u = self._odds(p, t)
        ratio = self._excess(z, p, u)[1].exp()
        return over(self.keep.rate(t), p) / u * ratio.scatter(-1, z[..., None], 0.0)

    def posterior(self, z: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor:
        alpha_s, gone_s = over(self.keep.alpha(s), p), over(self.keep.gone(s), p)
        alpha_t, gone_t = over(self.keep.alpha(t), p), over(self.keep.gone(t), p)
        kept = alpha_t / alpha_s  # from s to t
        changed = (gone_t - gone_s) / alpha_s / self.levels  # to any one value, where it is not kept
        here = F.one_hot(z, self.levels).to(p.dtype)
        # p(x) / q_t(z | x)
        share = p / (alpha_t * here + gone_t / self.levels).clamp_min(_TINY)
        before = alpha_s * share + gone_s / self.levels * share.sum(-1, keepdim=True)
        return (kept * here + changed) * before

    def bound(self, z: Tensor, x: Tensor, log_p: Tensor, t: Tensor) -> Tensor:
        p, true = log_p.exp(), F.one_hot(x, self.levels).to(log_p.dtype)
        u = self._odds(p, t)
        (d, log_ratio), (d_true, log_true) = self._excess(z, p, u), self._excess(z, true, u)
        terms = (d - d_true) + log_true.exp() * ((log_true - log_ratio) / u)
        elsewhere = terms.scatter(-1, z[..., None], 0.0).sum(-1)
        return over(self.keep.rate(t), elsewhere) * elsewhere


PATHS: dict[str, type[DiscretePath]] = {"masked": Masked, "uniform": Uniform}
