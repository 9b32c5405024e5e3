"""Noise between levels that is not uniform: bells, and noise that a flow draws. V is minus the logarithm of their density."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Compose
from pushforward.nets.convolution import ConvNet
from pushforward.transforms.coupling import CheckerboardCoupling, Coupling, checkerboard, halves
from pushforward.transforms.monotone import Affine
from pushforward.transforms.quantise import Dequantise, LevelBands, VariationalNoise
from pushforward.transforms.reshape import Squeeze

WIDE = torch.float64


def see(x: Tensor) -> Tensor:
    """Codes of two channels as four of half the size."""
    return torch.cat([x[..., ::2], x[..., 1::2]], 1).double() / 3 - 1


def noise(random: bool = True) -> VariationalNoise:
    """For two channels of 2×4 pixels: couplings of channels on squeezed noise, then of the colours of a chess board."""
    squeezed = Coupling(halves(4, 0), ConvNet(2, 4, (5,), spatial=4), Affine())
    other = Coupling(halves(4, 1), ConvNet(2, 4, (5,), spatial=4), Affine())
    flow = Compose([squeezed, other, Squeeze((1, 2))])
    made = VariationalNoise(flow, see, (4, 2, 2)).double()
    if random:
        generator = torch.Generator().manual_seed(3)
        for p in made.parameters():
            nn.init.normal_(p, std=0.1, generator=generator)
    return made


def test_noise_starts_uniform() -> None:
    n = 4000
    x = torch.randint(0, 4, (1, 2, 2, 4)).expand(n, -1, -1, -1)
    u, score = noise(random=False)(x, Draws(0, 0, n))
    torch.testing.assert_close(score, torch.zeros(n, dtype=WIDE), atol=1e-12, rtol=0.0)
    for values in u.detach().flatten(1).unbind(1):
        assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-4


def test_noise_is_drawn_from_the_density_it_reports() -> None:
    """E over the noise of f(u)/q(u) is the integral of f over the cube, whatever q."""
    torch.manual_seed(0)
    n = 60_000
    x = torch.randint(0, 4, (1, 2, 2, 4)).expand(n, -1, -1, -1)
    with torch.no_grad():
        u, score = noise()(x, Draws(0, 0, n))
    assert u.shape == (n, 2, 2, 4)
    assert ((u > 0) & (u < 1)).all()
    flat, weight = u.flatten(1), score.exp()
    assert float(score.std()) > 0.3
    assert max(stats.kstest(v.numpy(), "uniform").statistic for v in flat.unbind(1)) > 0.1  # far from uniform
    error = 5 * float(weight.std()) / n**0.5
    assert error < 0.1
    assert float(weight.mean()) == pytest.approx(1, abs=error)
    for i, values in enumerate(flat.unbind(1)):  # and in each coordinate ∫ 2u du = 1, ∫ sin²(πku) du = ½
        assert float((weight * 2 * values).mean()) == pytest.approx(1, abs=1.5 * error)
        assert float((weight * (torch.pi * (i + 1) * values).sin().square()).mean()) == pytest.approx(0.5, abs=error)


def test_noise_belongs_to_its_codes_and_has_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 4, (6, 2, 2, 4))
    made = noise()
    u, score = made(x, Draws(2, 0, 6))
    other, _ = made((x + 1) % 4, Draws(2, 0, 6))
    assert float(torch.isclose(u, other).float().mean()) < 0.05
    part, some = made(x[2:5], Draws(2, 2, 5))
    torch.testing.assert_close(part, u[2:5])
    torch.testing.assert_close(some, score[2:5])
    (u.square().sum() + score.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())


def test_extreme_noise_stays_finite() -> None:
    made = noise()
    for p in made.parameters():
        p.data.mul_(300)
    x = torch.randint(0, 4, (50, 2, 2, 4))
    u, score = made(x, Draws(0, 0, 50))
    assert score.isfinite().all()
    assert ((u >= 0) & (u <= 1)).all()


def test_dequantised_values_stay_in_their_cells() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 4, (300, 2, 2, 4), dtype=torch.uint8)
    made = noise()
    transform = Dequantise(1.0, (0.0, 3.0), made)
    z, score = transform.pull(x, None, Draws(1, 0, 300))
    u, truth = made(x, Draws(1, 0, 300))
    torch.testing.assert_close(z, x + u - 0.5)
    torch.testing.assert_close(score, truth)
    assert torch.equal(transform.push(z), x.double())


# bells


def prepared(width: float, noise: VariationalNoise | None = None) -> tuple[LevelBands, Tensor]:
    torch.manual_seed(1)
    x = (torch.rand(200, 2, 2, 4) ** 2 * 4).floor().to(torch.uint8)
    x[:, 0] = torch.where(torch.rand(200, 2, 4) < 0.7, 0, x[:, 0])
    x[:, 1, 0] = torch.where(torch.rand(200, 4) < 0.6, 2, x[:, 1, 0])
    transform = LevelBands((2, 2, 4), 4, width=width, bell=True, noise=noise).double()
    transform.prepare(x)
    return transform, x


@pytest.mark.parametrize("width", [0.2, 0.6, 3.0])
def test_frequent_levels_get_a_normal_cut_off_at_the_ends_of_their_interval(width: float) -> None:
    transform, _ = prepared(width)
    sigma, n, bells = width / 12**0.5, 400, 0
    for level in range(4):
        codes = torch.full((n, 2, 2, 4), level, dtype=torch.uint8)
        z, score = transform.pull(codes, None, Draws(level, 0, n))
        total = torch.zeros(n, dtype=WIDE)
        for channel in range(2):
            low, high = transform.edges[channel, level : level + 2].tolist()
            band = float(transform.wide[channel, level])
            middle = float(transform.low[channel, level]) + band / 2
            if band >= width * (1 - 1e-9):
                law = stats.truncnorm((low - middle) / sigma, (high - middle) / sigma, middle, sigma)
                bells += 1
            else:
                law = stats.uniform(low, high - low)
            values = z[:, channel]
            assert stats.kstest(values.flatten().numpy(), law.cdf).pvalue > 1e-4
            total -= torch.from_numpy(law.logpdf(values.flatten(1).numpy())).sum(1)
        torch.testing.assert_close(score, total)
        assert torch.equal(transform.push(z), codes)
    assert bells >= 2


def test_weights_of_a_bell_add_up_to_the_mass_of_the_level() -> None:
    """E over the noise of φ(z) e^V is the mass of the whole interval, the level's frequency, where a band has only its own."""
    transform, x = prepared(2.5)
    normal, n = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1), 4000
    for level in range(4):
        codes = torch.full((n, 2, 2, 4), level)
        u = Draws(level, 0, n).uniform(2, 2, 4, dtype=WIDE)
        z, _ = transform.pull(codes, None, Draws(level, 0, n))
        low, high = (e[:, None, None] for e in (transform.edges[:, level], transform.edges[:, level + 1]))
        assert ((z >= low) & (z <= high)).all()
        bell, slope = transform._quantile(codes, u)
        weight = (normal.log_prob(bell) + slope).exp().transpose(0, 1).flatten(1)
        for channel in range(2):
            frequency = (float((x[:, channel] == level).sum()) + 0.5) / (x[:, channel].numel() + 2)
            error = 5 * float(weight[channel].std()) / weight.shape[1] ** 0.5
            assert error < 0.06
            assert float(weight[channel].mean()) == pytest.approx(frequency, abs=error)


def test_noise_that_is_drawn_bends_bands_and_bells() -> None:
    made = noise()
    transform, x = prepared(0.6, made)
    plain, _ = prepared(0.6)
    z, score = transform.pull(x, None, Draws(5, 0, len(x)))
    assert torch.equal(transform.push(z), x)
    u, bend = made(x, Draws(5, 0, len(x)))

    class Given:
        def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
            return u, torch.zeros(len(x), dtype=WIDE)

    plain.noise = Given()
    truth, slope = plain.pull(x, None, Draws(5, 0, len(x)))
    torch.testing.assert_close(z, truth)
    torch.testing.assert_close(score, slope + bend)
    # the slope of the quantile function is what autograd says it is
    leaf = u.detach().requires_grad_()
    Given.__call__ = lambda self, x, draws: (leaf, torch.zeros(len(x), dtype=WIDE))  # type: ignore[method-assign]
    z, slope = plain.pull(x, None, Draws(5, 0, len(x)))
    (gradient,) = torch.autograd.grad(z.sum(), leaf)
    torch.testing.assert_close(gradient.log().flatten(1).sum(1), slope.detach())


def test_a_board_of_noise_sees_the_picture_at_full_size() -> None:
    board = [
        CheckerboardCoupling(checkerboard(3, 3, i), 1, ConvNet(1, 2, (4,), spatial=1, zero_last=False), Affine())
        for i in range(2)
    ]
    made = VariationalNoise(Compose(board), lambda x: x.float() / 3, (1, 3, 3))
    x = torch.randint(0, 4, (5, 1, 3, 3))
    u, score = made(x, Draws(0, 0, 5))
    assert u.shape == x.shape
    assert score.shape == (5,)
    with pytest.raises(ValueError, match="spatial context"):
        made.flow.push(torch.zeros(5, 1, 3, 3), Context())
