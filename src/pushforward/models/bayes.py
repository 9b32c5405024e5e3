"""Variational Gaussian mixtures: distributions over weights, means and covariances in the place of single values
(Attias 1999; Bishop 2006, chapter 10; sticks as Blei & Jordan 2006).

    q(μ_k, Λ_k) = N(μ_k; m_k, (β_k Λ_k)⁻¹) W(Λ_k; W_k, ν_k)          prior the same with m_0, β_0, W_0, ν_0
    E_q[log N(y; μ_k, Λ_k⁻¹)] = log N(y; m_k, (ν_k W_k)⁻¹) + ½(E[log|Λ_k|] − log|ν_k W_k|) − D/(2 β_k)
    E[log|Λ|] = Σ_d ψ((ν + 1 − d)/2) + D log 2 + log|W|

so the E step is that of Gaussians N(m_k, (ν_k W_k)⁻¹) with one more term, whatever coordinates are missing. M step, from N_k,
the means x̄_k and the scatter S_k:

    β_k = β_0 + N_k,   ν_k = ν_0 + N_k,   m_k = (β_0 m_0 + N_k x̄_k)/β_k
    W_k⁻¹ = W_0⁻¹ + S_k + β_0 N_k/β_k (x̄_k − m_0)(x̄_k − m_0)ᵀ

Weights are Dirichlet, π ~ Dir(α_0 + N_k), or off a stick, v_k ~ Beta(1 + N_k, γ + Σ_{j>k} N_j), π_k = v_k Π_{j<k} (1 − v_j).
Either lets components that explain little die out: what is left in use is how many there are. The bound on log p(y_1 … y_N),

    Σ_n log Σ_k exp(E[log π_k] + E[log N(y_n; μ_k, Λ_k⁻¹)]) − KL(q(π) ‖ p(π)) − Σ_k KL(q(μ_k, Λ_k) ‖ p(μ, Λ)),

never falls. Densities, samples and completions are those of the mixture Σ_k E[π_k] N(m_k, (ν_k W_k)⁻¹), whose integral is one:
the parameters' means stand for them, which understates tails that few rows have settled (there it would be a Student t).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import digamma

from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.densities import WIDE
from pushforward.models.gaussians import Estimator, FullGaussians
from pushforward.models.mixture import OfGaussians, Weights

_USED = 1.0  # rows that a component in use is responsible for


class NormalWishart(Estimator):
    """q(μ_k, Λ_k). The prior: m_0 the mean of all the data, (ν_0 W_0)⁻¹ ``width`` times their covariance, ν_0 = D, and β_0 =
    ``strength``."""

    middle: Tensor
    beta: Tensor
    nu: Tensor

    def __init__(self, size: int, components: int, *, strength: float = 1.0, width: float = 1.0) -> None:
        super().__init__(size)
        self.size, self.strength, self.degrees, self.width = size, strength, float(size), size * width
        self.register_buffer("middle", torch.zeros(size, dtype=WIDE))
        self.register_buffer("beta", torch.full((components,), strength, dtype=WIDE))
        self.register_buffer("nu", torch.full((components,), float(size), dtype=WIDE))

    def centre(self, mean: Tensor) -> None:
        self.middle.copy_(mean)

    def estimate(self, sums: dict[str, Tensor], means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
        count, first, second = sums["count"], sums["first"], sums["second"]
        beta, nu = self.strength + count, self.degrees + count
        m = (self.strength * self.middle + first) / beta[:, None]
        # S + β_0 N/β (x̄ − m_0)(x̄ − m_0)ᵀ = Σ r y yᵀ + β_0 m_0 m_0ᵀ − β m mᵀ
        centred = second - first[:, :, None] * self.middle - self.middle[:, None] * first[:, None]
        centred = centred + count[:, None, None] * torch.outer(self.middle, self.middle)
        off = m - self.middle  # about m_0 the squares are smaller, and cancel less
        inverse = self.width * self.overall + centred - beta[:, None, None] * off[:, :, None] * off[:, None]
        self.beta.copy_(beta)
        self.nu.copy_(nu)
        found = inverse / nu[:, None, None]
        return m, 0.5 * (found + found.mT)

    def _log_det(self, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """E[log|Λ|] and log|νW|, (K,); ``covariances`` are (νW)⁻¹."""
        steps = torch.arange(self.size, dtype=covariances.dtype, device=covariances.device)
        plain = -2 * torch.linalg.cholesky(covariances).diagonal(dim1=1, dim2=2).log().sum(1)
        expected = digamma(0.5 * (self.nu[:, None] - steps)).sum(1) + self.size * (math.log(2) - self.nu.log()) + plain
        return expected, plain

    def shift(self, covariances: Tensor) -> Tensor:
        expected, plain = self._log_det(covariances)
        return 0.5 * (expected - plain) - 0.5 * self.size / self.beta

    def log_prior(self, means: Tensor, covariances: Tensor) -> Tensor:
        d, nu, beta = self.size, self.nu, self.beta
        expected, plain = self._log_det(covariances)
        precision = torch.linalg.inv(covariances)  # νW
        off = means - self.middle
        far = torch.einsum("ki,kij,kj->k", off, precision, off)
        of_means = 0.5 * (d * (self.strength / beta - 1 + (beta / self.strength).log()) + self.strength * far)
        log_det_0 = -torch.linalg.slogdet(self.width * self.overall).logabsdet
        spread = 0.5 * ((self.width * self.overall * precision).sum((1, 2)) - nu * d) + 0.5 * (nu - self.degrees) * expected
        normal = _log_wishart(nu, plain - d * nu.log(), d)
        normal_0 = _log_wishart(torch.full_like(nu, self.degrees), log_det_0.expand_as(nu), d)
        return -(of_means + normal - normal_0 + spread).sum()


def _log_wishart(nu: Tensor, log_det: Tensor, d: int) -> Tensor:
    """log of the normaliser of W(Λ; W, ν) ∝ |Λ|^((ν − D − 1)/2) exp(−½ tr W⁻¹Λ), given log|W|."""
    return -0.5 * nu * log_det - 0.5 * nu * d * math.log(2) - torch.special.multigammaln(0.5 * nu, d)


class Dirichlet(Weights):
    """q(π) = Dir(α), the prior's α_0 = ``concentration`` for each component."""

    alpha: Tensor
    bound = True

    def __init__(self, components: int, concentration: float) -> None:
        super().__init__(components)
        self.concentration = concentration
        self.register_buffer("alpha", torch.full((components,), concentration, dtype=WIDE))

    def estimate(self, mass: Tensor) -> None:
        self.alpha.copy_(self.concentration + mass)
        self.chances.copy_(self.alpha / self.alpha.sum())

    def used(self) -> Tensor:
        return self.alpha - self.concentration >= _USED

    def logs(self) -> Tensor:
        return digamma(self.alpha) - digamma(self.alpha.sum())

    def log_prior(self) -> Tensor:
        prior = torch.full_like(self.alpha, self.concentration)
        of = torch.distributions.Dirichlet
        return -torch.distributions.kl_divergence(of(self.alpha), of(prior))


class Sticks(Weights):
    """q(v_k) = Beta(a_k, b_k), the prior's Beta(1, γ) with γ = ``concentration``; the last piece is what is left."""

    a: Tensor
    b: Tensor
    bound = True

    def __init__(self, components: int, concentration: float) -> None:
        super().__init__(components)
        self.concentration = concentration
        self.register_buffer("a", torch.ones(components, dtype=WIDE))
        self.register_buffer("b", torch.full((components,), concentration, dtype=WIDE))

    def estimate(self, mass: Tensor) -> None:
        self.a.copy_(1 + mass)
        self.b.copy_(self.concentration + mass.flip(0).cumsum(0).flip(0) - mass)
        broken = self.a / (self.a + self.b)
        pieces = broken * torch.cat([broken.new_ones(1), (1 - broken).cumprod(0)[:-1]])
        self.chances.copy_(pieces / pieces.sum())

    def used(self) -> Tensor:
        return self.a - 1 >= _USED

    def logs(self) -> Tensor:
        total = digamma(self.a + self.b)
        left = (digamma(self.b) - total).cumsum(0)
        return digamma(self.a) - total + torch.cat([left.new_zeros(1), left[:-1]])

    def log_prior(self) -> Tensor:
        of = torch.distributions.Beta
        prior = of(torch.ones_like(self.a), torch.full_like(self.b, self.concentration))
        return -torch.distributions.kl_divergence(of(self.a, self.b), prior).sum()


WEIGHTS: dict[str, Callable[[int, float], Weights]] = {"dirichlet": Dirichlet, "sticks": Sticks}


class BayesianMixture(OfGaussians):
    """A variational mixture of at most ``components`` Gaussians with full covariances.

    ``weights_prior`` is one of dirichlet, sticks, with ``concentration`` α_0 or γ: the smaller, the fewer components stay.
    ``width`` is the covariance that the prior expects of a component, by that of all the data: the smaller, the more stay.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Compose,
        size: int,
        *,
        components: int = 20,
        weights_prior: str = "dirichlet",
        concentration: float | None = None,
        strength: float = 1.0,
        width: float = 1.0,
        restarts: int = 1,
    ) -> None:
        if weights_prior not in WEIGHTS:
            raise ValueError(f"weights_prior is one of {', '.join(WEIGHTS)}, found {weights_prior!r}")
        weight = 1 / components if concentration is None else concentration
        if not (weight > 0 and strength > 0 and width > 0):
            raise ValueError(f"found concentration {weight}, strength {strength} and width {width}: expected more than 0")
        densities = FullGaussians(size, components, NormalWishart(size, components, strength=strength, width=width))
        super().__init__(schema, transform, densities, weighing=WEIGHTS[weights_prior](components, weight), restarts=restarts)
        self.size = size

    @property
    def idle(self) -> list[int]:
        """The components that are responsible for less than one row: not in use."""
        return (~self.weighing.used()).nonzero().flatten().tolist()
