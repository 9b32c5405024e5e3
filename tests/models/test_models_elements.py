"""The distributions of single elements: they normalise, sample what they score, and examples come apart and together again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.core.errors import RecipeError
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table, Vector
from pushforward.models.blocks import BELLS, Binary, Block, Levels, Mixture, Sharpening, log_ndtr
from pushforward.models.elements import Pixels, elements

WIDE = torch.float64


def random_params(block: Block, seed: int = 0, rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, block.count, block.params, generator=generator, dtype=WIDE)


def mixture(
    resolution: float, bounds: tuple[float, float] | None = None, count: int = 2, bell: str = "logistic", components: int = 3
) -> Mixture:
    torch.manual_seed(0)
    block = Mixture(count, resolution, bounds, components, bell).double()
    data = torch.randn(300, count, dtype=WIDE) * 4 + 5
    block.prepare((data / resolution).round() * resolution if resolution else data)
    return block


@pytest.mark.parametrize("ordered", [True, False])
def test_levels_are_a_softmax_over_defaults_and_parameters(ordered: bool) -> None:
    block = Levels(2, 4, "scaled" if ordered else "onehot").double()
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
@pytest.mark.parametrize("bell", BELLS)
def test_masses_on_a_grid_sum_to_one(resolution: float, bounds: tuple[float, float] | None, grid: Tensor, bell: str) -> None:
    block = mixture(resolution, bounds, bell=bell)
    e = grid.double()[:, None].expand(-1, 2)
    for seed in range(3):
        density = block.log_prob(random_params(block, seed).expand(len(e), -1, -1), e).exp()
        torch.testing.assert_close(density.sum(0) * resolution, torch.ones(2, dtype=WIDE), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("bell", BELLS)
def test_densities_of_numbers_integrate_to_one(bell: str) -> None:
    block = mixture(0.0, bell=bell)
    u = torch.linspace(-9, 9, 20_001, dtype=WIDE)
    e = (5 + u.sinh())[:, None].expand(-1, 2)
    for seed in range(3):
        density = block.log_prob(random_params(block, seed).expand(len(e), -1, -1), e).exp() * u.cosh()[:, None]
        torch.testing.assert_close(torch.trapezoid(density, u, dim=0), torch.ones(2, dtype=WIDE), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("bell", BELLS)
def test_a_density_is_the_limit_of_a_fine_grid(bell: str) -> None:
    fine, smooth = mixture(0.0, bell=bell), mixture(0.0, bell=bell)
    fine.resolution = 1e-4
    params, e = random_params(fine, rows=40), torch.randn(40, 2, dtype=WIDE) * 4 + 5
    torch.testing.assert_close(fine.log_prob(params, e), smooth.log_prob(params, e), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bell", [("logistic", stats.logistic), ("normal", stats.norm)], ids=["logistic", "normal"])
def test_numbers_are_mixtures_of_scipys_bells(bell: tuple[str, Any]) -> None:
    block = mixture(0.0, bell=bell[0])
    params, e = random_params(block, rows=9), torch.randn(9, 2, dtype=WIDE) * 4 + 5
    weight, mean, log_scale = (params + block.default).split(3, -1)
    loc = (block.mean[:, None] + block.std[:, None] * mean).numpy()
    density = bell[1].pdf(e[..., None].numpy(), loc, (block.std[:, None] * log_scale.exp()).numpy())
    torch.testing.assert_close(block.log_prob(params, e).exp(), (weight.softmax(-1) * torch.from_numpy(density)).sum(-1))


@pytest.mark.parametrize("bell", BELLS)
@pytest.mark.parametrize("grid", [(0.0, None), (1.0, None), (1.0, (0.0, 16.0))], ids=["smooth", "grid", "bounded"])
def test_far_away_values_have_finite_scores_in_float32(grid: tuple[float, Any], bell: str) -> None:
    block = mixture(*grid, bell=bell).float()
    e = torch.tensor([[-1e6, 1e6], [0.0, 16.0]], dtype=WIDE)
    params = random_params(block, rows=2).float().requires_grad_()
    score = block.log_prob(params, e)
    (slope,) = torch.autograd.grad(score.sum(), params)
    assert score.isfinite().all()
    assert slope.isfinite().all()


@pytest.mark.parametrize("bell", [("logistic", stats.logistic), ("normal", stats.norm)], ids=["logistic", "normal"])
def test_samples_follow_the_scores(bell: tuple[str, Any]) -> None:
    n = 20_000
    grid, smooth = mixture(1.0, (0.0, 16.0), 1, bell[0]), mixture(0.0, count=1, bell=bell[0])
    params = random_params(grid)
    uniform = lambda seed: Draws(seed, 0, n).uniform(1, dtype=WIDE)
    drawn = grid.draw(params.expand(n, -1, -1), uniform(1))[:, 0]
    e = torch.arange(17.0, dtype=WIDE)[:, None]
    follows(drawn, n * grid.log_prob(params.expand(17, -1, -1), e).exp()[:, 0])
    params = random_params(smooth, 1)
    drawn = smooth.draw(params.expand(n, -1, -1), uniform(2))[:, 0]
    weight, mean, log_scale = (params + smooth.default)[0, 0].split(3)
    loc, scale = smooth.mean + smooth.std * mean, smooth.std * log_scale.exp()
    cdf = lambda v: (weight.softmax(0).numpy() * bell[1].cdf(v[:, None], loc.numpy(), scale.numpy())).sum(1)
    assert stats.kstest(drawn.numpy(), cdf).pvalue > 1e-3


def follows(drawn: Tensor, expected: Tensor) -> None:
    """Raises where counts of levels 0, 1, … are not as ``expected``."""
    counts = torch.bincount(drawn.long(), minlength=len(expected)).double()
    rare = expected < 5
    pool = lambda v: torch.cat([v[~rare], v[rare].sum()[None]]) if float(expected[rare].sum()) > 0 else v[~rare]
    assert stats.chisquare(pool(counts).numpy(), pool(expected).numpy(), sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("block", [Binary(2), Levels(2, 5), Levels(2, 5, "code")], ids=["binary", "levels", "code"])
def test_levels_are_drawn_as_often_as_they_are_likely(block: Block) -> None:
    torch.manual_seed(1)
    block, n = block.double(), 20_000
    top = 2 if isinstance(block, Binary) else 5
    block.prepare(torch.randint(0, top, (50, 2)).double())
    params = random_params(block)
    every = torch.arange(float(top), dtype=WIDE)[:, None].expand(-1, 2)
    mass = block.log_prob(params.expand(top, -1, -1), every).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(2, dtype=WIDE))
    drawn = block.draw(params.expand(n, -1, -1), Draws(3, 0, n).uniform(2, dtype=WIDE))
    for i in range(2):
        follows(drawn[:, i], n * mass[:, i])


def test_a_bernoulli_is_the_logistic_function_of_its_logit() -> None:
    torch.manual_seed(0)
    block, data = Binary(3).double(), (torch.rand(40, 3) < 0.3).double()
    block.prepare(data)
    params, e = random_params(block, rows=6), (torch.rand(6, 3) < 0.5).double()
    odds = (data.sum(0) + 0.1) / ((1 - data).sum(0) + 0.1)
    chance = params[..., 0].exp() * odds / (1 + params[..., 0].exp() * odds)
    torch.testing.assert_close(block.log_prob(params, e).exp(), torch.where(e > 0, chance, 1 - chance))
    assert torch.equal(block.look(e)[..., 0], e)


def test_symbols_share_their_frequencies() -> None:
    block = Levels(3, 4, "code").double()
    data = torch.tensor([[0, 1, 1], [2, 1, 0]], dtype=WIDE)
    block.prepare(data)
    mass = block.log_prob(torch.zeros(4, 3, 4, dtype=WIDE), torch.arange(4.0, dtype=WIDE)[:, None].expand(-1, 3)).exp()
    wanted = torch.tensor([2.1, 3.1, 1.1, 0.1], dtype=WIDE) / 6.4
    torch.testing.assert_close(mass, wanted[:, None].expand(-1, 3))
    assert torch.equal(block.look(data)[..., 0], data)


def test_sharpened_draws_keep_what_brute_force_keeps() -> None:
    torch.manual_seed(0)
    logits, n = torch.randn(6, dtype=WIDE), 20_000
    block = Levels(1, 6).double()
    u = Draws(1, 0, n).uniform(1, dtype=WIDE)
    ranked = sorted(range(6), key=lambda k: -float(logits[k]))
    mass = logits.softmax(0)
    kept_p: list[int] = []
    for k in ranked:  # the fewest that reach 0.7
        if float(mass[kept_p].sum()) < 0.7:
            kept_p.append(k)
    tried = [
        (Sharpening(top_k=3), ranked[:3], 1.0),
        (Sharpening(top_p=0.7), kept_p, 1.0),
        (Sharpening(temperature=0.5), ranked, 0.5),
        (Sharpening(temperature=2.0, top_k=4), ranked[:4], 2.0),
        (Sharpening(temperature=0.0), ranked[:1], 1.0),
    ]
    for how, kept, temperature in tried:
        expected = torch.zeros(6, dtype=WIDE)
        expected[kept] = (logits[kept] / temperature).softmax(0)
        drawn = block.draw(logits.expand(n, 1, 6), u, how)[:, 0]
        assert set(drawn.long().tolist()) == set(kept)
        if len(kept) > 1:
            follows(drawn, n * expected)
    numbers = mixture(0.0, count=1)
    params = random_params(numbers)
    wide, narrow = (numbers.draw(params.expand(n, -1, -1), u, Sharpening(t)).std() for t in (1.0, 0.5))
    assert narrow < 0.8 * wide
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"temperature": math.inf}):
        with pytest.raises(RecipeError):
            Sharpening(**wrong)


def test_one_component_starts_as_the_data_s_own_normal() -> None:
    torch.manual_seed(0)
    block = Mixture(1, components=1, bell="normal").double()
    data = torch.randn(500, 1, dtype=WIDE) * 3 + 7
    block.prepare(data)
    e = torch.linspace(0, 14, 9, dtype=WIDE)[:, None]
    found = block.log_prob(torch.zeros(9, 1, 3, dtype=WIDE), e)[:, 0]
    wanted = stats.norm.logpdf(e[:, 0].numpy(), float(data.mean()), float(data.std(unbiased=False)))
    torch.testing.assert_close(found, torch.from_numpy(wanted))


def test_the_slope_of_log_ndtr_is_the_hazard_everywhere() -> None:
    x = torch.tensor([-1e5, -300.0, -20.0, -1.0, 0.0, 3.0, 60.0], requires_grad=True)
    (slope,) = torch.autograd.grad(log_ndtr(x).sum(), x)
    wide = x.detach().double().numpy()
    hazard = np.exp(stats.norm.logpdf(wide) - stats.norm.logcdf(wide))
    torch.testing.assert_close(slope.double(), torch.from_numpy(hazard), rtol=1e-5, atol=0.0)


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
