"""How much a generated table looks like a real one, column by column and pair by pair, by the definitions of SDMetrics.

    a number             1 − sup_t |F_real(t) − F_generated(t)|                     Kolmogorov–Smirnov complement
    a category           1 − ½ Σ_c |p_real(c) − p_generated(c)|                     total variation complement
    two numbers          1 − ½ |r_real − r_generated|, r Pearson's                  correlation similarity
    two categories       1 − ½ Σ_{c,d} |p_real(c, d) − p_generated(c, d)|           contingency similarity
    one of each          the same, the number cut into ten equal bins of the real column's range

Scores are in [0, 1], 1 for equal. Missing cells are left out of a column's shape, and out of a correlation with their row;
in a contingency a missing cell is a value of its own. (The report of SDMetrics cuts each of the two tables by its own range in
mixed pairs, so that a shift of a number goes unseen; its metric ContingencySimilarity cuts as here.)

Standard errors are the delta method's over rows. Where the tables agree no score reaches 1, since chance alone parts two
samples: compare with the scores of held-out data, which is what ``1`` means in practice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, to_numpy

if TYPE_CHECKING:
    import pandas as pd

Frame: TypeAlias = "pd.DataFrame | Mapping[Any, Any] | Values"
"""A DataFrame, a mapping from names to columns, or an array (N, columns) of numbers, whose names are 0, 1, …"""

_BINS = 10
_NOTHING = Estimate(math.nan, math.nan)


@dataclass(frozen=True)
class TableScores:
    """``scores`` of each column, by name, or each pair, by both names in the table's order; NaN where there is none to give.

    ``mean`` is that of the scores which are not NaN. Its error allows for scores that err together, as those of one table do:
    it is the mean of the errors.
    """

    scores: dict[Any, Estimate]

    @property
    def mean(self) -> Estimate:
        known = [s for s in self.scores.values() if not math.isnan(s.value)]
        if not known:
            return _NOTHING
        return Estimate(float(np.mean([s.value for s in known])), float(np.mean([s.standard_error for s in known])))


def column_shapes(real: Frame, generated: Frame, discrete: Collection[Any] | None = None) -> TableScores:
    """The score of each column's shape. ``discrete`` names the categories; by default all columns that are not numbers.

    NaN for a column without a value in one of the tables. DataError for tables whose columns differ or which are empty.
    """
    left, right, categories = _tables(real, generated, discrete)
    scores = {}
    for name in left:
        mine, yours = left[name][~_missing(left[name])], right[name][~_missing(right[name])]
        if len(mine) == 0 or len(yours) == 0:
            scores[name] = _NOTHING
        elif name in categories:
            scores[name] = _total_variation(*_coded(mine, yours))
        else:
            scores[name] = _kolmogorov_smirnov(mine, yours)
    return TableScores(scores)


def pair_trends(real: Frame, generated: Frame, discrete: Collection[Any] | None = None) -> TableScores:
    """The score of how each two columns go together. ``discrete`` as for ``column_shapes``.

    NaN for two numbers of which one is constant, or where fewer than two rows have both. DataError as for ``column_shapes``.
    """
    left, right, categories = _tables(real, generated, discrete)
    cells = {name: _cells(left[name], right[name], name in categories) for name in left}
    scores = {}
    for one, other in itertools.combinations(left, 2):
        if one in categories or other in categories:
            width = 1 + max(int(side.max()) for side in cells[other])
            joint = [a * width + b for a, b in zip(cells[one], cells[other], strict=True)]
            scores[one, other] = _total_variation(*_coded(*joint))
        else:
            scores[one, other] = _correlations(left[one], left[other], right[one], right[other])
    return TableScores(scores)


def _kolmogorov_smirnov(mine: NDArray[np.float64], yours: NDArray[np.float64]) -> Estimate:
    mine, yours = np.sort(mine), np.sort(yours)
    places = np.concatenate([mine, yours])
    F, G = (np.searchsorted(side, places, "right") / len(side) for side in (mine, yours))
    at = int(np.abs(F - G).argmax())
    variance = F[at] * (1 - F[at]) / len(mine) + G[at] * (1 - G[at]) / len(yours)
    return Estimate(float(1 - abs(F[at] - G[at])), float(np.sqrt(variance)))


def _total_variation(mine: NDArray[np.int64], yours: NDArray[np.int64]) -> Estimate:
    """Of codes 0, 1, … of either table."""
    values = 1 + int(max(mine.max(), yours.max()))
    p, q = (np.bincount(side, minlength=values) / len(side) for side in (mine, yours))
    sign = np.sign(p - q)
    variance = sum((share @ sign**2 - (share @ sign) ** 2) / len(side) for share, side in ((p, mine), (q, yours)))
    return Estimate(float(1 - np.abs(p - q).sum() / 2), float(np.sqrt(max(variance, 0.0)) / 2))


def _correlations(*columns: NDArray[np.float64]) -> Estimate:
    found = []
    for x, y in (columns[:2], columns[2:]):
        both = np.isfinite(x) & np.isfinite(y)
        if both.sum() < 2 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
            return _NOTHING
        u, v = ((c[both] - c[both].mean()) / c[both].std() for c in (x, y))
        r = float((u * v).mean())
        # how much each row moves r
        found.append((r, float(np.var(u * v - r * (u * u + v * v) / 2) / both.sum())))
    (r, error), (s, other) = found
    return Estimate(1 - abs(r - s) / 2, math.sqrt(error + other) / 2)


def _cells(mine: NDArray[Any], yours: NDArray[Any], category: bool) -> list[NDArray[np.int64]]:
    """Both columns as codes of their categories or bins, a missing cell as a code of its own."""
    absent = [_missing(side) for side in (mine, yours)]
    if category:
        codes = _coded(mine[~absent[0]], yours[~absent[1]])
    else:
        known = mine[~absent[0]]
        edges = np.histogram_bin_edges(known, bins=_BINS)[1:-1] if len(known) else np.zeros(0)
        codes = [np.digitize(side[~gone], edges) for side, gone in zip((mine, yours), absent, strict=True)]
    out = []
    for code, gone in zip(codes, absent, strict=True):
        whole = np.zeros(len(gone), dtype=np.int64)
        whole[~gone] = code + 1
        out.append(whole)
    return out


def _coded(mine: NDArray[Any], yours: NDArray[Any]) -> list[NDArray[np.int64]]:
    import pandas as pd

    codes = pd.factorize(np.concatenate([mine, yours]))[0].astype(np.int64)
    return [codes[: len(mine)], codes[len(mine) :]]


def _missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    return np.asarray(pd.isna(column))


def _tables(
    real: Frame, generated: Frame, discrete: Collection[Any] | None
) -> tuple[dict[Any, NDArray[Any]], dict[Any, NDArray[Any]], set[Any]]:
    """The columns of both tables, numbers as float64 with NaN where missing, and which are categories."""
    import pandas as pd

    left, right = _frame(real, "real"), _frame(generated, "generated")
    if set(left.columns) != set(right.columns) or not left.columns.is_unique:
        raise DataError(
            f"found columns {list(left.columns)} and {list(right.columns)}: expected the same names in both, each once"
        )
    kinds = pd.api.types
    if discrete is None:
        numbers = [c for c in left if kinds.is_numeric_dtype(left[c]) and not kinds.is_bool_dtype(left[c])]
        categories = set(left.columns) - set(numbers)
    else:
        categories = set(discrete)
        if unknown := categories - set(left.columns):
            raise DataError(f"found discrete columns {sorted(map(str, unknown))}: expected some of {list(left.columns)}")
    columns: list[dict[Any, NDArray[Any]]] = []
    for frame, name in ((left, "real"), (right, "generated")):
        found = {}
        for column in left.columns:
            if column in categories:
                found[column] = frame[column].to_numpy(dtype=object)
                continue
            try:
                found[column] = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise DataError(f"found text in column {column!r} of {name}: expected numbers; name it in discrete") from error
            if np.isinf(found[column]).any():
                raise DataError(f"found an infinite number in column {column!r} of {name}: expected finite numbers or NaN")
        columns.append(found)
    return columns[0], columns[1], categories


def _frame(table: Frame, name: str) -> pd.DataFrame:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        frame = table
    elif isinstance(table, Mapping):
        frame = pd.DataFrame(dict(table))
    else:
        array = to_numpy(table, name)
        if array.ndim != 2:
            raise DataError(f"found {name} of shape {array.shape}: expected a table (rows, columns)")
        frame = pd.DataFrame(array)
    if len(frame) == 0 or frame.shape[1] == 0:
        raise DataError(f"found {name} of shape {frame.shape}: expected at least one row and one column")
    return frame
