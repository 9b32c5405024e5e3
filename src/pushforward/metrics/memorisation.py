"""Are generated samples copies of the training data?"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import (
    Estimate,
    Floats,
    Values,
    as_samples,
    generator,
    mean_row,
    proportion,
    row_blocks,
    same_width,
    squared_distances,
    subsample,
)

_RESAMPLES = 200


@dataclass(frozen=True)
class NearestNeighbours:
    """How near samples lie to the training rows, beside fresh data of the same kind; distances in the columns' unit.

    ``sample_distance`` and ``holdout_distance`` are medians of the Euclidean distance to the nearest training row and
    ``ratio`` is their quotient: near 0 for a copier, near 1 for a good model, NaN where both are 0.
    ``share_closer`` is the share of samples no further from the training rows than the ``quantile`` of held-out rows and
    ``holdout_share`` the same share of held-out rows (about ``quantile``, more where values repeat).
    ``duplicates`` and ``holdout_duplicates`` count exact copies of training rows among all rows given; the shares are
    those counts over the rows. ``samples`` and ``holdout`` count the rows whose distances were measured.
    """

    sample_distance: float
    holdout_distance: float
    ratio: float
    ratio_standard_error: float
    quantile: float
    share_closer: float
    share_closer_standard_error: float
    holdout_share: float
    duplicates: int
    duplicate_share: float
    holdout_duplicates: int
    holdout_duplicate_share: float
    samples: int
    holdout: int


def nearest_neighbours(
    samples: Values, train: Values, holdout: Values, quantile: float = 0.01, limit: int = 2000, seed: int = 0
) -> NearestNeighbours:
    """Distances from ``samples`` (N, D) and ``holdout`` (H, D) to their nearest rows of ``train`` (T, D).

    Samples and held-out rows are cut to one number, min(N, H, ``limit``), drawn with ``seed``; all training rows and, for
    exact copies, all rows are used. Values are compared in the coarsest precision of the three arrays, so a float32 copy
    of float64 data is found. The error of the ratio is a bootstrap's. ``quantile`` lies in (0, 1).
    DataError for unfit arrays or settings. The comparison with held-out data follows Meehan et al. 2020, arXiv:2004.05675.
    """
    given = [as_samples(v, n) for v, n in ((samples, "samples"), (train, "train"), (holdout, "holdout"))]
    same_width(given[0], given[1], "samples", "train")
    same_width(given[2], given[1], "holdout", "train")
    if not 0 < quantile < 1 or limit < 1:
        raise DataError(f"found quantile={quantile}, limit={limit}: expected a quantile between 0 and 1 and a limit ≥ 1")
    dtype = np.float32 if any(part.dtype == np.float32 for part in given) else np.float64
    known = set(_digests(given[1], dtype))
    copies = sum(digest in known for digest in _digests(given[0], dtype))
    holdout_copies = sum(digest in known for digest in _digests(given[2], dtype))

    rows = min(len(given[0]), len(given[2]), limit)
    mine, fresh = subsample(given[0], rows, seed, 1).astype(dtype), subsample(given[2], rows, seed, 2).astype(dtype)
    queries = np.concatenate([mine, fresh])
    distances = _nearest(queries, given[1], dtype)
    # among rows closer together than rounding the search may pick the wrong one: a known copy has distance 0 all the same
    distances[[digest in known for digest in _digests(queries, dtype)]] = 0
    near, far = distances[:rows], distances[rows:]
    threshold = float(np.quantile(far, quantile))
    closer = proportion(int((near <= threshold).sum()), rows)
    rng = generator(seed, 3)
    ratios = [_ratio(rng.choice(near, rows), rng.choice(far, rows)) for _ in range(_RESAMPLES)]
    return NearestNeighbours(
        sample_distance=float(np.median(near)),
        holdout_distance=float(np.median(far)),
        ratio=_ratio(near, far),
        ratio_standard_error=float(np.std(ratios, ddof=1)) if np.isfinite(ratios).all() else float("nan"),
        quantile=float(quantile),
        share_closer=closer.value,
        share_closer_standard_error=closer.standard_error,
        holdout_share=float((far <= threshold).mean()),
        duplicates=copies,
        duplicate_share=copies / len(given[0]),
        holdout_duplicates=holdout_copies,
        holdout_duplicate_share=holdout_copies / len(given[2]),
        samples=rows,
        holdout=rows,
    )


def _ratio(near: NDArray[np.float64], far: NDArray[np.float64]) -> float:
    top, bottom = float(np.median(near)), float(np.median(far))
    if bottom == 0:
        return float("nan") if top == 0 else float("inf")
    return top / bottom


def _digests(x: Floats, dtype: DTypeLike) -> list[bytes]:
    """A fingerprint of each row in ``dtype``; 128 bits, so rows that differ do not meet by chance."""
    out: list[bytes] = []
    for rows in row_blocks(len(x), x.shape[1]):
        block: NDArray[Any] = np.ascontiguousarray(x[rows].astype(dtype) + 0)  # adding 0 turns −0 into 0
        out.extend(blake2b(row.tobytes(), digest_size=16).digest() for row in block)
    return out


def _nearest(queries: Floats, train: Floats, dtype: DTypeLike) -> NDArray[np.float64]:
    """The distance of each query (Q, D) to its nearest training row, (Q,)."""
    centre = mean_row(train)
    best, index = np.full(len(queries), np.inf), np.zeros(len(queries), dtype=np.int64)
    for some in row_blocks(len(queries), queries.shape[1]):
        block = queries[some].astype(np.float64) - centre
        for rows in row_blocks(len(train), max(len(block), train.shape[1])):
            part = squared_distances(block, train[rows].astype(dtype).astype(np.float64) - centre)
            at = part.argmin(1)
            found = part[np.arange(len(block)), at]
            better = found < best[some]
            best[some] = np.where(better, found, best[some])
            index[some] = np.where(better, rows.start + at, index[some])
    # the product above loses digits for near rows; the difference of the two rows does not
    out = np.empty(len(queries))
    for some in row_blocks(len(queries), queries.shape[1]):
        gap = queries[some].astype(np.float64) - train[index[some]].astype(dtype).astype(np.float64)
        out[some] = np.sqrt(np.einsum("nd,nd->n", gap, gap))
    return out


@dataclass(frozen=True)
class ClosestRecord:
    """Whether samples lie nearer to the training rows than to as many rows that were held out.

    ``share`` is that of samples whose nearest record is a training row, ½ for a tie: about ½ where nothing is copied, 1 for a
    copier. Its error counts samples, with both sets held fixed. ``train_distance`` and ``holdout_distance`` are the medians of
    the distances. ``samples`` and ``records`` count the samples and the rows of each side.
    """

    share: Estimate
    train_distance: float
    holdout_distance: float
    samples: int
    records: int


def closest_record(samples: Values, train: Values, holdout: Values, limit: int = 5000, seed: int = 0) -> ClosestRecord:
    """The distance to the closest record (DCR): for each of ``samples`` (N, D), is it a row of ``train`` or of ``holdout``?

    The larger of the two sets is cut to the size of the other, since more rows are nearer by chance, and samples to
    ``limit``, with ``seed``. Values are compared in the coarsest precision of the three arrays. DataError for unfit arrays.
    Platzer & Reutterer 2021, arXiv:2104.00635.
    """
    given = [as_samples(v, n) for v, n in ((samples, "samples"), (train, "train"), (holdout, "holdout"))]
    same_width(given[0], given[1], "samples", "train")
    same_width(given[2], given[1], "holdout", "train")
    if limit < 1:
        raise DataError(f"found limit={limit}: expected at least 1")
    dtype = np.float32 if any(part.dtype == np.float32 for part in given) else np.float64
    records = min(len(given[1]), len(given[2]))
    mine: Floats = subsample(given[0], limit, seed, 1).astype(dtype)
    near = _nearest(mine, subsample(given[1], records, seed, 2), dtype)
    far = _nearest(mine, subsample(given[2], records, seed, 3), dtype)
    won = np.where(near == far, 0.5, near < far)
    share = proportion(round(float(won.sum())), len(won))
    return ClosestRecord(
        share=Estimate(float(won.mean()), share.standard_error),
        train_distance=float(np.median(near)),
        holdout_distance=float(np.median(far)),
        samples=len(mine),
        records=records,
    )
