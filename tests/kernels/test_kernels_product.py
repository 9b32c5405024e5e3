"""Tiles of products against ``@`` in double precision, for every shape of remainder."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from pushforward.kernels.product import GROUP, LANES, flat_product, product, transpose


@njit
def _product(a, strides, b, c, d, d_m, m, k, ranges, relu, flat):  # type: ignore[no-untyped-def]
    a_, b_, c_, d_ = a.ctypes.data, b.ctypes.data, c.ctypes.data, d.ctypes.data
    n = c.shape[1]
    if flat:
        flat_product(a_, strides[0], strides[1], b_, n, c_, n, d_, d_m, m, n, k, relu)
    else:
        product(a_, strides[0], strides[1], b_, n, c_, n, d_, d_m, m, n, k, ranges.ctypes.data if len(ranges) else 0, relu)


@njit
def _transpose(source, target):  # type: ignore[no-untyped-def]
    transpose(source.ctypes.data, source.shape[0], source.shape[1], target.ctypes.data)


NONE = np.zeros((0, 2), np.int64)


@pytest.mark.parametrize("m", [1, 2, 7, 8, 9, 30])
@pytest.mark.parametrize("n", [GROUP, 2 * GROUP, 3 * GROUP, 5 * GROUP])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("flat", [False, True])
def test_products_added_to_a_matrix_or_a_row(m: int, n: int, k: int, flat: bool) -> None:
    rng = np.random.default_rng(m * n + k)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n)))
    d, row = rng.normal(size=(m, n)).astype(np.float32), rng.normal(size=(1, n)).astype(np.float32)
    across, c = np.ascontiguousarray(a.T), np.full((m, n), np.nan, np.float32)
    truth = a.astype(float) @ b
    for given, strides in ((a, (k, 1)), (across, (1, m))):
        for added, step in ((d, n), (row, 0)):
            for relu in (False, True):
                _product(given, strides, b, c, added, step, m, k, NONE, relu, flat)
                wanted = truth + added
                np.testing.assert_allclose(c, np.maximum(wanted, 0) if relu else wanted, rtol=1e-4, atol=1e-5)


def test_columns_need_only_the_k_of_their_range() -> None:
    k, n = 20, 4 * GROUP
    ranges = np.array([(0, 0), (3, 7), (0, 20), (19, 20)], np.int64)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    for group, (first, last) in enumerate(ranges):
        b[:first, group * GROUP : (group + 1) * GROUP] = b[last:, group * GROUP : (group + 1) * GROUP] = 0
    c, zero = np.empty((9, n), np.float32), np.zeros((1, n), np.float32)
    _product(a, (k, 1), b, c, zero, 0, 9, k, ranges, False, False)
    np.testing.assert_allclose(c, a.astype(float) @ b, rtol=1e-4, atol=1e-5)
    # outside of a panel's range nothing is read: a range that leaves out a number leaves it out of the sum
    b[0, 3 * GROUP :] = np.nan
    ranges[2] = (19, 20)
    _product(a, (k, 1), b, c, zero, 0, 9, k, ranges, False, False)
    assert np.isfinite(c[:, 3 * GROUP :]).all()


def test_what_is_not_a_number_stays_so() -> None:
    a, b, zero = (
        np.ones((8, 2), np.float32),
        np.ones((2, 2 * LANES + GROUP), np.float32),
        np.zeros((1, 2 * LANES + GROUP), np.float32),
    )
    a[3, 1] = np.nan
    c = np.empty((8, b.shape[1]), np.float32)
    for relu in (False, True):
        _product(a, (2, 1), b, c, zero, 0, 8, 2, NONE, relu, False)
        assert np.isnan(c[3]).all()
        assert np.isfinite(np.delete(c, 3, 0)).all()


@pytest.mark.parametrize(("rows", "columns"), [(GROUP, GROUP), (3 * GROUP, 2 * GROUP), (GROUP, 5 * GROUP)])
def test_a_transposed_copy(rows: int, columns: int) -> None:
    source = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    target = np.empty((columns, rows), np.float32)
    _transpose(source, target)
    np.testing.assert_array_equal(target, source.T)
