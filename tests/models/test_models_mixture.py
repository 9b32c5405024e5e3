"""Gaussian mixtures against scipy's densities, scikit-learn's EM from the same start, and conditionals worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare, multivariate_normal
from sklearn.mixture import GaussianMixture as Peer
from torch import Tensor

from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.gaussians import FullGaussians
from pushforward.models.mixture import COVARIANCES, GaussianMixture
from pushforward.transforms.univariate import Standardise

WIDE = torch.float64
SKLEARN = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


class Same(Compose):
    """No preprocessing."""

    def __init__(self) -> None:
        super().__init__([])

    def spread(self, observed: Tensor) -> Tensor:
        return observed


def build(size: int = 3, components: int = 3, covariance: str = "full", **options: float) -> GaussianMixture:
    return GaussianMixture(Schema(Vector(size)), Same(), size, components=components, covariance=covariance, **options)


def covariances(components: int, size: int, covariance: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(components, size, size, dtype=WIDE, generator=generator)
    cov = root @ root.mT + 0.3 * torch.eye(size, dtype=WIDE)
    if covariance == "tied":
        cov = cov[:1].expand_as(cov)
    if covariance == "diagonal":
        cov = torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
    if covariance == "spherical":
        cov = cov.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(size, dtype=WIDE)
    return cov.clone()


def put(model: GaussianMixture, full: Tensor) -> None:
    """Covariances (K, D, D) where the model keeps its own."""
    held = model.densities
    if isinstance(held, FullGaussians):
        held.own.copy_(full[: len(held.own)])
    else:
        held.variances.copy_(full.diagonal(dim1=1, dim2=2))


def random_mixture(
    size: int = 3, components: int = 3, covariance: str = "full", seed: int = 0, **options: float
) -> GaussianMixture:
    model = build(size, components, covariance, **options)
    generator = torch.Generator().manual_seed(seed)
    model.weights.copy_(torch.rand(components, dtype=WIDE, generator=generator).add(0.2))
    model.weights.div_(model.weights.sum())
    model.means.copy_(2 * torch.randn(components, size, dtype=WIDE, generator=generator))
    put(model, covariances(components, size, covariance, seed))
    return model


def with_gaps(x: Tensor, rate: float = 0.3) -> Tensor:
    gaps = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < rate
    gaps[0], gaps[1] = True, False  # a row of which nothing is known, and one of which everything is
    return x.masked_fill(gaps, math.nan)


def batch(x: Tensor) -> Batch:
    return Batch(x, Draws(0, 0, len(x)))


def joint_by_hand(model: GaussianMixture, y: np.ndarray) -> np.ndarray:
    """log π_k + log N(y_o; μ_ko, Σ_koo) by scipy, row by row, (B, K)."""
    weights, means, covs = (t.numpy() for t in (model.weights, model.means, model.covariances))
    out = np.zeros((len(y), len(weights)))
    for i, k in itertools.product(range(len(y)), range(len(weights))):
        o = ~np.isnan(y[i])
        out[i, k] = np.log(weights[k])
        if o.any():
            out[i, k] += multivariate_normal.logpdf(y[i][o], means[k][o], covs[k][np.ix_(o, o)])
    return out


@pytest.mark.parametrize("gaps", [False, True])
def test_log_prob_is_the_mixture_of_marginals(gaps: bool) -> None:
    model = random_mixture()
    x = 3 * torch.randn(40, 3, dtype=WIDE)
    x = with_gaps(x) if gaps else x
    joint = joint_by_hand(model, x.numpy())
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(logsumexp(joint, 1)))
    shares = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    torch.testing.assert_close(model.encode(x), torch.from_numpy(shares))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_em_is_scikit_learns(covariance: str) -> None:
    torch.manual_seed(3)
    x = torch.cat([torch.randn(60, 2, dtype=WIDE) @ torch.tensor([[1.0, 0.7], [0, 0.5]], dtype=WIDE) + 3 * k for k in range(3)])
    start = random_mixture(2, 3, covariance, seed=4, floor=0.0)
    begun = {"weights": start.weights.numpy().copy(), "means": start.means.numpy().copy()}
    precisions = torch.linalg.inv(start.covariances)
    shaped = {
        "full": precisions,
        "tied": precisions[0],
        "diagonal": precisions.diagonal(dim1=1, dim2=2),
        "spherical": precisions[:, 0, 0],
    }[covariance]
    full = {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * 3),
        "diagonal": lambda c: np.stack([np.diag(v) for v in c]),
        "spherical": lambda c: np.stack([v * np.eye(2) for v in c]),
    }[covariance]
    for iterations in range(1, 8):
        peer = Peer(
            3,
            covariance_type=SKLEARN[covariance],
            reg_covar=0.0,
            tol=0.0,
            max_iter=iterations,
            weights_init=begun["weights"],
            means_init=begun["means"],
            precisions_init=shaped.numpy(),
        )
        with pytest.warns(UserWarning, match="did not converge"):
            peer.fit(x.numpy())
        start.update(start.stats(batch(x)))
        np.testing.assert_allclose(start.weights.numpy(), peer.weights_, rtol=1e-9)
        np.testing.assert_allclose(start.means.numpy(), peer.means_, rtol=1e-9)
        np.testing.assert_allclose(start.covariances.numpy(), full(peer.covariances_), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(start.log_prob(x).numpy(), peer.score_samples(x.numpy()), rtol=1e-9)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_likelihood_never_falls(covariance: str, gaps: bool) -> None:
    x = random_mixture(3, 3, seed=2).sample(200, None, Draws(1, 0, 200))
    x = with_gaps(x) if gaps else x
    model = random_mixture(3, 3, covariance, seed=9, floor=0.0)
    values = [model.update(model.stats(batch(x))) for _ in range(15)]
    assert (np.diff(values) > -1e-9).all(), values
    assert values[-1] > values[0] + 0.1
    # what update reports is the mean log-likelihood of the parameters before it
    before = float(model.log_prob(x).mean())
    assert model.update(model.stats(batch(x))) == pytest.approx(before, abs=1e-10)


def test_em_with_gaps_is_the_closed_form_worked_out_row_by_row() -> None:
    model = random_mixture(3, 2, seed=5, floor=0.0)
    x = with_gaps(random_mixture(3, 2, seed=6).sample(50, None, Draws(1, 0, 50)))
    joint = joint_by_hand(model, x.numpy())
    share = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    means, covs = model.means.numpy().copy(), model.covariances.numpy().copy()
    mass, first, second = np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3, 3))
    for row, r in zip(x.numpy(), share, strict=True):
        o = ~np.isnan(row)
        for k in range(2):
            filled, spread = row.copy(), np.zeros((3, 3))
            gain = covs[k][np.ix_(~o, o)] @ np.linalg.inv(covs[k][np.ix_(o, o)])
            filled[~o] = means[k][~o] + gain @ (row[o] - means[k][o])
            spread[np.ix_(~o, ~o)] = covs[k][np.ix_(~o, ~o)] - gain @ covs[k][np.ix_(o, ~o)]
            mass[k] += r[k]
            first[k] += r[k] * filled
            second[k] += r[k] * (np.outer(filled, filled) + spread)
    new = first / mass[:, None]
    model.update(model.stats(batch(x)))
    np.testing.assert_allclose(model.weights.numpy(), mass / mass.sum())
    np.testing.assert_allclose(model.means.numpy(), new)
    truth = second / mass[:, None, None] - np.einsum("ki,kj->kij", new, new)
    np.testing.assert_allclose(model.covariances.numpy(), truth, atol=1e-12)


def test_statistics_add_up_over_batches() -> None:
    model = random_mixture()
    x = with_gaps(torch.randn(60, 3, dtype=WIDE))
    whole = model.stats(batch(x))
    parts = [model.stats(batch(part)) for part in x.split([7, 33, 20])]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_the_prior_pulls_covariances_to_that_of_the_data() -> None:
    x = random_mixture(2, 2, seed=3).sample(40, None, Draws(0, 0, 40))
    model, plain = (random_mixture(2, 2, seed=8, prior=prior, floor=0.0) for prior in (5.0, 0.0))
    model.densities.estimator.overall.copy_(torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    mass = model.stats(batch(x))["mass"]
    for m in (model, plain):
        m.update(m.stats(batch(x)))
    blend = (mass[:, None, None] * plain.covariances + 5 * model.densities.estimator.overall) / (mass[:, None, None] + 5)
    torch.testing.assert_close(model.covariances, blend)


def test_completion_has_the_conditional_moments() -> None:
    model = random_mixture(3, 1, seed=7)
    n = 20_000
    x = torch.tensor([[0.7, -1.3, 99.0]], dtype=WIDE).expand(n, -1)
    observed = torch.tensor([[True, False, False]]).expand(n, -1)
    drawn = model.complete(x, observed, None, Draws(2, 0, n))
    assert torch.equal(drawn[:, 0], x[:, 0])
    mean, cov = model.means[0], model.covariances[0]
    expected = mean[1:] + cov[1:, 0] / cov[0, 0] * (0.7 - mean[0])
    spread = cov[1:, 1:] - torch.outer(cov[1:, 0], cov[1:, 0]) / cov[0, 0]
    error = 5 * spread.diagonal().sqrt() / n**0.5
    assert ((drawn[:, 1:].mean(0) - expected).abs() < error).all()
    torch.testing.assert_close(drawn[:, 1:].T.cov(), spread, rtol=0.1, atol=0.05)


def test_completion_weighs_components_by_what_is_seen() -> None:
    model = random_mixture(2, 2, seed=1)
    model.means.copy_(torch.tensor([[0.0, -50.0], [2.0, 50.0]]))
    n = 5000
    x = torch.tensor([[1.3, 0.0]], dtype=WIDE).expand(n, -1)
    drawn = model.complete(x, torch.tensor([[True, False]]).expand(n, -1), None, Draws(0, 0, n))
    joint = joint_by_hand(model, np.array([[1.3, np.nan]]))[0]
    wanted = np.exp(joint - logsumexp(joint))
    found = np.array([float((drawn[:, 1] < 0).sum()), float((drawn[:, 1] > 0).sum())])
    assert chisquare(found, n * wanted).pvalue > 1e-3


def test_samples_have_the_mixtures_moments_and_shares() -> None:
    model = random_mixture(2, 3, seed=12)
    n = 30_000
    x = model.sample(n, None, Draws(4, 0, n))
    w, means = model.weights, model.means
    mean = w @ means
    second = torch.einsum("k,kij->ij", w, model.covariances + means[:, :, None] * means[:, None])
    cov = second - torch.outer(mean, mean)
    assert ((x.mean(0) - mean).abs() < 5 * cov.diagonal().sqrt() / n**0.5).all()
    torch.testing.assert_close(x.T.cov(), cov, rtol=0.05, atol=0.1)


def test_the_start_takes_weights_from_clusters() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(90, 2, dtype=WIDE), torch.randn(30, 2, dtype=WIDE) + 20])
    model = build(2, 2, restarts=3)
    model.start(x, Draws(0, 0, len(x)))
    order = model.means[:, 0].argsort()
    torch.testing.assert_close(model.weights[order], torch.tensor([0.75, 0.25], dtype=WIDE))
    torch.testing.assert_close(model.means[order[0]], x[:90].mean(0))
    torch.testing.assert_close(model.covariances[order[1]], x[90:].T.cov(correction=0))


def test_factors_follow_the_parameters() -> None:
    """The kept Cholesky factors are dropped whenever covariances change: by an update or a loaded state."""
    x = torch.randn(30, 3, dtype=WIDE)
    model, other = random_mixture(seed=1), random_mixture(seed=2)
    before = model.log_prob(x)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(logsumexp(joint_by_hand(other, x.numpy()), 1)))
    assert not torch.isclose(before, model.log_prob(x)).any()
    model.update(model.stats(batch(x)))
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(logsumexp(joint_by_hand(model, x.numpy()), 1)))
    narrow = model.float()
    torch.testing.assert_close(narrow.log_prob(x.float()).double(), model.double().log_prob(x), rtol=1e-4, atol=1e-4)


def test_unknown_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match="covariance is one of"):
        build(covariance="round")


def test_one_gaussian_encodes_by_whitening() -> None:
    """Whitened coordinates are uncorrelated with unit variance, and their squared length is the Mahalanobis distance."""
    schema = Schema(Vector(3))
    model = GaussianMixture(schema, Compose([Standardise((3,))]), 3, components=1)
    mixing = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 2.0, 3.0]], dtype=torch.float64)
    x = Draws(5, 0, 4000).normal(3, dtype=torch.float64) @ mixing.T + 7.0
    model.prepare(x)
    model.start(x, Draws(0, 0, len(x)))
    model.update(model.stats(Batch(x, Draws(0, 0, len(x)))))
    codes = model.encode(x)
    assert torch.allclose(torch.cov(codes.T), torch.eye(3, dtype=torch.float64), atol=5e-3)
    precision = torch.linalg.inv(torch.cov(x.T))
    centred = x - x.mean(0)
    assert torch.allclose(codes.square().sum(1), (centred @ precision * centred).sum(1), rtol=1e-2, atol=1e-3)


def test_blocks_of_rows_leave_no_trace(monkeypatch):
    """Rows are worked on in blocks: densities are scipy's and the statistics numpy's sums, whatever a block holds."""
    model = random_mixture(3, 4)
    y = torch.randn(50, 3, dtype=WIDE, generator=torch.Generator().manual_seed(1))
    logs = np.stack([multivariate_normal(model.means[k], model.covariances[k]).logpdf(y) for k in range(4)], 1)
    joint = logs + np.log(model.weights.numpy())
    share, x = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), y.numpy()
    for block in (7, 50, 1000):
        monkeypatch.setattr(FullGaussians, "fusible", lambda self, rows: False)
        monkeypatch.setattr(FullGaussians, "_block", lambda self, block=block: block)
        np.testing.assert_allclose(model.densities.log_prob(model.densities.see(y)), logs, rtol=1e-9, atol=1e-9)
        stats = model.stats(batch(y))
        np.testing.assert_allclose(stats["mass"], share.sum(0), rtol=1e-9)
        np.testing.assert_allclose(stats["first"], share.T @ x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stats["second"], np.einsum("bk,bi,bj->kij", share, x, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("apart", [0.2, 3.0])
def test_many_coordinates_take_slices_of_triangles_and_each_components_own_rows(apart):
    size, x = 300, torch.randn(90, 300, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    model = random_mixture(size, 3)
    model.densities.means.mul_(apart / 3)
    model.densities.own.copy_(torch.eye(size, dtype=WIDE) + 0.01 * model.densities.own / size)
    truth = torch.stack(
        [
            torch.distributions.MultivariateNormal(m, c).log_prob(x) + w.log()
            for m, c, w in zip(model.means, model.covariances, model.weights, strict=True)
        ],
        1,
    )
    share, sums = truth.softmax(1), model.stats(batch(x))
    assert ((share > 1e-4) & (share < 1e-2)).any() if apart < 1 else ((share < 1e-25).any() and (share > 0.99).any())
    torch.testing.assert_close(model.log_prob(x), truth.logsumexp(1), rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(sums["second"], torch.einsum("bk,bi,bj->kij", share, x, x), rtol=1e-9, atol=1e-8)
