"""What all EM models share: steps that lower the objective are caught, restarts, numbers of components, weights, gaps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from sklearn.cluster import KMeans as PeerKMeans
from torch import Tensor

from pushforward.core.errors import TrainingDiverged
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.em import CRITERIA, EM, plus_plus
from pushforward.models.lloyd import KMeans
from pushforward.models.mixture import COVARIANCES, GaussianMixture

WIDE = torch.float64


def build(size: int = 2, components: int = 3, covariance: str = "full", **options: Any) -> GaussianMixture:
    return GaussianMixture(Schema(Vector(size)), Compose([]), size, components=components, covariance=covariance, **options)


def clusters(n: int, *centres: tuple[float, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, len(c), dtype=WIDE, generator=generator) + torch.tensor(c) for c in centres]
    return torch.cat(parts)


def batch(x: Tensor) -> Batch:
    return Batch(x, Draws(0, 0, len(x)))


def test_a_step_that_lowers_the_likelihood_is_caught() -> None:
    x = clusters(80, (0.0, 0.0), (4.0, 1.0))
    model = build()
    model.start(x, Draws(0, 0, len(x)))
    for _ in range(3):
        model.update(model.stats(batch(x)))
    wrong = model.stats(batch(x))
    wrong["first"] = wrong["first"] + 3 * wrong["count"][:, None]  # an M step that puts the means elsewhere
    wrong["second"] = wrong["second"] + 20 * wrong["count"][:, None, None] * torch.eye(2)
    model.update(wrong)
    with pytest.raises(TrainingDiverged, match="a step of EM took the objective from"):
        model.update(model.stats(batch(x)))


def test_other_rows_and_other_parameters_are_no_fall() -> None:
    x = clusters(80, (0.0, 0.0), (4.0, 1.0))
    model = build()
    model.start(x, Draws(0, 0, len(x)))
    state = {n: t.clone() for n, t in model.state_dict().items()}
    for _ in range(10):
        model.update(model.stats(batch(x)))
    model.load_state_dict(state)
    model.update(model.stats(batch(x)))
    model.update(model.stats(batch(x[:50] + 7)))  # another number of rows: not the same data


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("options", [{"floor": 0.3}, {"prior": 4.0}, {"prior": 2.0, "floor": 0.5}])
@pytest.mark.parametrize("gaps", [False, True])
def test_floors_and_priors_keep_the_objective_rising(covariance: str, options: dict[str, float], gaps: bool) -> None:
    """Components that would collapse on single rows: the constrained or penalised objective still never falls."""
    x = clusters(12, (0.0, 0.0, 1.0), (2.0, 1.0, 0.0))
    if gaps:
        x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2, math.nan)
    model = build(3, 6, covariance, **options)
    model.start(x, Draws(1, 0, len(x)))
    values = []
    for _ in range(40):
        stats = model.stats(batch(x))
        values.append(float(stats["likelihood"] + model.log_prior()))
        model.update(stats)
    assert (np.diff(values) > -1e-9).all()
    assert values[-1] > values[0] + 0.1
    assert float(torch.linalg.eigvalsh(model.covariances).min()) >= options.get("floor", 0.0) * (1 - 1e-12)


def test_a_floor_is_the_constrained_maximum() -> None:
    """One Gaussian: no covariance with eigenvalues above the floor is likelier, among many tried."""
    x = clusters(40, (0.0, 0.0, 0.0)) @ torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.3, 0.1], [0.0, 0.0, 0.1]], dtype=WIDE)
    model = build(3, 1, floor=0.2)
    model.fit_em(x)
    best = float(model.log_prob(x).sum())
    found, generator = model.covariances[0].clone(), torch.Generator().manual_seed(0)
    for scale, _ in itertools.product((0.003, 0.03, 0.3), range(40)):
        a = scale * torch.randn(3, 3, dtype=WIDE, generator=generator)
        values, vectors = torch.linalg.eigh(found + a + a.T)
        other = (vectors * values.clamp(min=0.2)) @ vectors.T
        model.densities.own.copy_(other[None])  # type: ignore[operator,union-attr]
        assert float(model.log_prob(x).sum()) <= best + 1e-9


def test_restarts_end_no_lower_than_any_of_them() -> None:
    x = clusters(20, *((4.0 * a, 3.0 * b) for a in range(4) for b in range(3)))
    single = []
    for r in range(4):
        model = build(2, 9)
        model.begin(model.digest(batch(x)), 9, Draws(3, 0, len(x)).fork(9).fork(r))
        model.run(model.digest(batch(x)), 100, 1e-5)
        single.append(float(model.log_prob(x).mean()))
    model = build(2, 9, restarts=4)
    model.start(x, Draws(3, 0, len(x)))
    assert max(single) > min(single) + 1e-3  # the starts differ
    assert float(model.log_prob(x).mean()) == pytest.approx(max(single), abs=1e-9)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_number_of_components_is_found_and_kept(criterion: str) -> None:
    x = clusters(150, (0.0, 0.0), (9.0, 0.0), (0.0, 9.0))
    model = build(2, 8, criterion=criterion, restarts=2)
    model.fit_em(x)
    assert model.used == 3 if criterion == "bic" else model.used >= 3
    assert float(model.weights.sum()) == pytest.approx(1)
    again = build(2, 8, criterion=criterion)
    again.load_state_dict(model.state_dict())  # of the same shapes however many are used
    torch.testing.assert_close(again.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_criteria_are_scikit_learns(covariance: str) -> None:
    from sklearn.mixture import GaussianMixture as Peer

    x = clusters(60, (0.0, 0.0, 1.0), (3.0, 1.0, 0.0))
    peer = Peer(2, covariance_type={"diagonal": "diag"}.get(covariance, covariance), random_state=0).fit(x.numpy())
    likelihood = float(peer.score(x.numpy()) * len(x))
    model = build(3, 2, covariance)
    assert CRITERIA["bic"](likelihood, model.free(), len(x)) == pytest.approx(peer.bic(x.numpy()))
    assert CRITERIA["aic"](likelihood, model.free(), len(x)) == pytest.approx(peer.aic(x.numpy()))


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("gaps", [False, True])
def test_a_row_of_weight_two_is_two_rows(covariance: str, gaps: bool) -> None:
    x = clusters(40, (0.0, 0.0, 1.0), (3.0, 1.0, 0.0))
    if gaps:
        x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2, math.nan)
    weight = torch.arange(len(x)) % 3
    model, twin = build(3, 2, covariance, prior=1.0), build(3, 2, covariance, prior=1.0)
    model.start(x, Draws(0, 0, len(x)), weight.to(WIDE))
    twin.load_state_dict(model.state_dict())
    seen, copies = model.digest(batch(x), weight.to(WIDE)), twin.digest(batch(x.repeat_interleave(weight, 0)))
    for _ in range(5):
        assert model.update(model.e_step(seen)) == pytest.approx(twin.update(twin.e_step(copies)), abs=1e-10)
    torch.testing.assert_close(model.weights, twin.weights)
    torch.testing.assert_close(model.means, twin.means)
    torch.testing.assert_close(model.covariances, twin.covariances)


def test_weights_that_mean_nothing_are_refused() -> None:
    x = clusters(10, (0.0, 0.0))
    for weight in (torch.ones(9), -torch.ones(10), torch.zeros(10)):
        with pytest.raises(ValueError, match="found weights of shape"):
            build(2, 1).fit_em(x, weight=weight)
    with pytest.raises(ValueError, match="criterion is one of bic, aic"):
        build(criterion="cic")
    with pytest.raises(ValueError, match="components must be at least 1, found 0"):
        build(components=0)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_gaps_are_integrals(covariance: str) -> None:
    """log p of what is known is the log of the integral of the density over what is not, by quadrature."""
    model = build(3, 2, covariance)
    model.fit_em(clusters(60, (0.0, 0.0, 1.0), (3.0, 1.0, 0.0)), iterations=5)
    nan = math.nan

    def density(*y: float) -> float:
        return float(model.log_prob(torch.tensor([y], dtype=WIDE)).exp())

    rows = torch.tensor([[0.5, nan, 0.2], [nan, 1.0, nan]], dtype=WIDE)
    found = model.log_prob(rows).exp()
    one, _ = quad(lambda b: density(0.5, b, 0.2), -12, 14, epsabs=1e-10)
    assert float(found[0]) == pytest.approx(one, rel=1e-6)
    two, _ = dblquad(lambda c, a: density(a, 1.0, c), -8, 11, -8, 9, epsabs=1e-6, epsrel=1e-6)
    assert float(found[1]) == pytest.approx(two, rel=1e-4)


def test_seeds_are_far_from_one_another() -> None:
    x = clusters(50, *((20.0 * i, 0.0) for i in range(6)))

    def far(y: Tensor, row: Tensor) -> Tensor:
        return (y - row).square().sum(1)

    for seed in range(5):
        u = torch.rand(6, dtype=WIDE, generator=torch.Generator().manual_seed(seed))
        assert sorted((plus_plus(x, 6, far, None, u) // 50).tolist()) == list(range(6))
    weight = (torch.arange(300) < 100).to(WIDE)  # only the first two clusters count
    chosen = plus_plus(x, 6, far, weight, u)
    assert int(chosen.max()) < 100
    assert len(chosen.unique()) == 6


# k-means


def test_k_means_is_scikit_learns_from_the_same_centres() -> None:
    x = clusters(70, (0.0, 0.0, 1.0), (3.0, 1.0, 0.0), (0.0, 4.0, 2.0))
    begun = x[[0, 5, 100, 180]].clone()
    for iterations in (1, 2, 3, 6):
        model = KMeans(Schema(Vector(3)), Compose([]), 3, components=4)
        model.centres.copy_(begun)
        told = [model.update(model.stats(batch(x))) for _ in range(iterations)]
        assert (np.diff(told) >= 0).all()
        peer = PeerKMeans(4, init=begun.numpy(), n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd")
        peer.fit(x.numpy())
        np.testing.assert_allclose(model.centres, peer.cluster_centers_, rtol=1e-10)
        assert np.array_equal(model.assign(x).numpy(), peer.labels_)
        np.testing.assert_allclose(model.encode(x), peer.transform(x.numpy()), rtol=1e-7, atol=1e-7)


def test_k_means_is_the_limit_of_a_narrow_mixture() -> None:
    x = clusters(50, (0.0, 0.0), (5.0, 2.0))
    hard = KMeans(Schema(Vector(2)), Compose([]), 2, components=3)
    soft = build(2, 3, "spherical")
    hard.centres.copy_(x[[0, 20, 80]])
    soft.densities.means.copy_(x[[0, 20, 80]])  # type: ignore[operator,union-attr]
    for _ in range(4):
        soft.densities.variances.fill_(1e-6)  # type: ignore[operator,union-attr]
        soft.weights.fill_(1 / 3)
        soft._forget()
        soft.update(soft.stats(batch(x)))
        hard.update(hard.stats(batch(x)))
        torch.testing.assert_close(soft.means, hard.centres)


def test_k_means_leaves_out_what_is_missing() -> None:
    x = clusters(30, (0.0, 0.0, 1.0), (6.0, 1.0, 0.0))
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(4)) < 0.25, math.nan)
    model = KMeans(Schema(Vector(3)), Compose([]), 3, components=2, restarts=3)
    model.start(x, Draws(0, 0, len(x)))
    model.update(model.stats(batch(x)))
    before = model.centres.clone()
    by_hand = np.array([[np.nansum((row - c) ** 2) for c in before.numpy()] for row in x.numpy()])
    np.testing.assert_allclose(model.distances(x), by_hand, atol=1e-9)
    assert model.update(model.stats(batch(x))) == pytest.approx(-by_hand.min(1).mean())
    for k in range(2):
        of = x.numpy()[by_hand.argmin(1) == k]
        np.testing.assert_allclose(model.centres[k], np.nanmean(of, 0), rtol=1e-9)


def test_every_family_shares_the_one_loop() -> None:
    for kind in (GaussianMixture, KMeans):
        assert issubclass(kind, EM)
        assert "update" not in vars(kind)
        assert "stats" not in vars(kind)


@pytest.mark.parametrize("name", ["gmm", "hmm", "bernoulli-mixture", "kmeans"])
def test_what_is_kept_between_iterations_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit whose rows are seen once and one that pulls them anew in blocks of 512: the same curve, the same parameters."""
    import pushforward as pf
    from pushforward.fitting import direct

    rng = np.random.default_rng(0)
    x: Any = rng.normal(size=(1500, 3)) + 4 * rng.integers(3, size=(1500, 1))
    data = ["".join(rng.choice(list("abcd"), 6)) for _ in range(1500)] if name == "hmm" else x
    options = {"components": 3, "steps": 6, "quiet": True, "device": "cpu", **({"length": 6} if name == "hmm" else {})}
    kept = pf.fit(data, name, **options)
    monkeypatch.setattr(direct, "_KEPT", 0)
    monkeypatch.setattr(direct, "_NUMBERS", 0)
    fresh = pf.fit(data, name, **options)
    found = zip(kept.model.state_dict().items(), fresh.model.state_dict().values(), strict=True)
    for (n, value), other in found:
        torch.testing.assert_close(other, value, rtol=1e-8, atol=1e-8, msg=lambda m, n=n: f"{n}: {m}")
