"""The Fréchet distance's error, bias and provenance, and the extractors behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pushforward.core.errors import DataError
from pushforward.metrics import (
    frechet_distance,
    frechet_gaussian,
    frechet_of_features,
    kid,
    of_callable,
    of_module,
    random_convolutions,
    raw,
)
from pushforward.metrics.features import weights_hash


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pictures(seed: int, n: int = 12, channels: int = 1, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def test_error_and_bias_match_repetition() -> None:
    # truth: N(0, I) and N(m, 4 I) in five dimensions, |m|² = 1
    truth = 1 + 5 * (2 - 1) ** 2
    shift = np.array([1.0, 0, 0, 0, 0])
    runs = [frechet_of_features(normal(2 * s, 80, 5), 2 * normal(2 * s + 1, 60, 5) + shift, raw()) for s in range(300)]
    values = np.array([r.value for r in runs])
    assert np.mean([r.standard_error for r in runs]) == pytest.approx(values.std(ddof=1), rel=0.15)
    bias = values.mean() - truth
    assert bias > 4 * values.std() / np.sqrt(300)
    assert np.mean([r.bias for r in runs]) == pytest.approx(bias, rel=0.35)
    assert abs(np.mean([r.corrected for r in runs]) - truth) < bias / 2


def test_value_is_that_of_the_gaussians() -> None:
    x, y = normal(0, 50, 4), normal(1, 40, 4) + 1
    got = frechet_distance(x, y, raw())
    assert got.value == pytest.approx(frechet_gaussian(x, y), rel=1e-5)  # extractors work in float32
    one = frechet_of_features(x[:, :1], y[:, :1], raw())
    spread = np.std(x[:, 0], ddof=1) - np.std(y[:, 0], ddof=1)
    assert one.value == pytest.approx((x[:, 0].mean() - y[:, 0].mean()) ** 2 + spread**2)
    assert one.standard_error > 0


def test_figures_of_unlike_provenance_refuse_to_be_compared() -> None:
    real = pictures(0, 30)
    base = frechet_distance(pictures(1, 20), real, random_convolutions(1, 8))
    other = frechet_distance(pictures(2, 20), real, random_convolutions(1, 8))
    assert (base - other).value == pytest.approx(base.value - other.value)
    assert (base < other) != (base > other)
    unlike = {
        "weights": frechet_distance(pictures(1, 20), real, random_convolutions(1, 8, seed=1)),
        "resize": frechet_distance(pictures(1, 20), real, random_convolutions(1, 8, resize=(16, 16))),
        "dtype": dataclasses.replace(base, provenance=dataclasses.replace(base.provenance, dtype="bfloat16")),
        "generated": frechet_distance(pictures(1, 21), real, random_convolutions(1, 8)),
        "real": frechet_distance(pictures(1, 20), real[:-1], random_convolutions(1, 8)),
        "reference": frechet_distance(pictures(1, 20), pictures(3, 30), random_convolutions(1, 8)),
        "features": frechet_distance(pictures(1, 20), real, random_convolutions(1, 12)),
        "extractor": frechet_distance(pictures(1, 20), real, raw()),
    }
    for field, figure in unlike.items():
        for compare in (lambda a, b: a - b, lambda a, b: a < b, lambda a, b: a > b):
            with pytest.raises(DataError, match=field):
                compare(base, figure)
    assert "16 features of 20 generated and 30 real" in str(base)


def test_random_convolutions_are_the_same_ever_and_take_no_numbers_from_the_user() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = random_convolutions(3, 16, seed=2), random_convolutions(3, 16, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert one.weights == other.weights != random_convolutions(3, 16, seed=3).weights
    x = pictures(0, channels=3)
    assert np.array_equal(one(x), other(x))
    assert one(x).shape == (12, 32)
    assert one(x / 255.0) == pytest.approx(one(x), rel=1e-4, abs=1e-5)  # uint8 and [0, 1] are one
    assert np.abs(one(x)[:6] - one(x[:6])).max() < 1e-5


def test_they_see_textures_that_pixels_averages_hide() -> None:
    # stripes and noise of one mean and variance in each pixel
    rng = np.random.default_rng(0)
    phase = rng.integers(0, 2, (60, 1, 1, 1))
    stripes = 255 * ((np.arange(12)[None, None, None] + phase) % 2) * np.ones((1, 1, 12, 1))
    noise = [255 * rng.integers(0, 2, (60, 1, 12, 12)) for _ in range(2)]
    see = random_convolutions(1, 16, resize=None)
    apart, alike = (frechet_distance(a.astype(np.uint8), noise[0].astype(np.uint8), see) for a in (stripes, noise[1]))
    assert apart.value > 20 * alike.value
    assert kid(see(stripes.astype(np.uint8)), see(noise[0].astype(np.uint8))).value > 0


def test_modules_keep_their_mode_and_their_hash_their_state() -> None:
    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.linear = nn.Dropout(0.5), nn.Linear(9, 4)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.drop(x.flatten(1)))

    module = Coder().train()
    extractor = of_module(module, "coder")
    x = np.random.default_rng(0).random((5, 1, 3, 3))
    truth = torch.tensor(x, dtype=torch.float32).flatten(1) @ module.linear.weight.T + module.linear.bias
    assert extractor(x) == pytest.approx(truth.detach().numpy(), abs=1e-5)
    assert module.training
    first = weights_hash(module)
    with torch.no_grad():
        module.linear.bias[0] += 1e-6
    assert weights_hash(module) != first == extractor.weights
    small = of_module(nn.Flatten(), "pixels", resize=(2, 2))
    flat = np.full((3, 1, 8, 8), 0.25)
    assert small(flat) == pytest.approx(np.full((3, 4), 0.25))


def test_bad_input() -> None:
    x = normal(0, 20, 3)
    for call in (
        lambda: raw()(x[:, 0]),
        lambda: raw(resize=(4, 4))(x),
        lambda: of_callable(lambda t: t / 0, "broken", "1")(x + 9),
        lambda: of_callable(lambda t: t, "nameless", ""),
        lambda: random_convolutions(1, 6),
        lambda: frechet_distance(x, x, raw(), blocks=1),
        lambda: frechet_distance(x, x[:6], raw()),
    ):
        with pytest.raises(DataError):
            call()
