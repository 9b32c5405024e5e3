"""Bands of pixel levels: uniform noise inside the interval each level owns, and V the log of its width."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.core.random import Draws
from pushforward.transforms.quantise import LevelBands

WIDTH = 0.6


def bands(levels: int, seed: int = 0) -> tuple[LevelBands, Tensor]:
    torch.manual_seed(seed)
    x = (torch.rand(60, 2, 4, 5) ** 2 * levels).floor().clamp(max=levels - 1)
    x[:, 0] = torch.where(torch.rand(60, 4, 5) < 0.7, 0, x[:, 0])  # a black background in one channel
    x = x.to(torch.uint8)
    transform = LevelBands((2, 4, 5), levels, width=WIDTH).double()
    transform.prepare(x)
    return transform, x


def intervals(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Each channel's interval of z by scipy's quantiles of the smoothed frequencies, (2, L)."""
    ends = []
    for channel in x.transpose(0, 1).flatten(1):
        counts = torch.bincount(channel.long(), minlength=levels).double() + 0.5
        p = torch.cat([torch.zeros(1, dtype=torch.float64), (counts / counts.sum()).cumsum(0)]).clamp(max=1)
        ends.append(torch.from_numpy(stats.norm.ppf(p.numpy())))
    edges = torch.stack(ends)
    edges[:, -1] = torch.inf
    return edges[:, :-1], edges[:, 1:]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_level_comes_back_whatever_the_noise(levels: int) -> None:
    transform, x = bands(levels)
    every = torch.arange(levels, dtype=torch.uint8).repeat(20)[: (20 * levels) // 40 * 40].view(-1, 2, 4, 5)
    for codes in (x, every):
        z, score = transform.pull(codes, None, Draws(1, 0, len(codes)))
        assert torch.equal(transform.push(z), codes)
        assert score.isfinite().all()
        assert torch.equal(transform.float().push(z.float()), codes)
        transform.double()


@pytest.mark.parametrize("levels", [2, 17])
def test_noise_is_uniform_in_a_band_of_the_levels_own_interval(levels: int) -> None:
    transform, x = bands(levels)
    low, high = intervals(x, levels)
    n = 200
    for level in range(levels):
        codes = torch.full((n, 2, 4, 5), level, dtype=torch.uint8)
        z, score = transform.pull(codes, None, Draws(level, 0, n))
        spread = []
        for channel in range(2):
            values = z[:, channel].flatten()
            assert (values >= low[channel, level]).all()
            assert (values <= high[channel, level]).all()
            spread.append(min(WIDTH, float(high[channel, level] - low[channel, level])))
            start = float(values.min())
            fits = stats.kstest(((values - start) / spread[-1]).numpy(), "uniform")
            assert fits.statistic < 0.03  # so the band is as wide as it can be, up to the greatest width
        truth = 20 * (torch.tensor(spread, dtype=torch.float64).log().sum())
        torch.testing.assert_close(score, truth.expand(n))


def test_the_bound_never_exceeds_the_mass_of_the_level() -> None:
    """E over the noise of φ(z) e^V is the mass that N(0, 1) gives the band: at most w_k, and all of it in a narrow interval."""
    levels = 17
    transform, x = bands(levels)
    low, high = intervals(x, levels)
    mass = torch.from_numpy(stats.norm.cdf(high.numpy()) - stats.norm.cdf(low.numpy()))
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)
    n = 300
    for level in range(levels):
        z, _ = transform.pull(torch.full((n, 2, 4, 5), level, dtype=torch.uint8), None, Draws(level, 0, n))
        wide = torch.tensor([min(WIDTH, float(h - lo)) for lo, h in zip(low[:, level], high[:, level], strict=True)])
        weights = (normal.log_prob(z) + wide.double().log()[:, None, None]).exp().transpose(0, 1).flatten(1)
        error = 5 * weights.std(1) / weights.shape[1] ** 0.5 + 1e-9
        assert (weights.mean(1) < mass[:, level] + error).all()
        inside = (high[:, level] - low[:, level]) < WIDTH
        assert ((weights.mean(1) - mass[:, level]).abs() < error)[inside].all()


def test_any_latent_gives_a_valid_level() -> None:
    transform, _ = bands(17)
    z = torch.tensor([-1e6, -9.0, 9.0, 1e6])[:, None, None, None].expand(-1, 2, 4, 5)
    codes = transform.push(z)
    assert codes.dtype == torch.uint8
    assert codes.flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 16, 16]


def test_the_smooth_push_goes_through_the_levels_and_has_a_gradient() -> None:
    torch.manual_seed(0)
    bands = LevelBands((2, 3, 4), 7)
    x = torch.randint(0, 7, (50, 2, 3, 4), dtype=torch.uint8)
    bands.prepare(x)
    middle = (bands.low + bands.wide / 2)[:, :, None, None].expand(-1, -1, 3, 4).transpose(0, 1)
    torch.testing.assert_close(bands.smooth(middle), torch.arange(7.0).view(7, 1, 1, 1).expand(7, 2, 3, 4).to(middle.dtype))
    z = torch.randn(20, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    soft = bands.smooth(z)
    assert float((soft.detach() - bands.push(z.detach()).double()).abs().max()) < 1
    (slope,) = torch.autograd.grad(soft.sum(), z)
    assert (slope >= 0).all()
    assert float(slope.max()) > 0
