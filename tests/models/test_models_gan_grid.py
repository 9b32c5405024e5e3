"""The default recipes find the modes of a grid of 25 narrow bells, and what is kept is averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.catalog import FAMILIES
from pushforward.fitting.options import Training

_STD = 0.05
_NEAR = {"gan": 0.7, "wgan-gp": 0.6}  # share of samples within three deviations of a centre; more is found


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) of 25 normal distributions of deviation 0.05, two apart, and their centres."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(*2 * [np.arange(-4.0, 5.0, 2.0)]), -1).reshape(-1, 2)
    return centres[rng.integers(25, size=n)] + _STD * rng.standard_normal((n, 2)), centres


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_the_default_recipe_finds_the_modes(name: str) -> None:
    x, centres = grid(20_000)
    samples = np.asarray(pf.fit(x, name, quiet=True).sample(10_000))
    apart = np.linalg.norm(samples[:, None] - centres, axis=2)
    near = apart.min(1) < 3 * _STD
    found = np.bincount(apart.argmin(1)[near], minlength=25)
    # of 10 000 samples a mode should have 400: one that has 20 within three deviations was no accident
    assert int((found >= 20).sum()) >= 24
    assert float(near.mean()) > _NEAR[name]


@pytest.mark.parametrize("name", ["gan", "wgan", "wgan-gp"])
def test_weights_are_averaged_unless_told_otherwise(name: str) -> None:
    training = Training().with_defaults(FAMILIES[name].training)
    assert training.average > 0.9


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_what_is_kept_is_averaged_and_a_normalised_critic_stays_normalised(average: float) -> None:
    """Averages are of the weights alone: their singular values are found anew from the directions of the last ones."""
    x, _ = grid(300)
    fitted = pf.fit(x, "gan", steps=30, hidden=(16, 16), spectral=True, average=average, batch_size=32, validate=1, quiet=True)
    kept = fitted.model.state_dict()
    for name, _ in fitted.model.named_parameters():
        assert torch.equal(kept[name], fitted.raw[name]) == (average == 0), name
    assert all(torch.equal(kept[name], fitted.raw[name]) for name in kept if name.endswith(".u"))
    layers = [m for m in fitted.model.critic.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 3
    for layer in layers:
        top = torch.linalg.svdvals(layer.weight.detach())[0]
        assert float(top) == pytest.approx(1, abs=0.05)
