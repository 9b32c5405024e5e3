"""Tasks out of torch's pool of threads: every part is done once, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numba import carray, cfunc

from pushforward.kernels import threads
from pushforward.kernels.threads import FIRST, TASK, constant, cube, edge, integers, matrix, opened, run_rows, take, vector


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cfunc(TASK)
def _count(table: Any) -> None:
    t = carray(table, FIRST + 1)
    counts, part = carray(integers(t[FIRST]), t[1]), take(table)
    while part < t[1]:
        counts[part] += part + 1
        part = take(table)


@cfunc(TASK)
def _add(table: Any) -> None:
    t, part = opened(table), take(table)
    while part < t[1]:
        x, params, found, bias = matrix(t, 0), cube(t, 1), matrix(t, 2), vector(t, 3)
        for r in range(edge(t, part), edge(t, part + 1)):
            for d in range(x.shape[1]):
                found[r, d] = x[r, d] + params[r, 1, d] * constant(t, 1) + bias[d]
        part = take(table)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 7, 500])
def test_every_part_is_done_once(parts: int, count: int) -> None:
    with torch_threads(count):
        for _ in range(20):
            counts = np.zeros(parts, np.int64)
            threads.run(_count, parts, np.array([0, 0, counts.ctypes.data]))
            assert counts.tolist() == list(range(1, parts + 1))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("how", [{"cost": 1}, {"cost": 10_000}])
def test_rows_of_arrays_of_any_strides(how: dict[str, int], count: int) -> None:
    x, params, bias = torch.randn(11, 8)[:, ::2], torch.randn(4, 3, 11).permute(2, 1, 0), torch.randn(4)
    found = torch.empty(11, 4)
    with torch_threads(count):
        run_rows(_add, (x, params, found, bias), (0.0, 3.0), **how)
    torch.testing.assert_close(found, x + 3 * params[:, 1] + bias)


def test_without_torchs_runtime_one_thread_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_runtime", lambda: None)
    counts = np.zeros(5, np.int64)
    with torch_threads(2):
        assert threads.threads(5) == 1
        threads.run(_count, 5, np.array([0, 0, counts.ctypes.data]))
    assert counts.tolist() == [1, 2, 3, 4, 5]


def test_the_runtime_is_the_one_that_torch_uses() -> None:
    """Here, on Linux, there is one: or every kernel would quietly run on one thread."""
    with torch_threads(2):
        assert threads.threads(9) == 2
