"""Copies, near copies and fresh samples are told apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.core.errors import DataError
from pushforward.metrics import _arrays, closest_record, nearest_neighbours


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


TRAIN, HOLDOUT = normal(0, 500, 4), normal(1, 300, 4)


def test_against_brute_force() -> None:
    samples = normal(2, 300, 4) * 1.1
    got = nearest_neighbours(samples, TRAIN, HOLDOUT, quantile=0.1)
    near, far = (np.linalg.norm(q[:, None] - TRAIN[None], axis=2).min(1) for q in (samples, HOLDOUT))
    assert got.sample_distance == pytest.approx(np.median(near), rel=1e-12)
    assert got.holdout_distance == pytest.approx(np.median(far), rel=1e-12)
    assert got.ratio == pytest.approx(np.median(near) / np.median(far), rel=1e-12)
    assert got.share_closer == pytest.approx((near <= np.quantile(far, 0.1)).mean())
    assert got.holdout_share == pytest.approx(0.1)


def test_fresh_samples() -> None:
    got = nearest_neighbours(normal(3, 1000, 4), TRAIN, HOLDOUT, quantile=0.1)
    assert got.samples == got.holdout == 300
    assert abs(got.ratio - 1) < 4 * got.ratio_standard_error < 0.4
    assert abs(got.share_closer - 0.1) < 4 * (got.share_closer_standard_error * 2**0.5)
    assert got.duplicates == got.holdout_duplicates == 0


def test_copier() -> None:
    got = nearest_neighbours(TRAIN[::-1], TRAIN, HOLDOUT)
    assert got.ratio == got.ratio_standard_error == got.sample_distance == 0
    assert got.share_closer == got.duplicate_share == 1
    assert got.duplicates == 500
    near = nearest_neighbours(TRAIN + 1e-6, TRAIN, HOLDOUT)
    assert near.duplicates == 0
    assert near.sample_distance == pytest.approx(2e-6, rel=1e-3)
    assert near.share_closer == 1


def test_few_copies_are_counted_even_when_few_rows_are_measured() -> None:
    samples = np.concatenate([normal(3, 97, 4), TRAIN[:3]])
    got = nearest_neighbours(samples, TRAIN, HOLDOUT, limit=10)
    assert got.duplicates == 3
    assert got.samples == 10


def test_copies_across_precisions_signs_of_zero_and_far_offsets() -> None:
    train = TRAIN.copy()
    train[:, 0] = 0.0
    copy = torch.tensor(train).float()
    copy[:, 0] = -0.0
    assert nearest_neighbours(copy, train, HOLDOUT).duplicates == 500
    # two tight groups a million apart: the product of rows cannot resolve them, the fingerprint can
    tight = np.concatenate([TRAIN * 1e-6, TRAIN * 1e-6 + 1e6])
    got = nearest_neighbours(tight, tight, HOLDOUT)
    assert got.sample_distance == 0
    assert got.duplicates == 1000


def test_repeating_data_is_compared_fairly() -> None:
    rng = np.random.default_rng(0)
    samples, train, holdout = (rng.integers(0, 3, (400, 3)) for _ in range(3))
    got = nearest_neighbours(samples, train, holdout)
    assert np.isnan(got.ratio)
    assert np.isnan(got.ratio_standard_error)
    assert got.share_closer == pytest.approx(got.holdout_share, abs=0.02)
    assert got.duplicate_share == pytest.approx(got.holdout_duplicate_share, abs=0.02)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = normal(3, 100, 4)
    whole = nearest_neighbours(samples, TRAIN, HOLDOUT)
    monkeypatch.setattr(_arrays, "BLOCK_ENTRIES", 300)
    parts = nearest_neighbours(samples, TRAIN, HOLDOUT)
    assert dataclasses.astuple(parts) == pytest.approx(dataclasses.astuple(whole), rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_training_rows_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, train, holdout = (rng.standard_normal((12, 2)) for _ in range(3))
    got = nearest_neighbours(samples, rng.permutation(train), holdout, seed=seed)
    assert dataclasses.astuple(got) == pytest.approx(
        dataclasses.astuple(nearest_neighbours(samples, train, holdout, seed=seed)), rel=1e-6
    )


def test_bad_input() -> None:
    for args, options in (
        ((TRAIN[0], TRAIN, HOLDOUT), {}),
        ((TRAIN[:0], TRAIN, HOLDOUT), {}),
        ((TRAIN, TRAIN[:, :2], HOLDOUT), {}),
        ((TRAIN, TRAIN, HOLDOUT[:, :2]), {}),
        ((TRAIN, TRAIN, HOLDOUT * np.nan), {}),
        ((TRAIN, TRAIN, HOLDOUT), {"quantile": 1.0}),
        ((TRAIN, TRAIN, HOLDOUT), {"limit": 0}),
    ):
        with pytest.raises(DataError):
            nearest_neighbours(*args, **options)


def test_closest_record_by_hand() -> None:
    got = closest_record([[0.0], [1.0], [5.0], [9.0]], [[0.1], [9.2]], [[4.0], [1.5]])
    # 0 → training by far, 1 → held out, 5 → held out, 9 → training
    assert got.share.value == 0.5
    assert got.train_distance == pytest.approx(np.median([0.1, 0.9, 4.2, 0.2]))
    assert got.holdout_distance == pytest.approx(np.median([1.5, 0.5, 1.0, 5.0]))
    assert closest_record([[1.0]], [[0.0]], [[2.0]]).share.value == 0.5  # a tie


def test_closest_record_of_a_good_model_and_a_copier() -> None:
    samples = normal(3, 800, 4)
    runs = [closest_record(normal(10 + s, 300, 4), normal(1000 + s, 900, 4), HOLDOUT) for s in range(40)]
    assert {r.records for r in runs} == {min(900, len(HOLDOUT))}
    shares = [r.share.value for r in runs]
    assert abs(np.mean(shares) - 0.5) < 4 * np.std(shares) / np.sqrt(40)
    mixed = np.concatenate([samples[:400], TRAIN[:400]])
    copier = closest_record(mixed, TRAIN, HOLDOUT, seed=1)
    kept = copier.records / len(TRAIN)  # of the copied rows only those that are left after cutting
    assert copier.share.value > 0.5 + 0.5 * 0.5 * kept - 4 * copier.share.standard_error
    assert copier.share.value - 0.5 > 6 * copier.share.standard_error
    with pytest.raises(DataError):
        closest_record(TRAIN, TRAIN[:, :2], HOLDOUT)
    with pytest.raises(DataError):
        closest_record(TRAIN, TRAIN, HOLDOUT, limit=0)
