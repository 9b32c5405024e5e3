"""Composition and inversion keep the pushforward's bookkeeping; bases are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.distribution import BASES, Logistic, Normal
from pushforward.core.random import Draws
from pushforward.core.transform import Compose, Inverse, Transform
from pushforward.transforms.coupling import Coupling, alternating
from pushforward.transforms.monotone import Additive
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.reshape import Flatten
from pushforward.transforms.univariate import Interval, Scale, Standardise


class Bend(Transform):
    """x = z + a sinh(z), element by element: a bijection that knows V only by its formula."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return z + self.a * z.sinh()

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z = x.asinh()
        for _ in range(50):
            z = z - (self.push(z) - x) / (1 + self.a * z.cosh())
        return z, -(1 + self.a * z.cosh()).log().sum(1)


def chain() -> Compose:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    scale = Scale(4).double()
    nn.init.normal_(scale.log_scale)
    shift = Standardise((4,)).double()
    shift.mean.normal_()
    shift.std.uniform_(0.5, 2)
    return Compose([scale, Coupling(alternating(4, 1), lambda a, context: net(a), Additive()), Bend(0.7), shift])


def slope(transform: Transform, x: Tensor) -> Tensor:
    rows = [torch.autograd.functional.jacobian(lambda v: transform.pull(v[None])[0][0], row) for row in x]
    return torch.linalg.slogdet(torch.stack(rows)).logabsdet


@pytest.mark.parametrize("invert", [False, True])
def test_chains_and_their_inverses_score_by_the_jacobian(invert: bool) -> None:
    transform = chain().inverse() if invert else chain()
    x = torch.randn(6, 4, dtype=torch.float64)
    z, score = transform.pull(x)
    torch.testing.assert_close(transform.push(z), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(score, slope(transform, x), rtol=1e-8, atol=1e-8)
    pushed, scored = transform.push_scored(z)
    torch.testing.assert_close(pushed, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scored, score, rtol=1e-9, atol=1e-9)


def test_the_inverse_of_an_inverse_is_the_map() -> None:
    bend = Bend(0.3)
    assert isinstance(bend.inverse(), Inverse)
    assert bend.inverse().inverse() is bend


def test_an_empty_chain_is_the_identity() -> None:
    x = torch.randn(3, 2)
    for z, score in (Compose([]).pull(x), Compose([]).push_scored(x)):
        assert torch.equal(z, x)
        assert torch.equal(score, torch.zeros(3))


def test_stochastic_maps_have_no_inverse() -> None:
    assert Compose([Scale(2), Dequantise(1.0)]).stochastic
    assert not Compose([Scale(2)]).stochastic
    for transform in (Dequantise(1.0), Compose([Scale(2), Dequantise(1.0)])):
        with pytest.raises(TypeError, match="stochastic"):
            transform.inverse()


def test_known_coordinates_pass_only_elementwise_parts() -> None:
    observed = torch.rand(3, 1, 2, 2) < 0.5
    known = Compose([Scale(4), Flatten((1, 2, 2)), Interval(0, 3)]).spread(observed)
    assert torch.equal(known, observed.flatten(1))
    with pytest.raises(TypeError, match="Bend mixes coordinates"):
        chain().spread(torch.ones(2, 4, dtype=torch.bool))


def test_prepare_hands_each_part_what_the_later_ones_pull_back() -> None:
    inner, outer = Standardise((2,)).double(), Standardise((2,)).double()
    x = 5 + 3 * torch.randn(50, 2, dtype=torch.float64)
    y = Compose([inner, Bend(0.7), outer]).prepare(x)
    torch.testing.assert_close(outer.mean, x.mean(0))
    bent = Bend(0.7).pull((x - x.mean(0)) / x.std(0, unbiased=False))[0]
    torch.testing.assert_close(inner.mean, bent.mean(0))
    torch.testing.assert_close(y.std(0, unbiased=False), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(("base", "truth"), [(Normal, stats.norm), (Logistic, stats.logistic)])
def test_bases_are_what_scipy_says(base: type[Normal] | type[Logistic], truth: stats.rv_continuous) -> None:
    z = 8 * torch.randn(50, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(base((3, 2)).log_prob(z), torch.from_numpy(truth.logpdf(z.numpy()).sum((1, 2))))
    one = base((1,))
    mass, _ = integrate.quad(lambda v: math.exp(float(one.log_prob(torch.tensor([[v]], dtype=torch.float64)))), -60, 60)
    assert mass == pytest.approx(1, abs=1e-6)
    sample = one.sample(Draws(0, 0, 5000), dtype=torch.float64)[:, 0]
    assert stats.kstest(sample.numpy(), truth.cdf).pvalue > 1e-3


def test_extreme_latents_have_finite_densities() -> None:
    for name, base in BASES.items():
        if name != "uniform":  # which knows where it ends
            assert base((2,)).log_prob(torch.tensor([[1e4, -1e4]])).isfinite().all()
