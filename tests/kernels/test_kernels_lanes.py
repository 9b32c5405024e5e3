"""The polynomials behind the kernels against numpy in double precision, over their whole range."""

from __future__ import annotations

import numpy as np
from numba import njit

from pushforward.kernels import lanes


@njit
def _each(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[0, i], out[1, i] = lanes.exp(x[i]), lanes.sigmoid(x[i])
        out[2, i], out[3, i] = lanes.softplus(x[i]), lanes.log(max(abs(x[i]), np.float32(1e-37)))


def values(x: np.ndarray) -> np.ndarray:
    out = np.empty((4, len(x)), np.float32)
    _each(x.astype(np.float32), out)
    return out


def test_relative_errors_are_a_few_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-86, 87, 40_001), np.geomspace(1e-30, 1e30, 20_001), [1.0, 0.0]]).astype(np.float32)
    inside = np.abs(x) < 86
    exp, sigmoid, softplus, log = values(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(exp[inside], np.exp(wide[inside]), rtol=3e-7)
    np.testing.assert_allclose(sigmoid[inside], 1 / (1 + np.exp(-wide[inside])), rtol=4e-7)
    # near zero of the logarithm what counts is the error beside one
    np.testing.assert_allclose(softplus[inside], np.log1p(np.exp(wide[inside])), rtol=4e-7, atol=2e-7)
    positive = x > 1e-36
    np.testing.assert_allclose(log[positive], np.log(wide[positive]), rtol=3e-7, atol=1e-7)


def test_the_ends_saturate() -> None:
    exp, sigmoid, softplus, _ = values(np.array([-3e38, 3e38]))
    assert 0 < exp[0] < 1e-36
    assert 1e38 < exp[1] < np.inf
    assert sigmoid[1] == 1
    assert 0 < sigmoid[0] < 1e-36
    assert softplus[1] == np.float32(3e38)
    assert 0 <= softplus[0] < 1e-6
