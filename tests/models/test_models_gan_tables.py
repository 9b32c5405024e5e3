"""Soft categories and corners: what a generator gives for a table and its critic sees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pushforward.algorithms.estimators import gumbel_softmax, one_hot, straight_through
from pushforward.core.random import Draws
from pushforward.core.schema import Table
from pushforward.models.soft import MixedHead
from pushforward.transforms.onehot import OneHots, table_corners

WIDE = torch.float64


def test_hard_choices_are_drawn_from_the_softmax() -> None:
    logits = torch.tensor([1.0, -0.5, 0.3, -2.0], dtype=WIDE)
    n = 40_000
    uniform = torch.rand(n, 4, dtype=WIDE, generator=torch.Generator().manual_seed(1))
    chosen = one_hot(logits.expand(n, 4), uniform)
    assert torch.equal(chosen, (chosen > 0.5).to(WIDE))
    assert torch.equal(chosen.sum(1), torch.ones(n, dtype=WIDE))
    p = logits.softmax(0)
    assert ((chosen.mean(0) - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_soft_choices_are_the_formula_and_their_gradient_goes_straight_through(temperature: float) -> None:
    logits = torch.randn(50, 3, dtype=WIDE).requires_grad_()
    uniform = torch.rand(50, 3, dtype=WIDE)
    standard = torch.distributions.Gumbel(torch.zeros((), dtype=WIDE), torch.ones((), dtype=WIDE))
    weights = ((logits + standard.icdf(uniform)) / temperature).exp()
    expected = weights / weights.sum(1, keepdim=True)
    soft = gumbel_softmax(logits, uniform, temperature)
    torch.testing.assert_close(soft, expected)
    hard = straight_through(lambda y: y, logits, uniform, temperature)
    assert torch.equal(hard.detach().round(), one_hot(logits, uniform))
    assert torch.equal(hard.argmax(1), soft.argmax(1))
    direction = torch.randn(50, 3, dtype=WIDE)
    slopes = [torch.autograd.grad((y * direction).sum(), logits, retain_graph=True)[0] for y in (hard, expected)]
    torch.testing.assert_close(*slopes)


def test_uniforms_at_their_ends_give_numbers() -> None:
    ends = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]], dtype=WIDE)
    for dtype in (torch.float32, WIDE):
        assert gumbel_softmax(torch.zeros(2, 3, dtype=dtype), ends, 0.1).isfinite().all()


def test_the_head_chooses_groups_and_hides_missing_numbers() -> None:
    head = MixedHead(3, (4, 2, 2), gapped=(0, 2), temperature=0.5)
    raw = torch.randn(60, 11, dtype=WIDE)
    soft, hard = head(raw, Draws(3, 0, 60), False), head(raw, Draws(3, 0, 60), True)
    uniform = Draws(3, 0, 60).uniform(8, dtype=WIDE)
    at = 3
    for levels in (4, 2, 2):
        group = slice(at, at + levels)
        torch.testing.assert_close(soft[:, group], gumbel_softmax(raw[:, group], uniform[:, at - 3 : at - 3 + levels], 0.5))
        assert torch.equal(hard[:, group].argmax(1), soft[:, group].argmax(1))
        assert torch.equal(hard[:, group].sort(1).values[:, -1], torch.ones(60, dtype=WIDE))
        at += levels
    torch.testing.assert_close(soft[:, 1], raw[:, 1])
    torch.testing.assert_close(soft[:, 0], raw[:, 0] * soft[:, 7])
    torch.testing.assert_close(soft[:, 2], raw[:, 2] * soft[:, 9])
    missing = hard[:, 8] == 1
    assert missing.any()
    assert (hard[missing, 0] == 0).all()
    assert torch.equal(hard[~missing, 0], raw[~missing, 0])


def test_one_hots_come_back_as_codes() -> None:
    corners = OneHots((3, 2, 5))
    codes = torch.stack([torch.randint(0, k, (40,)) for k in (3, 2, 5)], 1)
    y, _ = corners.pull(codes.double())
    assert y.shape == (40, 10)
    for d, (start, levels) in enumerate(((0, 3), (3, 2), (5, 5))):
        for row, code in zip(y, codes[:, d].tolist(), strict=True):
            assert row[start : start + levels].tolist() == [float(k == code) for k in range(levels)]
    assert torch.equal(corners.push(y), codes)
    known = torch.tensor([[True, False, True]])
    assert corners.spread(known).tolist() == [[True] * 3 + [False] * 2 + [True] * 5]


def test_a_table_comes_back_from_its_corners_gaps_included(tiny: Any) -> None:
    kind = tiny.kinds["table"]
    assert isinstance(kind, Table)
    transform, levels = table_corners(kind.learned)
    x = tiny.codes("table", 300)
    transform.prepare(x)
    assert levels == (3, 3, 2, 2)  # colour, paid with its gap as a level, and two indicators
    y = transform.pull(x, None, Draws(1, 0, 300))[0]
    assert y.shape == (300, 3 + sum(levels))
    for number, column, indicator in ((0, 0, 9), (1, 1, 11)):
        gap = x[:, column].isnan()
        assert torch.equal(y[:, number].isnan(), gap)
        assert torch.equal(y[:, indicator + 1] == 1, gap)
        assert torch.equal(y[:, indicator] == 1, ~gap)
    torch.testing.assert_close(transform.push(y), x, equal_nan=True)


def test_what_is_sampled_has_the_shares_that_the_generator_says(tiny: Any) -> None:
    """Decided categories of a generator that says the same for every z are drawn from its softmax."""
    model = tiny.model("gan", "table")
    last = model.generator.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
    logits = last.bias.detach()[3:6].double()
    n = 20_000
    drawn = model.sample(n, None, Draws(2, 0, n))[:, 2]
    share = torch.stack([(drawn == k).double().mean() for k in range(3)])
    p = logits.softmax(0)
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()
    gaps = model.sample(n, None, Draws(2, 0, n))[:, 0].isnan().double().mean()
    q = last.bias.detach()[9:11].double().softmax(0)[1]
    assert float(gaps) == pytest.approx(float(q), abs=4 * math.sqrt(float(q * (1 - q)) / n))
