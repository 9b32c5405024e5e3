"""Whole examples drawn given something measured of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.errors import DataError, RecipeError, Unsupported
from pushforward.guidance.measurements import measurement


@pytest.fixture(scope="module")
def digits() -> pf.Fitted:
    return pf.fit("digits", "rectified-flow", steps=60, width=8, seed=0, quiet=True)


def test_restored_pictures_have_what_was_measured(digits: pf.Fitted) -> None:
    real = np.asarray(digits.sample(16, seed=3, steps=10))
    for name in ("small:2", "blur:1"):
        measure = measurement(name)
        of = lambda images, measure=measure: measure(torch.from_numpy(images[:, None].astype(float)))[:, 0].numpy()
        told = of(real)
        drawn = np.asarray(digits.restore(told, name, seed=1))
        other = np.asarray(digits.sample(16, seed=9, steps=10))
        assert drawn.shape == real.shape
        assert drawn.dtype == real.dtype
        near, far = (np.abs(of(found) - told).mean() for found in (drawn, other))
        assert near < 0.35 * far, name
        again = np.asarray(digits.restore(told, name, seed=1, chunk=7))
        assert (again == drawn).mean() > 0.85  # a blur is hard to undo: last bits decide some levels
        assert (np.asarray(digits.restore(told, name, seed=2)) != drawn).any()


def test_pictures_are_sampled_in_bfloat16_alike(digits: pf.Fitted) -> None:
    single, half = (np.asarray(digits.sample(30, seed=1, precision=p)).astype(float) for p in ("float32", "bf16"))
    assert (single != half).any()
    assert np.abs(single - half).mean() < 0.1 * np.abs(single - single[::-1]).mean()
    with pytest.raises(RecipeError, match="float32 or bf16"):
        digits.sample(3, precision="half")


def test_any_differentiable_function_can_be_measured() -> None:
    rng = np.random.default_rng(0)
    model = pf.fit(rng.normal(size=(500, 3)) * [1.0, 2.0, 3.0] + 5, "ddpm", steps=5, hidden=(16, 16), quiet=True)
    sums = np.full((60, 1), 18.0)
    drawn = np.asarray(model.restore(sums, lambda x: x.sum(1, keepdim=True), steps=40))
    assert np.abs(drawn.sum(1) - 18).mean() < 1.0
    assert drawn.std(0).min() > 0.3


def test_what_does_not_fit_is_refused(digits: pf.Fitted) -> None:
    with pytest.raises(DataError, match=r"found measurements of shape .* expected \(1, 4, 4\)"):
        digits.restore(np.zeros((2, 5, 5)), "small:2")
    with pytest.raises(RecipeError, match="no measurement"):
        digits.restore(np.zeros((2, 4, 4)), "smal:2")
    plain = pf.fit(np.random.default_rng(0).normal(size=(100, 2)), "gmm", quiet=True)
    with pytest.raises(Unsupported, match="cannot restore"):
        plain.restore(np.zeros((2, 1)), lambda x: x[:, :1])
