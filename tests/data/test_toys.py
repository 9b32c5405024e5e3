import numpy as np
import pytest

from pushforward.core.errors import DataError
from pushforward.data import toys


def midpoints(name):
    # Cells of side 0.05 whose edges include those of the checkerboard's squares.
    step = 0.05
    axis = -4.8 + step * (np.arange(192) + 0.5)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return toys.log_density(name, x), step**2


@pytest.mark.parametrize("name", toys.TOYS)
def test_the_density_is_that_of_the_samples(name):
    log_p, cell = midpoints(name)
    p = np.exp(log_p)
    assert p.sum() * cell == pytest.approx(1, abs=1e-3)

    n = 8_000
    points = toys.sample(name, n, seed=1)
    own = toys.log_density(name, points)
    entropy = -(p * np.where(p > 0, log_p, 0)).sum() * cell
    assert np.isfinite(own).all()
    assert -own.mean() == pytest.approx(entropy, abs=5 * own.std() / np.sqrt(n) + 1e-3)

    # Mass of coarse cells (side 0.6) against a histogram: a wrong place, arm or turn would show.
    edges = np.linspace(-4.8, 4.8, 17)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])
    mass = (p * cell).reshape(16, 12, 16, 12).sum(axis=(1, 3))
    expected = n * mass
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected + 1) + 2).all()


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_the_quadrature_has_converged(name, monkeypatch):
    x = toys.sample(name, 50, seed=2) * np.linspace(1, 5, 50)[:, None]
    nodes = getattr(toys, f"_{name}_nodes")
    coarse = toys.log_density(name, x)
    monkeypatch.setattr(toys, "_NODES", 1500)
    nodes.cache_clear()
    fine = toys.log_density(name, x)
    nodes.cache_clear()
    np.testing.assert_allclose(coarse, fine, atol=1e-8)


def test_closed_forms():
    assert toys.log_density("checkerboard", [[-3.5, -3.5]]) == pytest.approx(-np.log(32))
    assert toys.log_density("checkerboard", [[-3.5, -1.5], [4.5, 4.5]]).tolist() == [-np.inf, -np.inf]
    # At a centre of the ring its neighbours add almost nothing.
    assert toys.log_density("eight-gaussians", [[2.8, 0]]) == pytest.approx(-np.log(8 * 2 * np.pi * 0.35**2), abs=1e-6)


@pytest.mark.parametrize("name", toys.TOYS)
def test_seeds(name):
    first = toys.sample(name, 7, seed=3)
    assert first.shape == (7, 2)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, toys.sample(name, 7, seed=3))
    assert not np.array_equal(first, toys.sample(name, 7, seed=4))
    assert toys.sample(name, 0).shape == (0, 2)
    assert toys.log_density(name, np.empty((0, 2))).shape == (0,)


def test_errors():
    with pytest.raises(DataError, match="did you mean 'moons'"):
        toys.sample("moon", 3)
    with pytest.raises(DataError, match=r"\(3,\)"):
        toys.log_density("moons", np.zeros(3))
    with pytest.raises(DataError, match="-1"):
        toys.sample("moons", -1)
