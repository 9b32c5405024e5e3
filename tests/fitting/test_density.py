"""Flows fitted to densities whose normaliser is known: Gaussians, a banana, bounded ones; what cannot be fitted is refused."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.core.context import Conditioner
from pushforward.core.distribution import FullNormal, Normal
from pushforward.core.errors import DataError, RecipeError, TrainingDiverged, Unsupported
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Schema, Table, Vector
from pushforward.core.transform import Compose
from pushforward.fitting import density
from pushforward.fitting.target import Place, Target
from pushforward.metrics.importance import importance
from pushforward.models.flow import Flow
from pushforward.nets.mlp import MLP
from pushforward.transforms.coupling import Coupling, alternating
from pushforward.transforms.monotone import Affine
from pushforward.transforms.tabular import NumberMarginals

SMALL: dict[str, Any] = {"transforms": 4, "hidden": (16, 16), "quiet": True, "batch_size": 64}
MEAN = torch.tensor([2.0, -1.0, 0.5])
COVARIANCE = torch.tensor([[1.0, 0.6, -0.3], [0.6, 2.0, 0.2], [-0.3, 0.2, 0.5]])
LOG_Z = 2.7


def gaussian(x: Tensor) -> Tensor:
    truth = torch.distributions.MultivariateNormal(MEAN.to(x.dtype), COVARIANCE.to(x.dtype))
    return truth.log_prob(x) + LOG_Z


@pytest.fixture(scope="module")
def fitted() -> density.FittedDensity:
    return pf.fit_to_density(gaussian, 3, "nice", steps=400, **SMALL)


def test_a_gaussian_is_found_with_its_normaliser(fitted: density.FittedDensity) -> None:
    found = fitted.importance(5000)
    assert found.log_normaliser.value == pytest.approx(LOG_Z, abs=1e-2)
    assert found.efficiency > 0.95
    assert found.trustworthy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted.log_normaliser(5000) == found.log_normaliser
    assert fitted.effective_sample_size(5000) == found.effective
    x = fitted.sample(4000)
    assert isinstance(x, Tensor)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0.0, atol=0.1)
    torch.testing.assert_close(torch.cov(x.T), COVARIANCE, rtol=0.1, atol=0.12)
    error = fitted.log_prob(x) - (gaussian(x) - LOG_Z).numpy()
    assert abs(float(error.mean())) < 0.03
    # the loss is KL − log Z
    assert fitted.history[-1].train == pytest.approx(-LOG_Z, abs=0.1)
    assert [r.step for r in fitted.history] == list(range(10, 401, 10))


def test_weights_belong_to_draws_and_seeds(fitted: density.FittedDensity) -> None:
    x, weights = fitted.log_weights(300, seed=1)
    again, parts = fitted.log_weights(300, seed=1, chunk=70)
    torch.testing.assert_close(again, x, rtol=1e-5, atol=1e-5)  # sums of fewer rows may be made in another order
    torch.testing.assert_close(parts, weights, rtol=1e-4, atol=1e-5)
    assert not torch.equal(fitted.log_weights(300, seed=2)[0], x)
    torch.testing.assert_close(weights, gaussian(x).double() - torch.from_numpy(fitted.log_prob(x)), rtol=1e-3, atol=1e-3)
    assert importance(weights).n == 300
    with pytest.raises(RecipeError, match="at least 1"):
        fitted.log_weights(0)


def test_the_flow_is_saved_and_has_all_its_verbs(fitted: density.FittedDensity, tmp_path: Any) -> None:
    fitted.save(tmp_path / "run")
    again = pf.load(tmp_path / "run")
    x = fitted.sample(20)
    assert torch.equal(again.sample(20), x)
    np.testing.assert_array_equal(again.log_prob(x), fitted.log_prob(x))
    assert again.recipe["data"]["name"] == "gaussian"
    way = fitted.fitted.interpolate(x[:2], x[2:4], steps=5)
    torch.testing.assert_close(way[[0, 4, 5, 9]], x[[0, 2, 1, 3]], rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_flow() -> None:
    found = [pf.fit_to_density(gaussian, 3, "nice", steps=4, seed=s, **SMALL).sample(50) for s in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def banana(x: Tensor) -> Tensor:
    return -0.5 * x[:, 0].square() - 2 * (x[:, 1] - 0.5 * x[:, 0].square()).square()


@pytest.mark.parametrize("estimator", ["path", "total"])
def test_a_banana_has_the_integral_of_its_grid(estimator: Any) -> None:
    grid = [torch.linspace(-8, 8, 801, dtype=torch.float64), torch.linspace(-6, 36, 2001, dtype=torch.float64)]
    mass = torch.stack([banana(torch.stack([a.expand(2001), grid[1]], 1)).exp().sum() for a in grid[0]]).sum()
    truth = math.log(float(mass) * float(grid[0][1] - grid[0][0]) * float(grid[1][1] - grid[1][0]))
    assert truth == pytest.approx(math.log(math.pi), abs=1e-6)
    found = pf.fit_to_density(banana, 2, "nice", steps=350, estimator=estimator, dtype=torch.float64, **SMALL).importance(8000)
    assert found.log_normaliser.value == pytest.approx(truth, abs=4 * found.log_normaliser.standard_error + 0.02)
    assert found.efficiency > 0.6


def test_bounds_are_kept_and_a_density_with_an_edge_is_found() -> None:
    def truncated(x: Tensor) -> Tensor:  # a half-normal, and Beta(2, 3) without its constant, 1/12
        return -0.5 * x[:, 0].square() + x[:, 1].log() + 2 * torch.log1p(-x[:, 1])

    found = pf.fit_to_density(truncated, 2, "nice", steps=400, bounds={0: (0, None), 1: (0, 1)}, **SMALL)
    x = found.sample(5000)
    assert float(x.min()) >= 0
    assert float(x[:, 1].max()) <= 1
    summary = found.importance(8000)
    truth = 0.5 * math.log(math.pi / 2) - math.log(12)
    assert summary.log_normaliser.value == pytest.approx(truth, abs=4 * summary.log_normaliser.standard_error + 0.01)
    assert summary.efficiency > 0.7
    assert found.seen is not None  # the search for a start works without the flow, and has no edges where it works
    assert found.seen.log_normaliser.value == pytest.approx(truth, abs=0.05)
    assert found.fitted.schema.example.bounds == ((0.0, math.inf), (0.0, 1.0))  # type: ignore[attr-defined]


# the start


def place(d: int) -> Place:
    marginals = Compose([NumberMarginals([0.0] * d)])
    return Place(Flow(Schema(Vector(d)), Normal((d,)), Compose([]), Conditioner(()), preprocess=marginals))


def test_the_search_finds_place_and_scale_however_far_and_narrow() -> None:
    def far(x: Tensor) -> Tensor:
        return -0.5 * ((x - torch.tensor([40.0, -7.0])) / torch.tensor([0.05, 3.0])).square().sum(1)

    found = place(2)
    found.search(Target(far, torch.float32, torch.device("cpu")), 0)
    torch.testing.assert_close(found.mean, torch.tensor([40.0, -7.0]).double(), rtol=0.0, atol=0.15)
    torch.testing.assert_close(found.std, torch.tensor([0.05, 3.0]).double(), rtol=0.1, atol=0.0)
    assert found.seen is not None
    assert found.seen.log_normaliser.value == pytest.approx(math.log(2 * math.pi * 0.05 * 3), abs=0.1)
    points = found.points()
    torch.testing.assert_close(points.mean(0), found.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(points.std(0), found.std, rtol=1e-2, atol=0.0)
    assert abs(float(torch.corrcoef(points.T)[0, 1])) < 0.05


def modes(x: Tensor) -> Tensor:
    apart = torch.stack([x + 3, x - 3]).square().sum(-1) / (2 * 0.25)
    return torch.logsumexp(torch.tensor([[0.3], [0.7]]).log() - apart, 0) - math.log(2 * math.pi * 0.25) / 2


def test_modes_that_the_fit_misses_are_told() -> None:
    line = place(1)
    line.search(Target(modes, torch.float32, torch.device("cpu")), 0)
    assert float(line.std) > 2
    missing = pf.fit_to_density(modes, 1, "nice", steps=150, points=np.linspace(2.5, 3.5, 50)[:, None], anneal=0.0, **SMALL)
    assert missing.importance(2000).log_normaliser.value == pytest.approx(math.log(0.7), abs=0.05)
    missing.seen = line.seen
    with pytest.warns(UserWarning, match="the search for a start saw"):
        missing.log_normaliser(2000)


def test_uneven_weights_are_told() -> None:
    heavy = lambda x: -1.2 * torch.log1p(x.square().sum(1))
    rough = pf.fit_to_density(heavy, 2, "nice", steps=2, anneal=0.0, **SMALL)
    with pytest.warns(UserWarning, match="not to be trusted"):
        rough.log_normaliser(3000)


def test_flows_built_by_hand_descend_too() -> None:
    """The same descent on a flow of affine couplings that no catalog entry made."""
    torch.manual_seed(0)
    layers = []
    for i in range(3):
        stays = alternating(3, i)
        a = int(stays.sum())
        layers.append(Coupling(stays, MLP(a, 2 * (3 - a), (16,), zero_last=True), Affine()))
    flow = Flow(
        Schema(Vector(3)), Normal((3,)), Compose(layers), Conditioner(()), preprocess=Compose([NumberMarginals([0.0] * 3)])
    )
    target, start = Target(gaussian, torch.float32, torch.device("cpu")), Place(flow)
    start.search(target, 0)
    flow.prepare(start.points())
    settings = {
        "steps": 300,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "clip": 10.0,
        "estimator": "path",
        "anneal": 0.3,
        "seed": 0,
    }
    density._descend(flow, target, start, settings, None, density.Progress("", quiet=True))
    with torch.no_grad():
        x, log_q = flow.sample_and_log_prob(4000, None, Draws(3, 0, 4000))
    found = importance(gaussian(x).double() - log_q.double())
    assert found.log_normaliser.value == pytest.approx(LOG_Z, abs=1e-2)
    assert found.efficiency > 0.95


def test_the_path_gradient_is_the_gradient_without_its_noise() -> None:
    """Where q = p every sample's path gradient is zero; the total gradient is so only on average."""
    flow = Flow(Schema(Vector(2)), FullNormal((2,)), Compose([]), Conditioner(()))
    target = Target(lambda x: -0.5 * x.square().sum(1), torch.float32, torch.device("cpu"))
    moved = {}
    for estimator in ("path", "total"):
        settings = {
            "steps": 1,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "clip": 0.0,
            "estimator": estimator,
            "anneal": 0.0,
            "seed": 0,
        }
        density._descend(flow, target, Place(flow), settings, None, density.Progress("", quiet=True))
        moved[estimator] = max(float(p.grad.abs().max()) for p in flow.parameters() if p.grad is not None)
        for p in flow.parameters():
            p.data.zero_()
    assert moved["path"] < 1e-6
    assert moved["total"] > 1e-3


# what is refused


def silent(x: Tensor) -> Tensor:
    return torch.zeros(len(x))


def holed(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] > 0, -x.square().sum(1), -math.inf)


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no family": ((gaussian, 3, "nsff"), {}, RecipeError, "did you mean 'nsf'"),
    "no flow": ((gaussian, 3, "vae"), {}, Unsupported, "vae cannot be fitted to a density, only flows can: nice"),
    "no layers": ((gaussian, 3, "independent"), {}, Unsupported, "only flows can"),
    "dimensions": ((gaussian, 0), {}, RecipeError, "at least 1"),
    "shape": ((lambda x: x, 3, "nice"), {}, DataError, r"tensor of shape \(64, 3\).*expected a tensor of shape \(64,\)"),
    "no tensor": ((lambda x: 3.0, 3, "nice"), {}, DataError, "log_density gave a float"),
    "no gradient": ((silent, 3, "nice"), {}, DataError, "there is no gradient"),
    "minus infinity": ((holed, 3, "nice"), {}, DataError, r"log_density is -inf at \(.*bounds="),
    "nan": ((lambda x: x.sum(1) * math.nan, 3, "nice"), {}, DataError, r"log_density is nan at \("),
    "steps": ((gaussian, 3, "nice"), {"steps": 0}, RecipeError, "steps must be at least 1"),
    "estimator": ((gaussian, 3, "nice"), {"estimator": "best"}, RecipeError, "path or total"),
    "anneal": ((gaussian, 3, "nice"), {"anneal": 1.0}, RecipeError, "below 1"),
    "learning rate": ((gaussian, 3, "nice"), {"learning_rate": 0.0}, RecipeError, "above 0"),
    "option": ((gaussian, 3, "nice"), {"bins": 3}, RecipeError, "no option 'bins'"),
    "bounds": ((gaussian, 3, "nice"), {"bounds": (1, 0)}, DataError, "lower < upper"),
    "points": ((gaussian, 3, "nice"), {"points": np.zeros((5, 2))}, DataError, r"\(5, 2\).*\(N, 3\)"),
    "schema and bounds": ((gaussian, Schema(Vector(3)), "nice"), {"bounds": (0, 1)}, RecipeError, "not both"),
    "condition": ((gaussian, Schema(Vector(3), (Column("a"),)), "nice"), {}, Unsupported, "without conditions"),
    "grid": (
        (gaussian, Schema(Table((Column("a", ColumnKind.INTEGER, resolution=1.0),))), "nice"),
        {},
        Unsupported,
        "continuous numbers",
    ),
    "device": ((gaussian, 3, "nice"), {"device": "gpu"}, RecipeError, "device 'gpu' cannot be used"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_fitted_is_refused_in_a_line(case: str) -> None:
    given, options, kind, words = BAD[case]
    with pytest.raises(kind, match=words) as caught:
        pf.fit_to_density(*given, **{**SMALL, "steps": 2, **options})
    assert "\n" not in str(caught.value)


def test_gradients_that_are_not_finite_are_passed_over_and_then_told() -> None:
    def kinked(x: Tensor) -> Tensor:  # finite everywhere, with a gradient of 0 · ∞ at every point
        return -x.square().sum(1) + 0 * (x - x.detach()).abs().sqrt().sum(1)

    with pytest.raises(TrainingDiverged, match="gradient was not finite for 50 steps"):
        pf.fit_to_density(kinked, 2, "nice", steps=60, points=np.random.default_rng(0).normal(size=(50, 2)), **SMALL)


def test_the_callback_sees_and_stops() -> None:
    seen = []

    def stop(record: Any) -> bool:
        seen.append(record.step)
        return len(seen) < 3

    points = np.random.default_rng(0).normal(size=(50, 3))
    found = pf.fit_to_density(gaussian, 3, "nice", steps=80, callback=stop, points=points, **SMALL)
    assert seen == [2, 4, 6]
    assert [r.step for r in found.history] == seen
    assert found.fitted.recipe["steps"] == 6


def test_a_table_of_numbers_is_an_example_too() -> None:
    columns = (Column("a", bounds=(0.0, math.inf)), Column("b"))
    found = pf.fit_to_density(lambda x: -x[:, 0] - 0.5 * x[:, 1].square(), Schema(Table(columns)), "nice", steps=120, **SMALL)
    frame = found.sample(500)
    assert list(frame.columns) == ["a", "b"]
    assert frame["a"].min() >= 0
    assert found.importance(3000).log_normaliser.value == pytest.approx(0.5 * math.log(2 * math.pi), abs=0.1)


def test_a_density_that_is_only_estimated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Flow.__init__
    monkeypatch.setattr(
        Flow, "__init__", lambda self, *given, **options: build(self, *given, weights_are_exact=False, **options)
    )
    with pytest.raises(Unsupported, match="nice with these options estimates its own density"):
        pf.fit_to_density(gaussian, 3, "nice", steps=2, **SMALL)
