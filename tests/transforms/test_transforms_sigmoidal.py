"""Sums of sigmoids against mixtures of logistics, and their tails."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions

from pushforward.transforms.sigmoidal import Sigmoids

WIDE = torch.float64


def test_the_map_is_the_logit_of_a_mixture_of_logistics() -> None:
    monotone = Sigmoids(5, slope=1e-9)
    p = torch.randn(40, 15, 2, dtype=WIDE)
    x = 2 * torch.randn(40, 2, dtype=WIDE)
    log_a, b, w = p.unflatten(1, (3, 5)).transpose(2, 3).unbind(1)  # (40, 2, 5)
    log_a = log_a / (1 + log_a.abs() / -math.log(1e-9))
    b = b * torch.linspace(0.5, 4, 5, dtype=WIDE)
    logistic = distributions.TransformedDistribution(
        distributions.Uniform(torch.zeros_like(b), torch.ones_like(b)),
        [distributions.SigmoidTransform().inv, distributions.AffineTransform(-b / log_a.exp(), 1 / log_a.exp())],
    )
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=w), logistic)
    z, score = monotone.pull(x, p)
    torch.testing.assert_close(z, torch.logit(mixture.cdf(x)), rtol=1e-7, atol=1e-7)
    # a logistic base makes the density of the mixture
    base = -torch.nn.functional.softplus(z) - torch.nn.functional.softplus(-z)
    torch.testing.assert_close(base.sum(1) + score, mixture.log_prob(x).sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("far", [1e4, -1e4, 1e7, -1e30])
def test_tails_are_lines_of_the_least_slope(dtype: torch.dtype, far: float) -> None:
    monotone = Sigmoids(6)
    p = torch.randn(200, 18, 1, dtype=dtype)
    x = torch.full((200, 1), far, dtype=dtype)
    z, score = monotone.pull(x, p)
    log_a = p[:, :6, 0].double()
    a = (log_a / (1 + log_a.abs() / math.log(100))).exp()
    apart = (a[:, :, None] - a[:, None, :]).abs() + 9 * torch.eye(6, dtype=WIDE)
    clear = apart.flatten(1).amin(1) > 1e-2  # else two lines of almost the same slope are not yet told apart
    slope = 0.99 * a.amin(1) + 0.01
    assert clear.sum() > 50
    torch.testing.assert_close(score.double()[clear], slope.log()[clear], rtol=0, atol=1e-5 if dtype != WIDE else 1e-12)
    torch.testing.assert_close(z.double()[clear, 0] / far, slope[clear], rtol=2e-2, atol=0)


def test_a_gap_between_steep_sigmoids_keeps_the_least_slope() -> None:
    monotone = Sigmoids(2, slope=1e-2)
    p = torch.tensor([80.0, 80.0, 2000.0, -250.0, 0.0, 0.0], dtype=WIDE)[None, :, None]  # steps about 20 either side of zero
    z, score = monotone.pull(torch.zeros(1, 1, dtype=WIDE), p)
    assert score.item() == pytest.approx(math.log(1e-2), abs=1e-6)
    assert monotone.push(z, p).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("settings", [{"components": 0}, {"slope": 0.0}, {"slope": 1.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        Sigmoids(**settings)
