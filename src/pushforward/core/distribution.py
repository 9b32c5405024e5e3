"""Base distributions: what the noise is.

Every base has an exact log density and draws from a row's own random numbers. ``temperature`` T in sampling scales the
deviation from the centre, z = c + T (z′ − c): a normal stays normal with T times the spread, and T = 0 is the centre itself.
Samples carry gradients to the parameters of learned bases, found implicitly where there is no formula, so a flow on any of
them can be fitted by sampling too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.random import Draws
from pushforward.core.shapes import per_example

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_EDGE = 1e-12  # quantiles stay finite


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - _HALF_LOG_2PI


def _learning(*parameters: Tensor) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in parameters)


class Distribution(nn.Module, ABC):
    """A distribution over tensors of ``shape`` with a density."""

    independent: bool = True
    """Whether the coordinates are independent, so that some can be drawn without the others."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """(B, *shape) → (B,) nats."""

    @abstractmethod
    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        """One z per row of ``draws``, (B, *shape)."""


class Normal(Distribution):
    """Independent standard normals."""

    def log_prob(self, z: Tensor) -> Tensor:
        return per_example(-0.5 * z.square() - 0.5 * math.log(2 * math.pi))

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        return temperature * draws.normal(*self.shape, dtype=dtype)


class Logistic(Distribution):
    """Independent standard logistics: log p(z) = −log(1+eᶻ) − log(1+e⁻ᶻ) (the base of NICE, arXiv:1410.8516)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return per_example(-F.softplus(z) - F.softplus(-z))

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        uniform = draws.uniform(*self.shape, dtype=torch.float64).clamp_(_EDGE, 1 - _EDGE)
        return temperature * torch.logit(uniform).to(dtype)


class Uniform(Distribution):
    """Independent uniforms on (``lower``, ``upper``); outside log p = −∞, and there is no gradient that leads back.

    For transforms that keep the cube (circular splines, splines on the interval) or begin, in push order, by leaving it
    (``Support(...).inverse()``): one that may pull data out of it has infinite loss. A temperature above 1 counts as 1.
    """

    def __init__(self, shape: tuple[int, ...], lower: float = -1.0, upper: float = 1.0) -> None:
        super().__init__(shape)
        if not lower < upper:
            raise ValueError(f"found the interval ({lower}, {upper}): expected lower < upper")
        self.lower, self.upper = lower, upper

    def log_prob(self, z: Tensor) -> Tensor:
        inside = ((z >= self.lower) & (z <= self.upper)).flatten(1).all(1)
        height = torch.full(z.shape[:1], -math.prod(self.shape) * math.log(self.upper - self.lower), dtype=z.dtype)
        return height.to(z.device).masked_fill(~inside, -math.inf)

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        middle, width = (self.lower + self.upper) / 2, self.upper - self.lower
        deviation = draws.uniform(*self.shape, dtype=dtype) - 0.5
        return middle + min(temperature, 1.0) * width * deviation


class StudentT(Distribution):
    """Independent Student t of ``degrees`` ν of freedom, one for each coordinate and learned unless ``learn`` is false:

        log p(z) = log Γ((ν+1)/2) − log Γ(ν/2) − ½ log πν − (ν+1)/2 · log(1 + z²/ν),    ν = ½ + eʳ ≤ 10⁴

    A base with heavy tails lets a flow have them (Jaini et al. 2020, arXiv:1907.04481). Sampled by quantiles.
    """

    raw: Tensor

    def __init__(self, shape: tuple[int, ...], degrees: float = 5.0, learn: bool = True) -> None:
        super().__init__(shape)
        if not 0.5 < degrees <= 1e4:
            raise ValueError(f"found {degrees} degrees of freedom: expected more than 0.5, and 10000 at most")
        raw = torch.full(self.shape, math.log(degrees - 0.5))
        if learn:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    @property
    def degrees(self) -> Tensor:
        """ν, float64 of ``shape``: differences of log Γ need the digits."""
        return 0.5 + self.raw.double().clamp(max=math.log(1e4)).exp()

    def log_prob(self, z: Tensor) -> Tensor:
        nu = self.degrees
        height = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (math.pi * nu).log()
        s = z / nu.sqrt().to(z.dtype)
        # ½ log(1 + s²) = log m + ½ log((1/m)² + (s/m)²) with m = max(1, |s|), whose squares do not overflow
        m = s.abs().clamp(min=1)
        growth = m.log() + 0.5 * torch.log1p((s / m).square() + (1 / m).square() - 1)
        return per_example(height.to(z.dtype) - (nu + 1).to(z.dtype) * growth)

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        from scipy.special import stdtrit

        nu = self.degrees
        u = draws.uniform(*self.shape, dtype=torch.float64).clamp_(_EDGE, 1 - _EDGE).cpu().numpy()

        def quantile(scale: float) -> Tensor:
            return torch.from_numpy(stdtrit(scale * nu.detach().cpu().numpy(), u)).to(nu.device)

        z = quantile(1.0)
        if _learning(self.raw):
            h = 1e-4
            slope = (quantile(1 + h) - quantile(1 - h)) / (2 * h * nu.detach())
            z = z + slope * (nu - nu.detach())
        return temperature * z.to(dtype)


class FullNormal(Distribution):
    """A normal with learned mean m and Cholesky factor L, z = m + L ε; it starts as the standard normal."""

    independent = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        size = math.prod(self.shape)
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_diagonal = nn.Parameter(torch.zeros(size))
        self.lower = nn.Parameter(torch.zeros(size, size))  # what counts of it is below the diagonal

    @property
    def factor(self) -> Tensor:
        """L, (D, D)."""
        return self.lower.tril(-1) + self.log_diagonal.exp().diag()

    def log_prob(self, z: Tensor) -> Tensor:
        deviation = z.flatten(1) - self.mean
        noise = torch.linalg.solve_triangular(self.factor.to(deviation.dtype), deviation.T, upper=False).T
        return per_example(_log_normal(noise)) - self.log_diagonal.sum()

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        noise = temperature * draws.normal(len(self.mean), dtype=dtype)
        z = self.mean.to(dtype) + noise @ self.factor.to(dtype).T
        return z.view(-1, *self.shape)


class NormalMixture(Distribution):
    """K ``components`` of independent normals, log p(z) = log Σ_k w_k N(z; μ_k, σ_k²), with all of w, μ, σ learned.

    It starts near the standard normal, the means apart. Temperature scales the spread of each component about its own mean.
    """

    independent = False

    def __init__(self, shape: tuple[int, ...], components: int = 8) -> None:
        super().__init__(shape)
        size = math.prod(self.shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(0.6 * torch.randn(components, size))
        self.log_std = nn.Parameter(torch.full((components, size), math.log(0.8)))

    def _coordinates(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised z (B, K, D) and log N of each coordinate under each component."""
        standard = (z.flatten(1)[:, None] - self.mean) * (-self.log_std).exp()
        return standard, _log_normal(standard) - self.log_std

    def log_prob(self, z: Tensor) -> Tensor:
        return (self.logits.log_softmax(0) + self._coordinates(z)[1].sum(2)).logsumexp(1)

    def sample(self, draws: Draws, dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Tensor:
        of = draws.categorical(self.logits.detach().expand(len(draws), -1))
        noise = draws.normal(self.mean.shape[1], dtype=dtype)
        z = self.mean.detach()[of] + temperature * self.log_std.detach().exp()[of] * noise
        if _learning(self.logits, self.mean, self.log_std) and temperature > 0:
            z = z + self._movement(z.double(), temperature)
        return z.to(dtype).view(-1, *self.shape)

    def _movement(self, z: Tensor, temperature: float) -> Tensor:
        """Zeros (B, D) whose gradient is ∂z/∂θ = −(∂S/∂z)⁻¹ ∂S/∂θ, with S_d = P(z_d′ ≤ z_d | z_1 … z_{d−1}): these are uniform,
        so they may stay where they are when θ moves (Graves 2016, arXiv:1607.05690; Figurnov et al. 2018, arXiv:1805.08498)."""
        std = temperature * self.log_std.double().exp()
        standard = (z[:, None] - self.mean.double()) / std
        log_n = _log_normal(standard) - std.log()
        before = log_n.cumsum(2) - log_n
        weight = (self.logits.double().log_softmax(0)[:, None] + before).softmax(1)  # of component k given z_1 … z_{d−1}
        below = torch.special.ndtr(standard)
        s = (weight * below).sum(1)
        with torch.no_grad():
            pull = -standard / std  # ∂ log N / ∂z
            across = torch.einsum("bkd,bkj->bdj", weight * (below - s[:, None]), pull).tril(-1)
            jacobian = across + (weight * log_n.exp()).sum(1).diag_embed()
        return -torch.linalg.solve_triangular(jacobian, (s - s.detach())[..., None], upper=False)[..., 0]


BASES: dict[str, Callable[[tuple[int, ...]], Distribution]] = {
    "normal": Normal,
    "logistic": Logistic,
    "uniform": Uniform,
    "student-t": StudentT,
    "full-normal": FullNormal,
    "mixture": NormalMixture,
}
