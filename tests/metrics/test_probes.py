"""Probes of codes whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.core.errors import DataError
from pushforward.metrics import _arrays, effective_rank, knn_accuracy, linear_probe


def clusters(seed: int, n: int = 150, gap: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return rng.standard_normal((n, 3)) + gap * np.eye(3)[labels], labels * 5 - 2


@pytest.mark.parametrize("probe", [linear_probe, knn_accuracy, lambda *a: knn_accuracy(*a, metric="euclidean")])
def test_separable_and_useless_codes(probe) -> None:
    train, test = clusters(0), clusters(1)
    good = probe(*train, torch.tensor(test[0]), torch.tensor(test[1]))
    assert good.value > 0.98
    assert 0 < good.standard_error < 0.02
    noise = probe(*clusters(2, gap=0), *clusters(3, gap=0))
    assert abs(noise.value - 1 / 3) < 4 * noise.standard_error
    constant = probe(np.ones((9, 2)), np.zeros(9), np.ones((4, 2)), np.array([0, 0, 0, 7]))
    assert constant.value == 0.75


def test_linear_probe_knows_no_units_and_no_order() -> None:
    train, test = clusters(0, gap=2), clusters(1, gap=2)
    first = linear_probe(*train, *test)
    assert linear_probe(train[0] * [1e-3, 1, 1e4] + 5, train[1], test[0] * [1e-3, 1, 1e4] + 5, test[1]) == first
    assert 0.6 < first.value < 0.95


def test_linear_probe_sees_no_ring_but_neighbours_do() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 2))
    y = (np.linalg.norm(x, axis=1) > 1.18).astype(int)
    assert linear_probe(x[:400], y[:400], x[400:], y[400:]).value < 0.65
    assert knn_accuracy(x[:400], y[:400], x[400:], y[400:], k=5, metric="euclidean").value > 0.9


def test_votes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, labels = np.array([[0.0], [1.0], [3.0], [4.0]]), [0, 1, 2, 2]
    ask = lambda q, k, label: knn_accuracy(codes, labels, [[q]], [label], k=k, metric="euclidean").value
    assert ask(0.1, 2, 0) == 1  # one vote each: the nearer wins
    assert ask(0.9, 2, 1) == 1
    assert ask(0.1, 4, 2) == 1  # two votes beat the nearest
    assert ask(0.1, 99, 2) == 1
    # cosine looks at direction alone: weights exp(s/0.07) let one perfect match beat two at 60 degrees
    angles = np.array([[1.0, 0.0], [0.5, 3**0.5 / 2], [0.5, -(3**0.5) / 2]])
    assert knn_accuracy(angles * [[9], [1], [1]], [0, 1, 1], [[0.01, 0.0]], [0], k=3).value == 1
    train, test = clusters(0, gap=1), clusters(1, gap=1)
    whole = [knn_accuracy(*train, *test, metric=m).value for m in ("cosine", "euclidean")]
    monkeypatch.setattr(_arrays, "BLOCK_ENTRIES", 1000)
    assert [knn_accuracy(*train, *test, metric=m).value for m in ("cosine", "euclidean")] == whole


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_effective_rank(rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((8, rank)))[0]
    codes = np.concatenate([np.eye(rank), -np.eye(rank)]) @ basis.T + rng.standard_normal(8)
    assert effective_rank(codes) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(rng.permutation(codes) * 7) == pytest.approx(rank, rel=1e-6)


def test_collapse() -> None:
    assert effective_rank(np.full((9, 4), 0.1)) == 0
    rng = np.random.default_rng(0)
    assert effective_rank(rng.standard_normal((4000, 6))) == pytest.approx(6, rel=1e-2)
    assert effective_rank(rng.standard_normal((3, 50))) <= 2 + 1e-6


def test_bad_input() -> None:
    x, y = clusters(0, 20)
    for call in (
        lambda: linear_probe(x, y[:3], x, y),
        lambda: linear_probe(x[:0], y[:0], x, y),
        lambda: linear_probe(x, y, x[:, :2], y),
        lambda: knn_accuracy(x * np.nan, y, x, y),
        lambda: knn_accuracy(x, y, x, y, k=0),
        lambda: knn_accuracy(x, y, x, y, metric="manhattan"),
        lambda: effective_rank(x[0]),
        lambda: effective_rank(x[:1]),
    ):
        with pytest.raises(DataError):
            call()
