"""Mixtures of independent coordinates against every state and every row counted one by one, and against quadrature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare, norm
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table, Vector
from pushforward.core.transform import Compose
from pushforward.models.densities import DiagonalGaussians, Levels, Product
from pushforward.models.mixture import Mixture

WIDE = torch.float64


class Known(Compose):
    """No preprocessing; what is known stays known."""

    def spread(self, observed: Tensor) -> Tensor:
        return observed


def random_chances(densities: Levels, seed: int) -> None:
    values = torch.rand(densities.chances.shape, dtype=WIDE, generator=torch.Generator().manual_seed(seed)).add(0.05)
    values = values * densities.live
    densities.chances.copy_(values / values.sum(2, keepdim=True))


def mixture(levels: list[int], components: int = 3, seed: int = 0, **options: float) -> Mixture:
    densities = Levels(levels, components, smoothing=options.get("smoothing", 0.0))
    random_chances(densities, seed)
    model = Mixture(Schema(Vector(len(levels))), Known([]), densities)
    model.weights.copy_(torch.tensor([0.5, 0.2, 0.3, 0.4][:components], dtype=WIDE))
    model.weights.div_(model.weights.sum().clone())
    return model


def batch(x: Tensor) -> Batch:
    return Batch(x, Draws(0, 0, len(x)))


def by_hand(model: Mixture, x: np.ndarray) -> np.ndarray:
    """log π_k P_k(y), (B, K), factor by factor."""
    held: Any = model.densities
    chances = held.chances.numpy()
    joint = np.tile(model.weights.log().numpy(), (len(x), 1))
    for i, k, d in itertools.product(range(len(x)), range(model.components), range(x.shape[1])):
        if not np.isnan(x[i, d]):
            joint[i, k] += np.log(chances[k, d, int(x[i, d])])
    return joint


LEVELS = [[2] * 6, [3, 2, 4], [12, 2, 9]]  # Bernoulli; categories; so many that they are counted otherwise


@pytest.mark.parametrize("levels", LEVELS)
def test_all_states_sum_to_one(levels: list[int]) -> None:
    model = mixture(levels)
    every = torch.tensor(list(itertools.product(*(range(v) for v in levels))), dtype=WIDE)
    log_p = model.log_prob(every)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(log_p, logsumexp(by_hand(model, every.numpy()), 1), rtol=1e-10)
    # a gap is the sum over what may be in it
    some = every[:: max(1, len(every) // 9)].clone()
    some[:, 1] = math.nan
    full = torch.stack([some.clone().index_fill_(1, torch.tensor(1), v) for v in range(levels[1])])
    torch.testing.assert_close(model.log_prob(some), model.log_prob(full.flatten(0, 1)).view(levels[1], -1).logsumexp(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_step_is_that_of_the_rows_one_by_one(levels: list[int], smoothing: float) -> None:
    model = mixture(levels, seed=2, smoothing=smoothing)
    x = mixture(levels, seed=3).sample(60, None, Draws(1, 0, 60))
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2, math.nan)
    joint = by_hand(model, x.numpy())
    share = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    held: Any = model.densities
    wanted = np.full(held.chances.shape, smoothing) * held.live.numpy()
    for row, r in zip(x.numpy(), share, strict=True):
        for d in np.flatnonzero(~np.isnan(row)):
            wanted[:, d, int(row[d])] += r
    assert model.update(model.stats(batch(x))) == pytest.approx(logsumexp(joint, 1).mean(), abs=1e-12)
    np.testing.assert_allclose(held.chances, wanted / wanted.sum(2, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(model.weights, share.mean(0), rtol=1e-10)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_objective_never_falls(levels: list[int]) -> None:
    model = mixture(levels, seed=2, smoothing=0.3)
    x = mixture(levels, seed=3).sample(90, None, Draws(1, 0, 90))
    values = []
    for _ in range(20):
        stats = model.stats(batch(x))
        values.append(float(stats["likelihood"] + model.log_prior()))
        model.update(stats)
    assert (np.diff(values) > -1e-9).all()
    assert values[-1] > values[0] + 1


def test_gaps_are_filled_with_their_chances() -> None:
    model = mixture([3, 2, 3], seed=5)
    n = 20_000
    observed = torch.tensor([False, True, False]).expand(n, -1)
    x = torch.tensor([[0.0, 1.0, 0.0]], dtype=WIDE).expand(n, -1)
    drawn = model.complete(x, observed, None, Draws(2, 0, n))
    every = torch.tensor([[a, 1, c] for a in range(3) for c in range(3)], dtype=WIDE)
    wanted = model.log_prob(every).softmax(0)
    found = torch.bincount((drawn[:, 0] * 3 + drawn[:, 2]).long(), minlength=9)
    assert chisquare(found.numpy(), n * wanted.numpy()).pvalue > 1e-3
    blind = model.sample(n, None, Draws(3, 0, n))
    all_states = torch.tensor(list(itertools.product(range(3), range(2), range(3))), dtype=WIDE)
    found = torch.bincount((blind @ torch.tensor([6.0, 3.0, 1.0], dtype=WIDE)).long(), minlength=18)
    assert chisquare(found.numpy(), n * model.log_prob(all_states).exp().numpy()).pvalue > 1e-3


def mixed(seed: int = 0) -> Mixture:
    numbers = DiagonalGaussians(2, 2, prior=0.0, floor=0.0)
    generator = torch.Generator().manual_seed(seed)
    numbers.means.copy_(torch.randn(2, 2, dtype=WIDE, generator=generator))
    numbers.variances.copy_(torch.rand(2, 2, dtype=WIDE, generator=generator) + 0.3)
    levels = Levels([3], 2, smoothing=0.0)
    random_chances(levels, seed)
    model = Mixture(Schema(Vector(3)), Known([]), Product([numbers, levels]))
    model.weights.copy_(torch.tensor([0.4, 0.6]))
    return model


def test_numbers_and_categories_together() -> None:
    """One step on rows with gaps in both, by scipy and by hand."""
    model, x = mixed(), mixed(4).sample(70, None, Draws(0, 0, 70))
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.25, math.nan)
    numbers, levels = model.densities._parts()  # type: ignore[operator,union-attr]
    mu, var, chances = numbers.means.numpy().copy(), numbers.variances.numpy().copy(), levels.chances.numpy().copy()
    y, joint = x.numpy(), np.tile(model.weights.log().numpy(), (70, 1))
    for i, k in itertools.product(range(70), range(2)):
        joint[i, k] += sum(norm.logpdf(y[i, d], mu[k, d], var[k, d] ** 0.5) for d in range(2) if not np.isnan(y[i, d]))
        joint[i, k] += 0 if np.isnan(y[i, 2]) else np.log(chances[k, 0, int(y[i, 2])])
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(logsumexp(joint, 1)))
    share = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    model.update(model.stats(batch(x)))
    for k, d in itertools.product(range(2), range(2)):
        there = ~np.isnan(y[:, d])
        mean = np.average(y[there, d], weights=share[there, k])
        assert float(numbers.means[k, d]) == pytest.approx(mean, rel=1e-9)
        assert float(numbers.variances[k, d]) == pytest.approx(
            np.average((y[there, d] - mean) ** 2, weights=share[there, k]), rel=1e-9
        )
    for k, v in itertools.product(range(2), range(3)):
        there = ~np.isnan(y[:, 2])
        assert float(levels.chances[k, 0, v]) == pytest.approx(np.average(y[there, 2] == v, weights=share[there, k]), rel=1e-9)


COLUMNS = (
    Column("size", ColumnKind.NUMBER, missing=True),
    Column("colour", ColumnKind.CATEGORY, categories=("red", "green", "blue"), missing=True),
    Column("paid", ColumnKind.BOOLEAN, categories=(False, True)),
)


def rows(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    kind = torch.rand(n, generator=generator) < 0.4
    size = torch.where(kind, 3.0, -1.0).to(WIDE) + torch.randn(n, dtype=WIDE, generator=generator)
    size = size.masked_fill(torch.rand(n, generator=generator) < 0.2, math.nan)
    colour = torch.where(kind, 0, 1) + (torch.rand(n, generator=generator) < 0.3) + (torch.rand(n, generator=generator) < 0.1)
    paid = (torch.rand(n, generator=generator) < torch.where(kind, 0.9, 0.2)).to(WIDE)
    return torch.stack([size, colour.to(WIDE), paid], 1)


def test_the_density_of_a_table_has_mass_one() -> None:
    """Over all categories, all numbers by quadrature, and the gap; in the units of the table."""
    family = FAMILIES["bernoulli-mixture"]
    model = family.build(Schema(Table(COLUMNS)), family.configure({"components": 3})).double()
    assert model.density_kind == "exact"  # type: ignore[union-attr]
    x = rows(400)
    model.prepare(x)
    model.start(x, Draws(0, 0, len(x)))  # type: ignore[operator]
    for _ in range(5):
        model.update(model.stats(batch(x)))  # type: ignore[operator]
    grid = torch.linspace(-30, 30, 60_001, dtype=WIDE)
    total = 0.0
    for colour, paid in itertools.product(range(4), range(2)):
        line = torch.stack([grid, torch.full_like(grid, colour), torch.full_like(grid, paid)], 1)
        gap = torch.tensor([[math.nan, colour, paid]], dtype=WIDE)
        total += float(model.log_prob(line).exp().sum()) * 1e-3 + float(model.log_prob(gap).exp())  # type: ignore[operator]
    assert total == pytest.approx(1, abs=1e-3)


def test_digits_of_two_kinds_are_told_apart() -> None:
    """Pixels that are either stripes or columns, with noise: two components find them."""
    generator = torch.Generator().manual_seed(0)
    stripes = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]]).bool()
    kind = torch.arange(200) % 2 == 0
    x = torch.where(kind[:, None, None, None], stripes, stripes.T)
    x = (x ^ (torch.rand(200, 1, 3, 3, generator=generator) < 0.1)).to(torch.uint8)
    family = FAMILIES["bernoulli-mixture"]
    model = family.build(Schema(Image(1, 3, 3, levels=2)), family.configure({"components": 2, "restarts": 3}))
    model.fit_em(x)  # type: ignore[operator]
    first = model.responsibilities(x)[:, 0] > 0.5  # type: ignore[operator]
    alike = float((first == kind).double().mean())
    assert max(alike, 1 - alike) > 0.95


def test_smoothing_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        Levels([2, 2], 2, smoothing=-0.1)
