"""What some coordinates say of others against the conditional of a Gaussian, ratios of densities, and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose, Elementwise
from pushforward.models.conditional import conditional, regress
from pushforward.models.mixture import COVARIANCES, GaussianMixture
from pushforward.transforms.univariate import Standardise

WIDE = torch.float64


class Exponential(Elementwise):
    """x = exp(y), one by one."""

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return z.exp()

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return x.clamp(min=1e-300).log(), -x.clamp(min=1e-300).log().sum(1)


def fitted(components: int, covariance: str = "full", transform: Compose | None = None) -> GaussianMixture:
    generator = torch.Generator().manual_seed(components)
    x = torch.randn(300, 3, dtype=WIDE, generator=generator) @ torch.tensor(
        [[1.0, 0.6, -0.3], [0.0, 0.7, 0.4], [0.0, 0.0, 0.5]], dtype=WIDE
    )
    x[:120, 1] += 2.5
    x = 3 * x + 1 if transform is None else x.exp()
    model = GaussianMixture(
        Schema(Vector(3)), transform or Compose([Standardise((3,))]), 3, components=components, covariance=covariance
    )
    model.fit_em(x, iterations=15)
    return model


def test_one_gaussian_regresses_as_its_covariance_says() -> None:
    """E[x_m | x_o] = μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o), in the data's units."""
    model = fitted(1)
    shift, scale = (model.transform.push(v.expand(1, 3))[0] for v in (torch.zeros(1, dtype=WIDE), torch.ones(1, dtype=WIDE)))
    scale = scale - shift
    mean, cov = shift + scale * model.means[0], scale[:, None] * model.covariances[0] * scale
    x = torch.tensor([[2.0, 5.0, -1.0], [0.3, 0.1, 4.0]], dtype=WIDE)
    observed = torch.tensor([[False, True, True], [True, False, True]])
    found, variance = regress(model, x, observed)
    for i, m in enumerate((0, 1)):
        o = [j for j in range(3) if j != m]
        gain = cov[m, o] @ torch.linalg.inv(cov[o][:, o])
        assert float(found[i, m]) == pytest.approx(float(mean[m] + gain @ (x[i, o] - mean[o])), rel=1e-9)
        assert float(variance[i, m]) == pytest.approx(float(cov[m, m] - gain @ cov[o, m]), rel=1e-7)
        assert torch.equal(found[i, o], x[i, o])
        assert float(variance[i, o].abs().sum()) == 0


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_conditional_is_the_ratio_of_densities(covariance: str) -> None:
    """log p(y_m | y_o) = log p(y) − log p(y_o); its mean and covariance by quadrature."""
    model = fitted(3, covariance)
    x = torch.tensor([[2.0, 5.0, -1.0], [0.3, 0.1, 4.0], [9.0, 2.0, 1.0]], dtype=WIDE)
    observed = torch.tensor([True, False, True])
    found = conditional(model, x, observed)
    assert found.unknown.tolist() == [1]
    y, _ = model.transform.pull(x)
    whole, known = (model._log_joint(model.densities.see(t)).logsumexp(1) for t in (y, torch.where(observed, y, math.nan)))
    torch.testing.assert_close(found.log_prob(y[:, [1]]), whole - known)
    for i in range(3):
        density = lambda t, i=i: float(found.log_prob(torch.tensor([[t]], dtype=WIDE).expand(3, 1))[i].exp())
        mass, first, second = (quad(lambda t, p=p, d=density: t**p * d(t), -15, 15, limit=200)[0] for p in range(3))
        assert mass == pytest.approx(1, rel=1e-6)
        assert float(found.mean()[i, 0]) == pytest.approx(first, rel=1e-6, abs=1e-7)
        assert float(found.covariance()[i, 0, 0]) == pytest.approx(second - first**2, rel=1e-5)


def test_two_unknowns_have_the_moments_of_completions() -> None:
    model = fitted(3)
    n = 30_000
    x = torch.tensor([[2.0, 5.0, -1.0]], dtype=WIDE)
    observed = torch.tensor([False, True, False])
    found = conditional(model, x, observed)
    drawn = model.complete(x.expand(n, -1), observed.expand(n, -1), None, Draws(0, 0, n))
    y = model.transform.pull(drawn)[0][:, [0, 2]]
    error = 5 * found.covariance()[0].diagonal().sqrt() / n**0.5
    assert ((y.mean(0) - found.mean()[0]).abs() < error).all()
    torch.testing.assert_close(y.T.cov(), found.covariance()[0], rtol=0.05, atol=0.02)
    mean, variance = regress(model, x, observed)
    assert float(mean[0, 0]) == pytest.approx(float(drawn[:, 0].mean()), abs=5 * float(drawn[:, 0].std()) / n**0.5)
    assert float(variance[0, 0]) == pytest.approx(float(drawn[:, 0].var()), rel=0.05)


def test_regression_goes_through_a_bent_transform() -> None:
    """x = exp(y) of one Gaussian is log-normal: E = exp(m + s²/2), Var = (exp(s²) − 1) E²."""
    model = fitted(1, transform=Compose([Exponential()]))
    x = torch.tensor([[1.5, 0.7, 2.0]], dtype=WIDE)
    observed = torch.tensor([True, False, True])
    found = conditional(model, x, observed)
    m, s2 = float(found.mean()), float(found.covariance())
    mean, variance = regress(model, x, observed)
    assert float(mean[0, 1]) == pytest.approx(math.exp(m + s2 / 2), rel=1e-9)
    assert float(variance[0, 1]) == pytest.approx(math.expm1(s2) * math.exp(2 * m + s2), rel=1e-7)


def test_rows_that_know_different_things_have_no_one_conditional() -> None:
    model = fitted(2)
    x = torch.tensor([[2.0, 5.0, -1.0], [math.nan, 0.1, 4.0]], dtype=WIDE)
    with pytest.raises(ValueError, match="gaps in some rows"):
        conditional(model, x, torch.tensor([True, True, False]))
    mean, _ = regress(model, x, torch.tensor([[True, True, False], [False, True, False]]))
    assert np.isfinite(mean.numpy()).all()
