"""Marginal maps: numbers, levels and tables to standard normals, with exact bookkeeping of what noise they add."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.core.context import Conditioner
from pushforward.core.distribution import Normal
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Schema, Table
from pushforward.core.transform import Compose
from pushforward.models.flow import Flow
from pushforward.transforms.tabular import LevelMarginals, NumberMarginals, table_codes, table_marginals

WIDE = torch.float64


def log_normal(z: Tensor) -> Tensor:
    return torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1).log_prob(z.double())


# numbers


def skewed(n: int = 3000) -> Tensor:
    torch.manual_seed(5)
    return torch.stack(
        [torch.randn(n, dtype=WIDE).exp(), -(torch.rand(n, dtype=WIDE).log() ** 2), torch.randn(n, dtype=WIDE) * 1e-3 + 1e5], 1
    )


def test_pulled_numbers_are_standard_normal() -> None:
    x = skewed()
    transform = NumberMarginals([0.0] * 3).double()
    transform.prepare(x)
    z, _ = transform.pull(x)
    for column in z.unbind(1):
        assert stats.kstest(column.numpy(), "norm").statistic < 0.02


def test_number_slopes_are_the_derivative_everywhere() -> None:
    transform = NumberMarginals([0.0] * 3).double()
    transform.prepare(skewed())
    z = torch.randn(400, 3, dtype=WIDE) * 4  # far into both tails
    x = transform.push(z).requires_grad_()
    pulled, score = transform.pull(x)
    (slopes,) = torch.autograd.grad(pulled.sum(), x)
    assert (slopes > 0).all()
    torch.testing.assert_close(score, slopes.log().sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pulled.detach(), z, rtol=1e-6, atol=1e-6)


def test_numbers_are_monotone_in_both_directions() -> None:
    transform = NumberMarginals([0.0] * 3).double()
    transform.prepare(skewed())
    z = torch.linspace(-12, 12, 2001, dtype=WIDE)[:, None].expand(-1, 3)
    x = transform.push(z)
    assert (x.diff(dim=0) > 0).all()
    assert (transform.pull(x)[0].diff(dim=0) > 0).all()


def test_constant_and_repeated_and_few_values_stay_invertible() -> None:
    n = 200
    torch.manual_seed(0)
    columns = [torch.full((n,), 3.0), torch.where(torch.arange(n) < 150, 0.0, torch.randn(n)), torch.full((n,), math.nan)]
    x = torch.stack(columns, 1).double()
    transform = NumberMarginals([0.0] * 3, fill=False, gaps=True).double()
    transform.prepare(x)
    z, score = transform.pull(x)
    assert score.isfinite().all()
    assert torch.equal(z.isnan(), x.isnan())
    back = transform.push(z)
    torch.testing.assert_close(back[:, :2], x[:, :2], rtol=1e-9, atol=1e-9)
    assert torch.equal(transform.push(torch.randn(5, 3)).isfinite(), torch.ones(5, 3, dtype=torch.bool))
    few = NumberMarginals([0.0])
    few.prepare(torch.tensor([[1.0], [2.0]], dtype=WIDE))
    assert few.pull(torch.tensor([[1.5]], dtype=WIDE))[1].isfinite().all()


def test_new_extremes_are_finite_and_come_back() -> None:
    transform = NumberMarginals([0.0] * 3).double()
    x = skewed()
    transform.prepare(x)
    far = torch.cat([x.amax(0, keepdim=True) * 1000, x.amin(0, keepdim=True) - 1000])
    z, score = transform.pull(far)
    assert z.isfinite().all()
    assert score.isfinite().all()
    torch.testing.assert_close(transform.push(z), far, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("step", [0.01, 0.5, 1.0, 5.0, 0.001])
def test_grids_come_back_exactly(step: float) -> None:
    torch.manual_seed(0)
    inverse = round(1 / step) if step < 1 else 1 / step
    x = (torch.randn(2000, 1, dtype=WIDE) * 300).round() / inverse
    transform = NumberMarginals([step])
    transform.prepare(x)
    for seed in range(3):
        z, score = transform.pull(x, None, Draws(seed, 0, len(x)))
        assert torch.equal(transform.double().push(transform.pull(x, None, Draws(seed, 0, len(x)))[0]), x)
        assert score.isfinite().all()
        assert stats.kstest(z.double().numpy()[:, 0], "norm").statistic < 0.03


def test_gaps_are_filled_or_kept() -> None:
    x = skewed(4000)
    gaps = torch.rand(x.shape) < 0.3
    x = x.masked_fill(gaps, math.nan)
    fill, keep = (NumberMarginals([0.0] * 3, fill=fill, gaps=True).double() for fill in (True, False))
    for transform in (fill, keep):
        transform.prepare(x)
    draws = Draws(1, 0, len(x))
    z, score = fill.pull(x, None, draws)
    kept, kept_score = keep.pull(x)
    assert torch.equal(kept.isnan(), gaps)
    torch.testing.assert_close(z[~gaps], kept[~gaps])
    assert stats.kstest(z[gaps].numpy(), "norm").pvalue > 1e-3
    # what a filled gap adds to V is what the base density takes away
    torch.testing.assert_close(score + (log_normal(z) * gaps).sum(1), kept_score, rtol=1e-9, atol=1e-9)
    none = x.isnan().all(1)
    assert torch.equal(kept_score[none], torch.zeros(int(none.sum()), dtype=WIDE))


# levels


def level_codes(n: int = 500) -> tuple[Tensor, list[int]]:
    torch.manual_seed(1)
    counts = [3, 1, 5]
    return torch.stack([torch.randint(0, max(1, k - (k == 5)), (n,)) for k in counts], 1).double(), counts


def test_level_intervals_are_exact() -> None:
    x, counts = level_codes()
    transform = LevelMarginals((3,), counts).double()
    transform.prepare(x)
    frequency = [
        ((x[:, d : d + 1] == torch.arange(k)).double().sum(0) + 0.1) / (len(x) + 0.1 * k) for d, k in enumerate(counts)
    ]
    for codes in itertools.product(*(range(k) for k in counts)):
        truth = sum(float(frequency[d][k].log()) for d, k in enumerate(codes))
        row = torch.tensor([codes], dtype=WIDE)
        z, score = transform.pull(row.expand(20, -1), None, Draws(2, 0, 20))
        # whatever the noise, V + log φ(z) is the log-probability itself: no gap, so E over u of its exponential is w_k
        torch.testing.assert_close(score + log_normal(z).sum(1), torch.full((20,), truth, dtype=WIDE), rtol=1e-9, atol=1e-9)
        assert float(transform.log_mass(row)) == pytest.approx(truth, abs=1e-9)
        assert torch.equal(transform.push(z), row.expand(20, -1))


def test_level_masses_sum_to_one_and_unseen_levels_have_some() -> None:
    x, counts = level_codes()
    transform = LevelMarginals((3,), counts)
    transform.prepare(x)
    rows = torch.tensor(list(itertools.product(*(range(k) for k in counts))), dtype=WIDE)
    mass = transform.log_mass(rows).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert (mass[rows[:, 2] == 4] > 0).all()


def test_pulled_levels_are_standard_normal_and_come_back_in_float32() -> None:
    torch.manual_seed(0)
    x = (torch.rand(3000, 2, 3) ** 2 * 256).floor().to(torch.uint8)
    transform = LevelMarginals((2, 3), 256)
    transform.prepare(x)
    z, _ = transform.pull(x, None, Draws(0, 0, len(x)))
    assert z.dtype == torch.float32
    assert z.shape == x.shape
    for column in z.flatten(1).unbind(1):
        assert stats.kstest(column.numpy(), "norm").statistic < 0.03
    assert float((transform.push(z).to(torch.uint8) != x).double().mean()) < 1e-3


def test_any_latent_gives_a_valid_level() -> None:
    x, counts = level_codes()
    transform = LevelMarginals((3,), counts)
    transform.prepare(x)
    z = torch.tensor([-1e6, -40.0, 40.0, 1e6])[:, None].expand(-1, 3)
    codes = transform.push(z)
    assert (codes >= 0).all()
    assert (codes < torch.tensor(counts)).all()
    assert codes[0].tolist() == [0, 0, 0]
    assert codes[-1].tolist() == [2, 0, 4]


# tables


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(-12345.0), b.nan_to_num(-12345.0))


@pytest.mark.parametrize("fill", [True, False])
def test_tables_come_back_with_their_gaps(tiny: Any, fill: bool) -> None:
    x = tiny.codes("table", 600)
    transform = table_marginals(tiny.columns, fill=fill).double()
    z = transform.prepare(x)
    assert transform.size == 7 == z.shape[1]
    assert torch.equal(z[:, :2].isnan(), x[:, :2].isnan() & (not fill))
    back = transform.push(transform.pull(x, None, Draws(9, 0, len(x)))[0])
    torch.testing.assert_close(back[:, 0], x[:, 0], rtol=1e-9, atol=1e-9, equal_nan=True)
    assert same(back[:, 1:], x[:, 1:])


def test_tables_in_their_own_units_come_back_with_an_indicator(tiny: Any) -> None:
    x = tiny.codes("table", 600)
    transform = table_codes(tiny.columns).double()
    z, score = transform.pull(x, None, Draws(9, 0, len(x)))
    assert z.shape == (600, 7)
    torch.testing.assert_close(z[:, 0], x[:, 0], equal_nan=True)
    assert ((z[:, 1] - x[:, 1]).abs().nan_to_num() <= 0.005 + 1e-12).all()
    # levels are within half of their codes, gap indicators within half of 0 and 1
    assert ((z[:, 3:5] - x[:, 2:4]).abs() <= 0.5).all()
    assert torch.equal(z[:, 5:].round().clamp(0, 1).bool(), x[:, :2].isnan())
    assert float(score.abs().max()) == 0
    assert same(transform.push(z), x)


def test_spread_says_what_is_known(tiny: Any) -> None:
    observed = torch.tensor([[True, False, True, False, True], [False, True, False, True, False]])
    known = table_marginals(tiny.columns).spread(observed)
    # numbers height price count, levels colour paid, then the two indicators, always known
    expected = [[True, False, True, True, False, True, True], [False, True, False, False, True, True, True]]
    assert known.tolist() == expected
    only_levels = (Column("a", ColumnKind.CATEGORY, categories=("x", "y")),)
    assert table_marginals(only_levels).spread(torch.tensor([[False]])).tolist() == [[False]]


@pytest.mark.parametrize("which", [[0], [2, 3], [1, 4], [0, 1]])
def test_tables_of_one_sort_of_column(tiny: Any, which: list[int]) -> None:
    columns = tuple(tiny.columns[i] for i in which)
    x = tiny.codes("table", 300)[:, which]
    for transform in (table_marginals(columns).double(), table_codes(columns).double()):
        transform.prepare(x)
        z, score = transform.pull(x, None, Draws(1, 0, 300))
        assert z.shape == (300, transform.size)
        assert score.shape == (300,)
        torch.testing.assert_close(transform.push(z), x, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_importance_weights_of_a_discrete_table_are_the_product_of_its_frequencies() -> None:
    """log_prob of the flow N(0, 1) → table: the mean of its exponential over draws is the probability of the row."""
    columns = (
        Column("a", ColumnKind.CATEGORY, categories=("x", "y", "z")),
        Column("b", ColumnKind.BOOLEAN, categories=(False, True)),
        Column("n", ColumnKind.INTEGER, resolution=1.0, missing=True),
    )
    torch.manual_seed(0)
    n = 400
    x = torch.stack([torch.randint(0, 3, (n,)), torch.rand(n) < 0.3, torch.randint(0, 2, (n,))], 1).double()
    x[::4, 2] = math.nan
    transform = table_marginals(columns).double()
    transform.prepare(x)
    model = Flow(Schema(Table(columns)), Normal((transform.size,)), Compose([transform]), Conditioner(()))
    a = [(float((x[:, 0] == k).sum()) + 0.1) / (n + 0.3) for k in range(3)]
    b = [(float((x[:, 1] == k).sum()) + 0.1) / (n + 0.2) for k in range(2)]
    gap = (n / 4 + 0.1) / (n + 0.2)
    for i, j in itertools.product(range(3), range(2)):
        row = torch.tensor([[i, j, math.nan]], dtype=WIDE).expand(50, -1)
        weights = model.log_prob(row, None, Draws(3, 0, 50)).exp()
        torch.testing.assert_close(weights, torch.full((50,), a[i] * b[j] * gap, dtype=WIDE), rtol=1e-9, atol=0.0)
    # integers: masses of all cells (those in the tails included) sum to one; each within a sampling error of its frequency
    grid = torch.arange(-30, 31, dtype=WIDE)
    draws = 400
    rows = torch.stack([torch.zeros(61 * draws), torch.zeros(61 * draws), grid.repeat_interleave(draws)], 1).double()
    mass = model.log_prob(rows, None, Draws(4, 0, len(rows))).exp().view(61, draws).mean(1) / (a[0] * b[0] * (1 - gap))
    assert float(mass.sum()) == pytest.approx(1, abs=0.03)
    known = x[:, 2][~x[:, 2].isnan()]
    for k in (0, 1):
        assert float(mass[30 + k]) == pytest.approx(float((known == k).double().mean()), abs=0.06)
