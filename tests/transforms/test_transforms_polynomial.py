"""Polynomials against scipy's and zuko's of the same coefficients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev
from scipy.interpolate import BPoly

from pushforward.transforms.polynomial import Bernstein, SumOfSquares, interpolation

WIDE = torch.float64


def clipped(raw: torch.Tensor, bound: float) -> torch.Tensor:
    return raw / (1 + raw.abs() / bound)


def coefficients(p: torch.Tensor, bound: float) -> torch.Tensor:
    """θ (…, M + 1) of parameters (…, M + 1)."""
    slopes = clipped(p[..., 1:], math.log(1000)).exp()
    theta = torch.cat([torch.zeros_like(p[..., :1]), (2 * bound / slopes.shape[-1] * slopes).cumsum(-1)], -1)
    return theta - theta[..., -1:] / 2 + p[..., :1]


@pytest.mark.parametrize("degree", [1, 2, 9, 16, 40])
def test_bernstein_is_scipys_polynomial_of_the_same_coefficients(degree: int) -> None:
    monotone = Bernstein(degree, bound=3.0)
    p = torch.randn(degree + 1, dtype=WIDE)
    x = torch.linspace(-3, 3, 50, dtype=WIDE)
    peer = BPoly(coefficients(p, 3.0).numpy()[:, None], [-3, 3])
    z, score = monotone.pull(x[:, None], p[None, :, None].expand(50, -1, -1))
    np.testing.assert_allclose(z[:, 0], peer(x.numpy()), rtol=0, atol=1e-12)
    np.testing.assert_allclose(score.exp(), peer.derivative()(x.numpy()), rtol=1e-10)


def test_bernstein_is_zukos_transform_of_the_same_coefficients() -> None:
    zuko = pytest.importorskip("zuko")
    monotone = Bernstein(12, bound=4.0)
    p, x = torch.randn(30, 13, 2, dtype=WIDE), 7.8 * torch.rand(30, 2, dtype=WIDE) - 3.9
    peer = zuko.transforms.BernsteinTransform(torch.zeros(30, 2, 10, dtype=WIDE), bound=4.0)  # degree 12
    peer.theta = coefficients(p.transpose(1, 2), 4.0)
    peer.basis = peer._bernstein_basis(peer.order, dtype=WIDE)
    peer.offset, peer.slope = peer._offset_and_slope()
    z, score = monotone.pull(x, p)
    truth, log_slope = peer.call_and_ladj(x)
    torch.testing.assert_close(z, truth, rtol=0, atol=1e-9)
    torch.testing.assert_close(score, log_slope.sum(1), rtol=0, atol=1e-9)


def test_the_slope_of_squares_is_the_formula_and_the_map_its_integral() -> None:
    monotone = SumOfSquares(3, bound=2.0, slope=0.05, clip=7.0)
    p = torch.randn(1, 8, 1, dtype=WIDE)
    a, b = clipped(p[0, 1:5, 0], 7.0), clipped(p[0, 5:, 0], 7.0)
    t3, u2 = [0, -3, 0, 4], [-1, 0, 4]  # T_3 = 4s³ − 3s, U_2 = 4s² − 1, U_1 = 2s
    powers = np.polynomial.Polynomial
    first = powers(t3) + a[0] * powers([1]) + a[1] * powers([0, 1]) + a[2] * powers([-1, 0, 2]) + a[3] * powers(t3)
    second = powers(u2) + b[0] * powers([1]) + b[1] * powers([0, 2]) + b[2] * powers(u2)
    slope = 0.05 + 0.95 * (first**2 + powers([1, 0, -1]) * second**2)
    s = np.linspace(-1, 1, 31)
    z, score = monotone.pull(torch.from_numpy(2 * s)[:, None], p.expand(31, -1, -1))
    np.testing.assert_allclose(score.exp(), slope(s).astype(float), rtol=1e-10)
    np.testing.assert_allclose(z[:, 0], float(p[0, 0, 0]) + 2 * slope.integ()(s).astype(float), rtol=0, atol=1e-12)


def test_one_square_is_zukos() -> None:
    zuko = pytest.importorskip("zuko")
    monotone = SumOfSquares(4, bound=5.0, slope=0.0, clip=1e9)
    p, x = torch.randn(30, 10, 2, dtype=WIDE), 10 * torch.rand(30, 2, dtype=WIDE) - 5
    p[:, 6:9], p[:, 9] = 0, -1  # q = 0
    p[:, 0] = 0
    first = p[:, 1:6].transpose(1, 2).clone()  # coefficients of p in T_0 … T_4
    first[..., -1] += 1
    powers = torch.from_numpy(np.stack([np.pad(chebyshev.cheb2poly(np.eye(5)[j]), (0, 4 - j)) for j in range(5)]))
    a = first @ powers
    a[..., 0] -= 1  # zuko adds one
    peer = zuko.transforms.SOSPolynomialTransform(a[:, :, None], slope=0.0, bound=5.0)
    truth, log_slope = peer.call_and_ladj(x)
    z, score = monotone.pull(x, p)
    torch.testing.assert_close(z, truth, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(score, log_slope.sum(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_at_zero_the_derivatives_of_the_slope_span_all_polynomials(degree: int) -> None:
    monotone = SumOfSquares(degree, bound=1.0, slope=0.0)
    x = torch.cos(torch.linspace(0.05, 3.1, 4 * degree + 3, dtype=WIDE))[:, None]

    def slope(p: torch.Tensor) -> torch.Tensor:
        return monotone.pull(x, p[None, :, None].expand(len(x), -1, -1))[1].exp()

    jacobian = torch.autograd.functional.jacobian(slope, torch.zeros(2 * degree + 2, dtype=WIDE))[:, 1:]
    assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-8)) == 2 * degree + 1
    assert float(torch.linalg.cond(jacobian)) < 20


def test_interpolation_gives_the_coefficients_of_a_polynomial() -> None:
    coefficients = np.random.default_rng(0).normal(size=7)
    nodes = np.cos(np.pi * (np.arange(7) + 0.5) / 7)
    np.testing.assert_allclose(interpolation(7) @ chebyshev.chebval(nodes, coefficients), coefficients, atol=1e-12)


@pytest.mark.parametrize("kind", [Bernstein, SumOfSquares])
def test_beyond_the_ends_are_lines_with_the_slopes_of_the_ends(kind: type[Bernstein | SumOfSquares]) -> None:
    monotone = kind(5, bound=2.0)
    p = torch.randn(1, monotone.params, 1, dtype=WIDE).expand(6, -1, -1)
    z, score = monotone.pull(torch.tensor([-9.0, -3.0, -2.0, 2.0, 3.0, 7.0], dtype=WIDE)[:, None], p)
    torch.testing.assert_close(score[[0, 1, 4, 5]], score[[2, 2, 3, 3]])
    assert float((z[0] - z[2]) / -7) == pytest.approx(float(score[2].exp()))
    assert float((z[5] - z[3]) / 5) == pytest.approx(float(score[3].exp()))
    assert abs(float(score[2] - score[3])) > 0.01


@pytest.mark.parametrize("kind", [Bernstein, SumOfSquares])
@pytest.mark.parametrize("settings", [{"degree": 0}, {"bound": 0.0}, {"slope": 1.0}])
def test_wrong_settings_are_refused(kind: type[Bernstein | SumOfSquares], settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        kind(**settings)
