"""Kernels on as many threads as torch uses, out of torch's own pool.

A kernel that runs a tenth of a millisecond is not worth a thread that takes as long to wake. torch's workers come from an
OpenMP runtime and still spin when the next call arrives: asked through that runtime (its entry GOMP_parallel, which LLVM's
runtime has too) they start within two microseconds, and no second pool fights them for the cores. Where torch has no such
runtime kernels run on one thread.

A task is a C function that reads everything it needs from a table of int64: its first two entries are how many parts have been
taken and how many there are, the others addresses, sizes and strides. Every thread runs it and takes parts until none is left.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

TABLE = types.CPointer(types.int64)
TASK = types.void(TABLE)
FIRST = 2  # the table's first entry of a task's own


def _take(typing: Any, table: Any) -> Any:
    """The next part of this task: a number that no other thread gets."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(TABLE), generate


take: Any = intrinsic(_take)


def numbers_at(kind: Any, width: Any) -> Any:
    @intrinsic
    def numbers(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], width.as_pointer())

        return types.CPointer(kind)(types.int64), generate

    return numbers


# pointers to the numbers at an address
floats, integers = numbers_at(types.float32, ir.FloatType()), numbers_at(types.int64, ir.IntType(64))
unsigned = numbers_at(types.uint64, ir.IntType(64))


# The table of a kernel that works through rows of arrays: how many rows, where its constants are, then of every array the
# address and three sizes.
_ROWS, _CONSTANTS, _ARRAYS = FIRST, FIRST + 1, FIRST + 2


@njit(inline="always")
def opened(table: Any) -> Any:
    """The entries of the table of ``run_rows``."""
    return carray(table, _ARRAYS)  # its end is not looked at


@njit(inline="always")
def vector(t: Any, i: Any) -> Any:
    """Array number i, of one dimension."""
    at = _ARRAYS + 4 * i
    return carray(floats(t[at]), t[at + 1])


@njit(inline="always")
def matrix(t: Any, i: Any) -> Any:
    """Array number i, of two dimensions."""
    at = _ARRAYS + 4 * i
    return carray(floats(t[at]), (t[at + 1], t[at + 2]))


@njit(inline="always")
def cube(t: Any, i: Any) -> Any:
    """Array number i, of three dimensions."""
    at = _ARRAYS + 4 * i
    return carray(floats(t[at]), (t[at + 1], t[at + 2], t[at + 3]))


@njit(inline="always")
def whole_vector(t: Any, i: Any) -> Any:
    """Array number i, of one dimension, of uint64."""
    at = _ARRAYS + 4 * i
    return carray(unsigned(t[at]), t[at + 1])


@njit(inline="always")
def whole_matrix(t: Any, i: Any) -> Any:
    """Array number i, of two dimensions, of uint64."""
    at = _ARRAYS + 4 * i
    return carray(unsigned(t[at]), (t[at + 1], t[at + 2]))


@njit(inline="always")
def constant(t: Any, i: Any) -> Any:
    """Constant number i."""
    return carray(floats(t[_CONSTANTS]), i + 1)[i]


@njit(inline="always")
def edge(t: Any, part: Any) -> Any:
    """The first row of a part."""
    return np.uint64(t[_ROWS] * part // t[1])


@cache
def _runtime() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP runtime that torch has loaded; None without one."""
    folder = Path(torch.__file__).parent / "lib"
    for path in sorted(p for pattern in ("libgomp*", "libomp*", "libiomp*") for p in folder.glob(pattern)):
        try:
            enter = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        enter.restype = None
        return enter
    return None


@cache
def _alone(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


def threads(parts: int) -> int:
    """How many threads work on that many parts."""
    return max(1, min(torch.get_num_threads(), parts)) if _runtime() is not None else 1


def run(task: Any, parts: int, table: Any) -> None:
    """``task`` (a numba cfunc of signature ``TASK``) on ``parts`` parts; it reads ``table`` (int64) from ``FIRST`` on."""
    table[0], table[1] = 0, parts
    count = threads(parts)
    if count == 1:
        _alone(task.address)(table.ctypes.data)
    else:
        _runtime()(task.address, table.ctypes.data, count, 0)


@lru_cache(1024)
def _kept(constants: tuple[float, ...]) -> Any:
    return np.array(constants, dtype=np.float32)


def run_rows(task: Any, arrays: Sequence[Any], constants: Sequence[float], *, cost: int = 0, block: int = 0) -> None:
    """``task`` over the rows of CPU tensors and contiguous numpy arrays of up to three dimensions, of float32 or uint64.

    What is written to must be contiguous; other tensors are copied where they are not.
    Each thread gets an equal share of rows, if it has ``cost`` numbers of the second array at least; or, with ``block``, a part
    is so many rows.
    """
    rows, numbers = arrays[0].shape[0], _kept(tuple(constants))
    entries = [0, 0, rows, numbers.ctypes.data]
    held = [array.contiguous() if isinstance(array, Tensor) else array for array in arrays]
    for array in held:
        address = array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data
        entries += [address, *array.shape, 1, 1][:4]
    parts = -(-rows // block) if block else threads(min(rows, arrays[1].numel() // cost))
    run(task, parts, np.array(entries, dtype=np.int64))
