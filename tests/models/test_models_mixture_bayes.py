"""Variational mixtures against the exact evidence where there is one, torch's divergences, and scikit-learn step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import multigammaln
from sklearn.mixture import BayesianGaussianMixture as Peer
from torch import Tensor
from torch.distributions import MultivariateNormal, Wishart, kl_divergence

from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.bayes import WEIGHTS, BayesianMixture

WIDE = torch.float64


def build(size: int = 2, components: int = 4, **options: Any) -> BayesianMixture:
    return BayesianMixture(Schema(Vector(size)), Compose([]), size, components=components, **options)


def estimator(model: BayesianMixture) -> Any:
    return model.densities.estimator


def clusters(n: int, *centres: tuple[float, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(n, len(c), dtype=WIDE, generator=generator) + torch.tensor(c) for c in centres])


def batch(x: Tensor) -> Batch:
    return Batch(x, Draws(0, 0, len(x)))


def test_the_bound_of_one_component_is_the_evidence() -> None:
    """With one Gaussian q is exact: log p(y_1 … y_N) of the Normal–Wishart prior in closed form."""
    x = clusters(30, (1.0, -2.0, 0.5))
    model = build(3, 1, strength=0.7, width=0.4)
    model.start(x, Draws(0, 0, len(x)))
    model.update(model.stats(batch(x)))
    stats = model.stats(batch(x))
    found = float(stats["likelihood"] + model.log_prior())
    held = estimator(model)
    n, d, beta, nu = 30, 3, 0.7, 3.0
    mean = x.mean(0)
    off = mean - held.middle
    prior = 3 * 0.4 * held.overall
    inverse = prior + (x - mean).T @ (x - mean) + beta * n / (beta + n) * torch.outer(off, off)
    truth = -n * d / 2 * math.log(math.pi) + d / 2 * math.log(beta / (beta + n))
    truth += multigammaln((nu + n) / 2, d) - multigammaln(nu / 2, d)
    truth += nu / 2 * float(prior.logdet()) - (nu + n) / 2 * float(inverse.logdet())
    assert found == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("prior", WEIGHTS)
def test_divergences_and_expectations_are_torchs(prior: str) -> None:
    x = clusters(40, (0.0, 0.0), (5.0, 1.0))
    model = build(2, 3, weights_prior=prior, concentration=0.4, strength=0.5, width=0.7)
    model.start(x, Draws(0, 0, len(x)))
    for _ in range(3):
        model.update(model.stats(batch(x)))
    held = estimator(model)
    total = 0.0
    for k in range(3):
        w = torch.linalg.inv(model.covariances[k]) / held.nu[k]
        q, p = (
            Wishart(df=df, covariance_matrix=cov)
            for df, cov in ((held.nu[k], w), (torch.tensor(2.0, dtype=WIDE), torch.linalg.inv(1.4 * held.overall)))
        )
        total += float(kl_divergence(q, p).detach())
        # E_Λ KL(N(m, (βΛ)⁻¹) ‖ N(m_0, (β_0 Λ)⁻¹)) is linear in Λ but for its dimension: at E[Λ] = νW it is the mean
        mean = held.nu[k] * w
        both = (
            MultivariateNormal(model.means[k], precision_matrix=held.beta[k] * mean),
            MultivariateNormal(held.middle, precision_matrix=0.5 * mean),
        )
        total += float(kl_divergence(*both))
    of_weights = float(model.weighing.log_prior())
    assert float(model.log_prior()) == pytest.approx(of_weights - total, rel=1e-9)
    # E[log π_k] and the mean by sampling q(π)
    torch.manual_seed(0)
    weighing: Any = model.weighing
    if prior == "dirichlet":
        drawn = torch.distributions.Dirichlet(weighing.alpha).sample((400_000,))
    else:
        v = torch.distributions.Beta(weighing.a, weighing.b).sample((400_000,))
        drawn = v * torch.cat([torch.ones(len(v), 1), (1 - v).cumprod(1)[:, :-1]], 1)
    big = weighing.chances > 0.05
    torch.testing.assert_close(drawn.log().mean(0)[big], weighing.logs()[big], rtol=0, atol=5e-3)
    share = drawn.mean(0)
    torch.testing.assert_close((share / share.sum())[big], weighing.chances[big], rtol=1e-2, atol=0)


@pytest.mark.parametrize("prior", WEIGHTS)
def test_steps_are_scikit_learns(prior: str) -> None:
    x = clusters(60, (0.0, 0.0), (4.0, 1.0), (0.0, 5.0))
    model = build(2, 5, weights_prior=prior, concentration=0.3, strength=0.8, width=0.5)
    model.start(x, Draws(0, 0, len(x)))
    held = estimator(model)
    share = torch.distributions.Dirichlet(torch.ones(5, dtype=WIDE)).sample((len(x),))
    peer: Any = Peer(
        n_components=5,
        reg_covar=0.0,
        weight_concentration_prior_type={"dirichlet": "dirichlet_distribution", "sticks": "dirichlet_process"}[prior],
        weight_concentration_prior=0.3,
        mean_precision_prior=0.8,
        mean_prior=held.middle.numpy(),
        degrees_of_freedom_prior=2.0,
        covariance_prior=held.overall.numpy(),
    )
    peer._check_parameters(x.numpy())
    peer._initialize(x.numpy(), share.numpy())
    model.m_step({"mass": share.sum(0), **model.densities.sums(model.densities.see(x), share)})
    theirs, ours = [], []
    for _ in range(15):
        _, log_share = peer._e_step(x.numpy())
        stats = model.stats(batch(x))
        ours.append(float(stats["likelihood"] + model.log_prior()))
        peer._m_step(x.numpy(), log_share)
        model.update(stats)
        peer._set_parameters(peer._get_parameters())  # gives it its weights
        theirs.append(peer._compute_lower_bound(log_share, None))
        np.testing.assert_allclose(model.means, peer.means_, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(model.covariances, peer.covariances_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(held.beta, peer.mean_precision_, rtol=1e-9)
        np.testing.assert_allclose(held.nu, peer.degrees_of_freedom_, rtol=1e-9)
        np.testing.assert_allclose(model.weights, peer.weights_, rtol=1e-8, atol=1e-12)
    # theirs, up to a constant, is between ours before its step and ours after it
    assert (np.diff(ours) > -1e-8).all()
    gain = np.array(theirs[1:]) - np.array(theirs[:-1])
    assert (gain > -1e-8).all()


def test_the_bound_differs_between_optima_as_scikit_learns_does() -> None:
    """Up to the constant that theirs leaves out the converged bounds are one."""
    x = clusters(60, (0.0, 0.0), (7.0, 1.0), (0.0, 8.0))
    gaps = []
    for components in ((0, 0, 1), (0, 1, 2)):  # which of the components the clusters begin in
        share = torch.nn.functional.one_hot(torch.tensor(components).repeat_interleave(60), 3).to(WIDE)
        model = build(2, 3, concentration=1.0, width=0.5)
        model.start(x, Draws(0, 0, len(x)))
        held = estimator(model)
        model.m_step({"mass": share.sum(0), **model.densities.sums(model.densities.see(x), share)})
        peer: Any = Peer(
            n_components=3,
            reg_covar=0.0,
            weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1.0,
            mean_precision_prior=1.0,
            mean_prior=held.middle.numpy(),
            degrees_of_freedom_prior=2.0,
            covariance_prior=held.overall.numpy(),
        )
        peer._check_parameters(x.numpy())
        peer._initialize(x.numpy(), share.numpy())
        for _ in range(400):
            _, log_share = peer._e_step(x.numpy())
            peer._m_step(x.numpy(), log_share)
            model.update(model.stats(batch(x)))
        ours = float(model.stats(batch(x))["likelihood"] + model.log_prior())
        gaps.append((ours, peer._compute_lower_bound(log_share, None)))
    assert abs(gaps[0][0] - gaps[1][0]) > 1
    assert gaps[0][0] - gaps[1][0] == pytest.approx(gaps[0][1] - gaps[1][1], rel=1e-5)


@pytest.mark.parametrize("prior", WEIGHTS)
@pytest.mark.parametrize("gaps", [False, True])
def test_components_that_explain_nothing_die_out(prior: str, gaps: bool) -> None:
    x = clusters(150, (0.0, 0.0), (9.0, 0.0), (0.0, 9.0))
    if gaps:
        x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.15, math.nan)
    model = build(2, 8, weights_prior=prior, concentration=1e-2)
    told = model.fit_em(x, iterations=400, tolerance=1e-9)
    assert (np.diff(told) > -1e-9).all()
    assert len(model.idle) == 5
    assert model.used == 3
    assert float(estimator(model).nu.sum()) == pytest.approx(450 + 8 * 2)
    assert float(model.weights.sum()) == pytest.approx(1)
    found = model.means[[k for k in range(8) if k not in model.idle]]
    assert sorted(found.round().long().abs().tolist()) == [[0, 0], [0, 9], [9, 0]]


def test_the_predictive_density_has_mass_one() -> None:
    model = build(2, 4)
    model.fit_em(clusters(20, (0.0, 0.0), (3.0, 1.0)), iterations=10)
    line = torch.linspace(-40, 40, 801, dtype=WIDE)
    grid = torch.cartesian_prod(line, line)
    assert float(model.log_prob(grid).exp().sum()) * 0.01 == pytest.approx(1, abs=1e-3)


def test_priors_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="weights_prior is one of dirichlet, sticks"):
        build(weights_prior="uniform")
    for options in ({"concentration": 0.0}, {"strength": -1.0}):
        with pytest.raises(ValueError, match="expected more than 0"):
            build(**options)
