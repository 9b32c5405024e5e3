"""MADE against enumeration: masses sum to one, samples and completions follow the enumerated probabilities."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from pushforward.core.context import Conditioner
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Schema, Table, Tokens
from pushforward.models.autoregressive import Autoregressive
from pushforward.models.elements import elements
from pushforward.nets.masked import MaskedMLP

WIDE = torch.float64
LEVELS = (
    Column("a", ColumnKind.CATEGORY, categories=("x", "y", "z")),
    Column("b", ColumnKind.BOOLEAN, categories=(False, True)),
    Column("c", ColumnKind.CATEGORY, categories=("u", "v"), missing=True),
)
PIXELS, WORDS, ROWS = Image(1, 2, 3, levels=2), Tokens(("a", "b", "c"), 3), Table(LEVELS)


def build(tiny: Any, kind: Kind, *, direct: bool = True, conditions: bool = False, particles: int = 16) -> Autoregressive:
    parts = elements(kind, components=2)
    schema = Schema(kind, tiny.conditions if conditions else ())
    torch.manual_seed(0)
    conditioner = Conditioner(schema.conditions, 8)
    net = MaskedMLP(
        parts.feature_element + 1, parts.param_element + 1, (12, 12), context=conditioner.width, direct=direct, zero_last=True
    )
    model = Autoregressive(schema, parts, net, conditioner, particles=particles)
    tiny.perturb(model, 1.5)
    return model.eval().double()


def states(kind: Kind) -> Tensor:
    if isinstance(kind, Image):
        rows = list(itertools.product(range(kind.levels), repeat=kind.size))
        return torch.tensor(rows, dtype=torch.uint8).view(-1, *kind.shape)
    if isinstance(kind, Tokens):
        return torch.tensor(list(itertools.product(range(len(kind.vocabulary)), repeat=kind.length)))
    return torch.tensor(list(itertools.product(*(range(c.levels) for c in LEVELS))), dtype=WIDE)


def index_of(x: Tensor, every: Tensor) -> Tensor:
    """The place of each row of ``x`` among ``every`` state."""
    same = (x.flatten(1)[:, None] == every.flatten(1)[None]).all(2)
    assert same.any(1).all()
    return same.to(torch.uint8).argmax(1)


@pytest.mark.parametrize("kind", [PIXELS, WORDS, ROWS], ids=["binary", "tokens", "table"])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("conditions", [False, True])
def test_masses_sum_to_one(tiny: Any, kind: Kind, direct: bool, conditions: bool) -> None:
    model, every = build(tiny, kind, direct=direct, conditions=conditions), states(kind)
    condition = {n: v[:1].expand(len(every)) for n, v in tiny.condition(1).items()} if conditions else None
    mass = model.log_prob(every, condition).exp()
    assert float(mass.sum().detach()) == pytest.approx(1, abs=1e-10)
    assert float(mass.std().detach()) > 0.01 / len(every)  # and it is far from uniform


def test_masses_of_a_table_with_gaps_sum_to_one(tiny: Any) -> None:
    columns = (Column("n", ColumnKind.INTEGER, resolution=1.0, missing=True), LEVELS[1])
    model = build(tiny, Table(columns))
    numbers = torch.cat([torch.arange(-400.0, 400.0, dtype=WIDE), torch.tensor([math.nan], dtype=WIDE)])
    every = torch.stack([numbers.repeat(2), torch.tensor([0.0, 1.0], dtype=WIDE).repeat_interleave(801)], 1)
    assert float(model.log_prob(every).exp().sum().detach()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", [PIXELS, WORDS, ROWS], ids=["binary", "tokens", "table"])
def test_samples_follow_the_enumerated_masses(tiny: Any, kind: Kind) -> None:
    model, every, n = build(tiny, kind), states(kind), 12_000
    mass = model.log_prob(every).exp().detach()
    drawn = model.sample(n, None, Draws(5, 0, n))
    counts = torch.bincount(index_of(drawn, every), minlength=len(every)).double()
    rare = mass * n < 5
    pool = lambda v: torch.cat([v[~rare], v[rare].sum()[None]]) if rare.any() else v
    assert chisquare(pool(counts).numpy(), pool(n * mass).numpy(), sum_check=False).pvalue > 1e-3


def test_sampled_gaps_follow_their_probability(tiny: Any) -> None:
    columns = (Column("n", ColumnKind.INTEGER, resolution=1.0, missing=True), LEVELS[1])
    model, n = build(tiny, Table(columns)), 12_000
    pairs = torch.tensor([[math.nan, 0.0], [math.nan, 1.0]], dtype=WIDE)
    mass = model.log_prob(pairs).exp().detach()
    drawn = model.sample(n, None, Draws(6, 0, n))
    gap = drawn[:, 0].isnan()
    found = [float((gap & (drawn[:, 1] == k)).sum()) for k in (0, 1)]
    found.append(n - sum(found))
    expected = [*(n * mass).tolist(), n * (1 - float(mass.sum()))]
    assert chisquare(found, expected).pvalue > 1e-3


def test_completing_the_end_is_exact(tiny: Any) -> None:
    model, every, n = build(tiny, PIXELS), states(PIXELS), 8000
    mass = model.log_prob(every).exp().detach()
    start = torch.tensor([1, 0, 1], dtype=torch.uint8)
    fits = (every.flatten(1)[:, :3] == start).all(1)
    conditional = mass[fits] / mass[fits].sum()
    x = torch.zeros(n, 6, dtype=torch.uint8)
    x[:, :3] = start
    observed = torch.arange(6) < 3
    drawn = model.complete(x.view(n, 1, 2, 3), observed.expand(n, -1).view(n, 1, 2, 3), None, Draws(3, 0, n))
    assert drawn.dtype == torch.uint8
    counts = torch.bincount(index_of(drawn, every[fits]), minlength=8).double()
    assert chisquare(counts.numpy(), (n * conditional).numpy()).pvalue > 1e-3


def test_completing_the_beginning_comes_close(tiny: Any) -> None:
    model, every, n = build(tiny, PIXELS, particles=64), states(PIXELS), 1500
    mass = model.log_prob(every).exp().detach()
    end = torch.tensor([0, 1, 1], dtype=torch.uint8)
    fits = (every.flatten(1)[:, 3:] == end).all(1)
    conditional = mass[fits] / mass[fits].sum()
    x = torch.zeros(n, 6, dtype=torch.uint8)
    x[:, 3:] = end
    observed = torch.arange(6) >= 3
    drawn = model.complete(x.view(n, 1, 2, 3), observed.expand(n, -1).view(n, 1, 2, 3), None, Draws(3, 0, n))
    found = torch.bincount(index_of(drawn, every[fits]), minlength=8).double() / n
    prior = torch.stack([mass[(every.flatten(1)[:, :3] == s.flatten()[:3]).all(1)].sum() for s in every[fits]])
    assert 0.5 * float((found - conditional).abs().sum()) < 0.06
    assert 0.5 * float((prior - conditional).abs().sum()) > 0.12  # ignoring the end would not do


def test_missing_numbers_are_completed_with_numbers(tiny: Any) -> None:
    model = build(tiny, tiny.kinds["table"])
    x = tiny.codes("table", 40)
    observed = ~x.isnan()
    filled = model.complete(x, observed, None, Draws(1, 0, 40))
    assert not filled.isnan().any()
    assert torch.equal(filled[observed], x[observed])
