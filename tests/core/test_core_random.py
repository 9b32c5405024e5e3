"""Random numbers that belong to rows: independent of how the rows are cut, and of the right distribution."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pushforward.core.random import BLOCK, Draws, mix

METHODS: dict[str, Callable[[Draws], Tensor]] = {
    "normal": lambda d: d.normal(2, 3),
    "normal64": lambda d: d.normal(dtype=torch.float64),
    "uniform": lambda d: d.uniform(5),
    "integers": lambda d: d.integers(7, 2),
    "signs": lambda d: d.signs(4),
    "stratified": lambda d: d.stratified(),
    "categorical": lambda d: d.categorical(torch.zeros(len(d), 2, 3)),
}


@pytest.mark.parametrize("method", METHODS)
@given(total=st.integers(1, 3 * BLOCK), cuts=st.lists(st.floats(0, 1), max_size=4), seed=st.integers(0, 2**70))
def test_rows_do_not_depend_on_how_they_are_cut(method: str, total: int, cuts: list[float], seed: int) -> None:
    draw = METHODS[method]
    whole = Draws(seed, 0, total)
    wanted = [draw(whole), draw(whole)]
    edges = sorted({0, total, *(int(c * total) for c in cuts)})
    chunks = [Draws(seed, a, b, total) for a, b in itertools.pairwise(edges)]
    for call in wanted:
        assert torch.equal(torch.cat([draw(chunk) for chunk in chunks]), call)


def test_rows_and_calls_and_forks_are_unrelated() -> None:
    n = 4096
    draws = Draws(1, 0, n)
    a, b = draws.normal(), draws.normal()
    others = [b, Draws(2, 0, n).normal(), Draws(1, 0, n).fork(0).normal(), Draws(1, 0, n).fork(1).normal()]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([a, other]))[0, 1])) < 5 / n**0.5
    # neighbouring rows, and the same place of neighbouring blocks
    for lag in (1, BLOCK):
        assert abs(float(torch.corrcoef(torch.stack([a[lag:], a[:-lag]]))[0, 1])) < 5 / n**0.5
    assert len(a.unique()) > n - 5


def test_forks_are_deterministic_and_cut_like_their_parents() -> None:
    whole = Draws(3, 0, 150).fork(4).uniform(2)
    parts = [Draws(3, a, b, 150).fork(4).uniform(2) for a, b in ((0, 70), (70, 150))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(Draws(3, 0, 150).fork(5).uniform(2), whole)


@given(st.lists(st.integers(-(2**80), 2**80), min_size=1, max_size=3))
def test_mix_is_a_63_bit_hash(values: list[int]) -> None:
    assert 0 <= mix(*values) < 2**63
    assert mix(*values) != mix(*values[:-1], values[-1] + 1)


def test_mix_spreads_near_seeds() -> None:
    seeds = torch.tensor([[mix(a, b) for b in range(40)] for a in range(40)])
    assert len(seeds.unique()) == 1600
    bits = (seeds.flatten()[:, None] >> torch.arange(63)) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / 40


def test_moments() -> None:
    n = 20_000
    draws = Draws(0, 0, n)
    assert stats.kstest(draws.normal().numpy(), "norm").pvalue > 1e-3
    uniform = draws.uniform(dtype=torch.float64)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert 0 <= float(uniform.min()) <= float(uniform.max()) < 1
    signs = draws.signs()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5 / n**0.5
    assert stats.chisquare(torch.bincount(draws.integers(7), minlength=7).numpy()).pvalue > 1e-3


def test_categorical_follows_its_logits() -> None:
    n = 30_000
    logits = torch.tensor([0.3, -1.0, 2.0, -4.0, float("-inf")])
    drawn = Draws(8, 0, n).categorical(logits.expand(n, -1))
    counts = torch.bincount(drawn, minlength=5)
    assert int(counts[4]) == 0
    expected = logits.softmax(0)[:4].double()
    assert stats.chisquare(counts[:4].numpy(), (n * expected / expected.sum()).numpy()).pvalue > 1e-3


@given(total=st.integers(1, 500), seed=st.integers(0, 2**40))
def test_stratified_fills_each_cell_once(total: int, seed: int) -> None:
    draws = Draws(seed, 0, total)
    for _ in range(2):
        values = draws.stratified(dtype=torch.float64)
        assert torch.equal((values * total).long().sort().values, torch.arange(total))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_stratified_stays_below_one(dtype: torch.dtype) -> None:
    values = torch.cat([Draws(seed, 0, 50_000).stratified(dtype=dtype) for seed in range(5)])
    assert float(values.min()) >= 0
    assert float(values.max()) < 1


def test_stratified_is_uniform_in_every_row_over_seeds() -> None:
    values = torch.stack([Draws(seed, 0, 8).stratified(dtype=torch.float64) for seed in range(2000)])
    for row in range(8):
        assert stats.kstest(values[:, row].numpy(), "uniform").pvalue > 1e-3


def test_impossible_rows_are_refused() -> None:
    for start, stop in ((-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="start ≤ stop"):
            Draws(0, start, stop)
    assert Draws(0, 5, 5).normal(2).shape == (0, 2)
