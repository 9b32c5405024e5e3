"""Distributions in the plane that can be sampled exactly and whose densities are known (natural logarithm, per unit area).

Their shapes follow the usual toys of the normalizing-flow literature; each is defined here so that its density is exact:
mixtures and uniform squares in closed form, curves with Gaussian noise by quadrature along the curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import logsumexp, roots_legendre

from pushforward.core.errors import DataError, did_you_mean

Rng = np.random.Generator
_CHUNK = 512
# Nodes on each curve. They lie less than half a standard deviation of the noise apart, where the quadrature of a
# Gaussian is exact to rounding.
_NODES = 512


@dataclass(frozen=True)
class Toy:
    """One distribution: ``sample(n, rng)`` gives (n, 2), ``log_density`` maps (n, 2) to (n,)."""

    about: str
    sample: Callable[[int, Rng], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]


def _log_mixture(x: np.ndarray, centres: np.ndarray, log_weights: np.ndarray, std: float) -> np.ndarray:
    """Log density of isotropic Gaussians (centres (k, 2), one ``std``) at ``x`` (n, 2)."""
    constant = log_weights - np.log(2 * np.pi * std**2)
    out = np.empty(len(x))
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        square = (part[:, :1] - centres[:, 0]) ** 2 + (part[:, 1:] - centres[:, 1]) ** 2
        terms = constant - square / (2 * std**2)
        top = terms.max(axis=1)
        out[start : start + _CHUNK] = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return out


# Eight Gaussians on a circle.
_RING_STD = 0.35
_RING = 2.8 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)


def _ring_sample(n: int, rng: Rng) -> np.ndarray:
    return _RING[rng.integers(8, size=n)] + _RING_STD * rng.standard_normal((n, 2))


def _ring_log_density(x: np.ndarray) -> np.ndarray:
    return _log_mixture(x, _RING, np.full(8, -np.log(8)), _RING_STD)


# Checkerboard: the eight dark squares of side 2 in [-4, 4)².
def _board_sample(n: int, rng: Rng) -> np.ndarray:
    column, row = rng.integers(4, size=n), rng.integers(2, size=n)
    corner = np.stack([2 * column - 4, 4 * row + 2 * (column % 2) - 4], axis=1)
    return corner + 2 * rng.random((n, 2))


def _board_log_density(x: np.ndarray) -> np.ndarray:
    cell = np.floor(x / 2)
    dark = (np.abs(cell + 0.5) < 2).all(axis=1) & (cell.sum(axis=1) % 2 == 0)
    return np.where(dark, -np.log(32), -np.inf)


# Pinwheel: elongated Gaussians, each turned to its arm and then by an angle that depends on the radius alone. In polar
# coordinates that shifts the angle, so the map has unit Jacobian and keeps densities.
_ARMS = 5
_ARM_MEAN, _ARM_STD = 2.0, np.array([0.6, 0.2])


def _turned(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def _twist(x: np.ndarray) -> np.ndarray:
    return 0.9 * np.hypot(x[:, 0], x[:, 1])


def _pinwheel_sample(n: int, rng: Rng) -> np.ndarray:
    arm = rng.integers(_ARMS, size=n)
    straight = rng.standard_normal((n, 2)) * _ARM_STD + np.array([_ARM_MEAN, 0.0])
    return _turned(straight, 2 * np.pi / _ARMS * arm + _twist(straight))


def _pinwheel_log_density(x: np.ndarray) -> np.ndarray:
    logs = []
    for arm in range(_ARMS):
        straight = _turned(x, -(2 * np.pi / _ARMS * arm + _twist(x)))
        scaled = (straight - np.array([_ARM_MEAN, 0.0])) / _ARM_STD
        logs.append(-0.5 * (scaled**2).sum(axis=1))
    return logsumexp(np.stack(logs), axis=0) - np.log(_ARMS * 2 * np.pi * _ARM_STD.prod())


# Two moons: half circles whose angle is uniform, plus noise.
_MOON_STD = 0.1


def _moon(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _other_moon(points: np.ndarray) -> np.ndarray:
    return np.array([1.0, 0.5]) - points


def _moons_sample(n: int, rng: Rng) -> np.ndarray:
    points = _moon(np.pi * rng.random(n))
    curve = np.where(rng.integers(2, size=n)[:, None] == 1, _other_moon(points), points)
    return curve + _MOON_STD * rng.standard_normal((n, 2))


@lru_cache(maxsize=1)
def _moons_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = roots_legendre(_NODES)
    points = _moon(np.pi * (nodes + 1) / 2)
    # The weights on [-1, 1] add up to 2: a quarter of each makes one distribution of the two moons.
    return np.concatenate([points, _other_moon(points)]), np.log(np.tile(weights / 4, 2))


def _moons_log_density(x: np.ndarray) -> np.ndarray:
    return _log_mixture(x, *_moons_nodes(), _MOON_STD)


# Two spirals of one and a half turns. The angle is 3π√u with u uniform, so that points are about evenly spread along
# the curve.
_SPIRAL_STD = 0.1


def _spiral(root: np.ndarray) -> np.ndarray:
    angle = 3 * np.pi * root
    return (angle / 3)[..., None] * np.stack([-np.cos(angle), np.sin(angle)], axis=-1)


def _spirals_sample(n: int, rng: Rng) -> np.ndarray:
    sign = 2.0 * rng.integers(2, size=n) - 1
    return sign[:, None] * _spiral(np.sqrt(rng.random(n))) + _SPIRAL_STD * rng.standard_normal((n, 2))


@lru_cache(maxsize=1)
def _spirals_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = roots_legendre(_NODES)
    # Over s = √u, of density 2s, the curve is smooth; over u it has a corner at 0 and the quadrature would be poor.
    root = (nodes + 1) / 2
    points = _spiral(root)
    return np.concatenate([points, -points]), np.log(np.tile(weights * root / 2, 2))


def _spirals_log_density(x: np.ndarray) -> np.ndarray:
    return _log_mixture(x, *_spirals_nodes(), _SPIRAL_STD)


TOYS: dict[str, Toy] = {
    "moons": Toy("two interleaved half circles with noise", _moons_sample, _moons_log_density),
    "pinwheel": Toy("five twisted Gaussian arms", _pinwheel_sample, _pinwheel_log_density),
    "checkerboard": Toy("uniform on eight squares of a 4×4 board", _board_sample, _board_log_density),
    "eight-gaussians": Toy("eight Gaussians on a circle", _ring_sample, _ring_log_density),
    "spirals": Toy("two interleaved spirals with noise", _spirals_sample, _spirals_log_density),
}


def _toy(name: str) -> Toy:
    if name not in TOYS:
        raise DataError(f"there is no toy {name!r}: {did_you_mean(name, TOYS)}")
    return TOYS[name]


def sample(name: str, n: int, seed: int = 0) -> np.ndarray:
    """``n`` independent points, float64 (n, 2), of the toy ``name``; the same ``seed`` gives the same points."""
    toy = _toy(name)
    if n < 0:
        raise DataError(f"n is {n}: expected no negative number of points")
    return toy.sample(int(n), np.random.default_rng(seed))


def log_density(name: str, x: Any) -> np.ndarray:
    """Log density (n,) of the toy ``name`` at ``x`` (n, 2), in nats; -inf outside the squares of the checkerboard.

    Accurate to about 1e-10 within a distance of 20 from the origin. Raises DataError for other shapes.
    """
    toy = _toy(name)
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f"x has shape {points.shape}: expected (n, 2)")
    return toy.log_density(points)
