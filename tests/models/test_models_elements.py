"""The distributions of single elements: they normalise, sample what they score, and examples come apart and together again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table, Vector
from pushforward.models.elements import Block, Levels, Mixture, Pixels, elements

WIDE = torch.float64


def random_params(block: Block, seed: int = 0, rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, block.count, block.params, generator=generator, dtype=WIDE)


def mixture(resolution: float, bounds: tuple[float, float] | None = None, count: int = 2) -> Mixture:
    torch.manual_seed(0)
    block = Mixture(count, resolution, bounds, components=3).double()
    data = torch.randn(300, count, dtype=WIDE) * 4 + 5
    block.prepare((data / resolution).round() * resolution if resolution else data)
    return block


@pytest.mark.parametrize("ordered", [True, False])
def test_levels_are_a_softmax_over_defaults_and_parameters(ordered: bool) -> None:
    block = Levels(2, 4, ordered).double()
    data = torch.randint(0, 3, (50, 2)).double()
    block.prepare(data)
    params = random_params(block)
    e = torch.arange(4.0, dtype=WIDE)[:, None].expand(-1, 2)
    mass = block.log_prob(params.expand(4, -1, -1), e).exp()
    counts = torch.stack([(data == k).double().sum(0) for k in range(4)], 1)
    weights = (counts + 0.1) * params[0].exp()
    torch.testing.assert_close(mass.T, weights / weights.sum(1, keepdim=True))
    assert (mass > 0).all()
    seen = block.look(e)
    assert seen.shape == (4, 2, block.features)
    torch.testing.assert_close(
        seen[:, 0], torch.linspace(-1, 1, 4, dtype=WIDE)[:, None] if ordered else torch.eye(4, dtype=WIDE)
    )


@pytest.mark.parametrize(
    ("resolution", "bounds", "grid"),
    [
        (1.0, (0.0, 16.0), torch.arange(17.0)),
        (1.0, (0.0, 255.0), torch.arange(256.0)),
        (0.01, None, torch.arange(-60_000, 60_000) / 100),
        (5.0, None, torch.arange(-400, 400) * 5.0),
    ],
)
def test_masses_on_a_grid_sum_to_one(resolution: float, bounds: tuple[float, float] | None, grid: Tensor) -> None:
    block = mixture(resolution, bounds)
    e = grid.double()[:, None].expand(-1, 2)
    for seed in range(3):
        density = block.log_prob(random_params(block, seed).expand(len(e), -1, -1), e).exp()
        torch.testing.assert_close(density.sum(0) * resolution, torch.ones(2, dtype=WIDE), rtol=1e-8, atol=0.0)


def test_densities_of_numbers_integrate_to_one() -> None:
    block = mixture(0.0)
    u = torch.linspace(-9, 9, 20_001, dtype=WIDE)
    e = (5 + u.sinh())[:, None].expand(-1, 2)
    for seed in range(3):
        density = block.log_prob(random_params(block, seed).expand(len(e), -1, -1), e).exp() * u.cosh()[:, None]
        torch.testing.assert_close(torch.trapezoid(density, u, dim=0), torch.ones(2, dtype=WIDE), rtol=1e-6, atol=0.0)


def test_a_density_is_the_limit_of_a_fine_grid() -> None:
    fine, smooth = mixture(0.0), mixture(0.0)
    fine.resolution = 1e-4
    params, e = random_params(fine, rows=40), torch.randn(40, 2, dtype=WIDE) * 4 + 5
    torch.testing.assert_close(fine.log_prob(params, e), smooth.log_prob(params, e), rtol=1e-5, atol=1e-5)


def test_numbers_are_mixtures_of_scipys_logistics() -> None:
    block = mixture(0.0)
    params, e = random_params(block, rows=9), torch.randn(9, 2, dtype=WIDE) * 4 + 5
    weight, mean, log_scale = (params + block.default).split(3, -1)
    loc = (block.mean[:, None] + block.std[:, None] * mean).numpy()
    density = stats.logistic.pdf(e[..., None].numpy(), loc, (block.std[:, None] * log_scale.exp()).numpy())
    torch.testing.assert_close(block.log_prob(params, e).exp(), (weight.softmax(-1) * torch.from_numpy(density)).sum(-1))


@pytest.mark.parametrize("block", [mixture(0.0), mixture(1.0), mixture(1.0, (0.0, 16.0))], ids=["smooth", "grid", "bounded"])
def test_far_away_values_have_finite_scores_in_float32(block: Mixture) -> None:
    block = block.float()
    e = torch.tensor([[-1e6, 1e6], [0.0, 16.0]], dtype=WIDE)
    params = random_params(block, rows=2).float().requires_grad_()
    score = block.log_prob(params, e)
    (slope,) = torch.autograd.grad(score.sum(), params)
    assert score.isfinite().all()
    assert slope.isfinite().all()


def test_samples_follow_the_scores() -> None:
    n = 20_000
    grid, smooth = mixture(1.0, (0.0, 16.0), 1), mixture(0.0, count=1)
    params = random_params(grid)
    drawn = grid.sample(params.expand(n, -1, -1), Draws(1, 0, n))[:, 0]
    e = torch.arange(17.0, dtype=WIDE)[:, None]
    expected = n * grid.log_prob(params.expand(17, -1, -1), e).exp()[:, 0]
    counts = torch.bincount(drawn.long(), minlength=17).double()
    rare = expected < 5
    pool = lambda v: torch.cat([v[~rare], v[rare].sum()[None]]) if rare.any() else v
    assert stats.chisquare(pool(counts).numpy(), pool(expected).numpy(), sum_check=False).pvalue > 1e-3
    params = random_params(smooth, 1)
    drawn = smooth.sample(params.expand(n, -1, -1), Draws(2, 0, n))[:, 0]
    weight, mean, log_scale = (params + smooth.default)[0, 0].split(3)
    loc, scale = smooth.mean + smooth.std * mean, smooth.std * log_scale.exp()
    cdf = lambda v: (weight.softmax(0).numpy() * stats.logistic.cdf(v[:, None], loc.numpy(), scale.numpy())).sum(1)
    assert stats.kstest(drawn.numpy(), cdf).pvalue > 1e-3


def test_gaps_count_nothing_and_look_like_nothing() -> None:
    block = mixture(0.0)
    e = torch.tensor([[math.nan, 3.0]], dtype=WIDE)
    score = block.log_prob(random_params(block), e)
    assert float(score[0, 0]) == 0
    assert float(score[0, 1]) != 0
    assert float(block.look(e)[0, 0]) == 0


def test_a_part_is_the_block_at_one_element() -> None:
    for block in (mixture(0.0), mixture(1.0, (0.0, 16.0)), Levels(2, 3).double()):
        e = torch.tensor([[1.0, 2.0]], dtype=WIDE)
        params = random_params(block)
        whole, seen = block.log_prob(params, e), block.look(e)
        for i in range(2):
            part = block.part(i)
            torch.testing.assert_close(part.log_prob(params[:, i : i + 1], e[:, i : i + 1]), whole[:, i : i + 1])
            torch.testing.assert_close(part.look(e[:, i : i + 1]), seen[:, i : i + 1])


@pytest.mark.parametrize("kind", ["vector", "table", "image", "photo", "binary", "tokens"])
def test_examples_come_apart_and_together(tiny: Any, kind: str) -> None:
    x = tiny.codes(kind, 60)
    parts = elements(tiny.kinds[kind])
    parts.prepare(x)
    e = parts.take_apart(x)
    assert e.shape == (60, parts.count)
    back = parts.put_together(e)
    assert back.dtype == x.dtype
    assert torch.equal(back.double().nan_to_num(-99), x.double().nan_to_num(-99))
    assert parts(x).shape == (60, len(parts.feature_element))
    assert parts(x).isfinite().all()
    params = torch.randn(60, len(parts.param_element))
    assert parts.log_prob(params, x).shape == (60,)
    assert parts.sample(params, Draws(0, 0, 60)).shape == x.shape


def test_a_column_with_gaps_is_an_indicator_then_a_value(tiny: Any) -> None:
    parts = elements(tiny.kinds["table"])
    x = torch.tensor([[math.nan, 9.99, 1, 2, 3], [0.5, math.nan, 0, 0, 4]], dtype=WIDE)
    expected = [[1, math.nan, 0, 9.99, 1, 2, 3], [0, 0.5, 1, math.nan, 0, 0, 4]]
    torch.testing.assert_close(parts.take_apart(x), torch.tensor(expected, dtype=WIDE), equal_nan=True)
    assert parts.indicator_of == {1: 0, 3: 2}
    # an indicator of 1 wins over whatever value was drawn
    drawn = torch.tensor([[1.0, 7.0, 0.0, 5.0, 1.0, 2.0, 3.0]], dtype=WIDE)
    assert parts.put_together(drawn)[0].isnan().tolist() == [True, False, False, False, False]
    observed = torch.tensor([[True, False, False, True, True]])
    assert parts.spread(observed).tolist() == [[True, True, True, False, False, True, True]]


def test_missing_numbers_are_drawn_as_present_when_asked(tiny: Any) -> None:
    parts = elements(tiny.kinds["table"])
    parts.prepare(tiny.codes("table", 100))
    params = torch.zeros(200, len(parts.param_element))
    observed = torch.zeros(200, 5, dtype=torch.bool)
    assert parts.sample(params, Draws(0, 0, 200))[:, :2].isnan().any()
    assert not parts.sample_present(params, Draws(0, 0, 200), observed)[:, :2].isnan().any()


def test_defaults_alone_are_close_to_the_data(tiny: Any) -> None:
    """With zero parameters the elements are the independent model: half of the samples lie below the median."""
    x = tiny.codes("vector", 1000)
    parts = elements(Vector(3))
    parts.prepare(x)
    drawn = parts.sample(torch.zeros(1000, len(parts.param_element)), Draws(0, 0, 1000))
    share = (drawn < x.median(0).values).double().mean(0)
    assert ((share - 0.5).abs() < 0.1).all()


def test_pixels_run_from_minus_one_to_one() -> None:
    assert Pixels(256)(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    assert Pixels(2)(torch.tensor([0, 1], dtype=torch.uint8)).tolist() == [-1, 1]


def test_few_levels_are_categories_and_many_are_mixtures() -> None:
    assert isinstance(elements(Image(1, 4, 4, levels=17)).blocks[0], Levels)
    assert isinstance(elements(Image(1, 4, 4, levels=256)).blocks[0], Mixture)
    columns = (Column("n", ColumnKind.INTEGER, resolution=1.0),)
    assert elements(Table(columns)).blocks[0].resolution == 1.0
    with pytest.raises(TypeError, match="Schema has no elements"):
        elements(Schema(Vector(1)))  # type: ignore[arg-type]
