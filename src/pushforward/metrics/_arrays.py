"""What the metrics share: checked inputs, the estimate with its error, blocks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pushforward.core.errors import DataError
from pushforward.core.random import mix

Values: TypeAlias = ArrayLike | torch.Tensor
"""What a metric takes: a numpy array, a torch tensor on any device, or nested lists of numbers."""

Floats: TypeAlias = NDArray[np.floating[Any]]

BLOCK_ENTRIES = 1 << 20
"""Entries of the largest pairwise block: 8 MiB in float64, which caches hold."""


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in the same unit; the error is NaN where the data cannot give one."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


def to_numpy(values: Values, name: str) -> NDArray[Any]:
    """``values`` as a real numpy array on the CPU, any shape; DataError for ragged, text, complex or object values."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # numpy has no such type
            values = values.float()
        values = values.numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"found {name} with rows of unequal length: expected a rectangular array of numbers") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"found {name} of type {array.dtype}: expected real numbers; encode text or objects first")
    return array


def as_samples(values: Values, name: str, minimum: int = 1) -> Floats:
    """``values`` as finite float32 or float64 rows, (N, D) with N ≥ ``minimum`` and D ≥ 1; DataError otherwise."""
    array = to_numpy(values, name)
    if array.ndim != 2:
        raise DataError(f"found {name} of shape {array.shape}: expected (rows, columns); flatten with reshape(len({name}), -1)")
    if len(array) < minimum or array.shape[1] == 0:
        raise DataError(f"found {name} of shape {array.shape}: expected at least {minimum} row(s) and 1 column")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    for rows in row_blocks(len(array), array.shape[1]):
        finite = np.isfinite(array[rows]).all(1)
        if not finite.all():
            row = rows.start + int(np.argmin(finite))
            raise DataError(f"found a non-finite number in {name}, row {row}: expected finite values; drop or mend such rows")
    return array


def as_pair(x: Values, y: Values, minimum: int = 1) -> tuple[Floats, Floats]:
    """Two checked sample sets (N, D) and (M, D) of the same width; DataError otherwise."""
    left, right = as_samples(x, "x", minimum), as_samples(y, "y", minimum)
    same_width(left, right, "x", "y")
    return left, right


def same_width(left: Floats, right: Floats, left_name: str, right_name: str) -> None:
    """DataError unless two sample sets have the same number of columns."""
    if left.shape[1] != right.shape[1]:
        raise DataError(
            f"found {left.shape[1]} columns in {left_name} and {right.shape[1]} in {right_name}: expected the same columns"
        )


def as_labels(values: Values, name: str, rows: int | None = None) -> NDArray[np.int64]:
    """Whole-number labels as int64, (N,), N ≥ 1, and N = ``rows`` where given; DataError otherwise."""
    array = to_numpy(values, name)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"found {name} of shape {array.shape}: expected a non-empty (rows,) array of class numbers")
    if rows is not None and len(array) != rows:
        raise DataError(f"found {len(array)} {name} for {rows} rows: expected one per row")
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise DataError(f"found fractional or non-finite {name}: expected whole class numbers")
    return array.astype(np.int64)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cut ``rows`` rows into runs of at most ``BLOCK_ENTRIES`` entries when each row has ``width``."""
    step = max(1, BLOCK_ENTRIES // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances (N, M) by one product; centre both sets first, so that little cancels."""
    block = x @ y.T
    block *= -2
    block += np.einsum("nd,nd->n", x, x)[:, None]
    block += np.einsum("md,md->m", y, y)[None, :]
    return np.maximum(block, 0, out=block)


def square_block(rows: torch.Tensor, all_rows: torch.Tensor) -> torch.Tensor:
    """``squared_distances`` of centred tensors, (B, M), on torch's threads."""
    block = torch.addmm(all_rows.square().sum(1), rows, all_rows.T, alpha=-2)
    return block.add_(rows.square().sum(1)[:, None]).clamp_(min=0)


def mean_row(*sets: Floats) -> NDArray[np.float64]:
    """The mean of the sets' mean rows, (D,), the same whatever their order."""
    return np.sum([part.mean(0, dtype=np.float64) for part in sets], axis=0) / len(sets)


def triangular(x: Floats) -> NDArray[np.float64]:
    """A float64 matrix R with RᵀR = (x−mean)ᵀ(x−mean), (min(N, D), D), by QR of one block of rows after another."""
    centre, width = x.mean(0, dtype=np.float64), x.shape[1]
    if len(x) <= width:
        return x - centre
    factor = np.zeros((0, width))
    step = max(width, BLOCK_ENTRIES // width)
    for start in range(0, len(x), step):
        stacked = np.concatenate([factor, x[start : start + step] - centre])
        factor = np.asarray(np.linalg.qr(stacked, mode="r"))
    return factor


def generator(seed: int, stream: int) -> np.random.Generator:
    """A numpy generator of its own for each (seed, stream)."""
    return np.random.default_rng(mix(int(seed), stream, 0x3E7))


def subsample(x: Floats, rows: int, seed: int, stream: int) -> Floats:
    """``rows`` rows of ``x`` drawn without replacement, in their old order; all of them where there are no more."""
    if len(x) <= rows:
        return x
    return x[np.sort(generator(seed, stream).choice(len(x), rows, replace=False))]


def proportion(hits: int, n: int) -> Estimate:
    """hits/n with the binomial standard error; one hit and one miss are added for the error, so it is never zero."""
    smooth = (hits + 1) / (n + 2)
    return Estimate(hits / n, math.sqrt(smooth * (1 - smooth) / n))
