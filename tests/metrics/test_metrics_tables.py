"""Scores of tables, value by value those of SDMetrics, and their errors against repetition."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest

from pushforward.core.errors import DataError
from pushforward.metrics import column_shapes, pair_trends


def table(seed: int, rows: int, shift: float = 0.0, missing: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(rows)
    colours = {"red": 0.5, "green": 0.3, "blue": 0.2} if shift == 0 else {"red": 0.2, "green": 0.55, "grey": 0.25}
    frame = pd.DataFrame(
        {
            "height": z + shift,
            "weight": 0.7 * z + rng.standard_normal(rows) + shift * z,
            "count": rng.poisson(2, rows).astype(float),
            "colour": rng.choice(list(colours), rows, p=list(colours.values())),
            "paid": rng.random(rows) < 0.4 + 0.2 * (z > 0),
        }
    )
    frame["paid"] = frame["paid"].astype(object)
    if missing:
        for column in ("weight", "colour", "paid"):
            gone = rng.random(rows) < 0.15
            frame.loc[gone, column] = np.nan if column == "weight" else None
    return frame


def test_every_value_is_sdmetrics() -> None:
    pytest.importorskip("sdmetrics")
    from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
    from sdmetrics.single_column import KSComplement, TVComplement

    real, generated = table(0, 300), table(1, 220, 0.4)
    categories = {"colour", "paid"}
    shapes, trends = column_shapes(real, generated), pair_trends(real, generated)
    assert list(shapes.scores) == list(real)
    for name, score in shapes.scores.items():
        truth = (TVComplement if name in categories else KSComplement).compute(real[name], generated[name])
        assert score.value == pytest.approx(truth, abs=1e-6), name  # TVComplement adds 1e-6 to what it never saw
        assert 0 < score.standard_error < 0.1
    assert len(trends.scores) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for pair, score in trends.scores.items():
            numbers = [name for name in pair if name not in categories]
            one, other = real[list(pair)].copy(), generated[list(pair)].copy()
            if len(numbers) == 2:
                truth = CorrelationSimilarity.compute(one, other)
            else:
                truth = ContingencySimilarity.compute(one, other, continuous_column_names=numbers)
            assert score.value == pytest.approx(truth, abs=1e-9), pair
    assert shapes.mean.value == pytest.approx(np.mean([s.value for s in shapes.scores.values()]))


def test_by_hand() -> None:
    real, generated = {"a": [0.0, 1, 2, 3], "c": ["x", "x", "y", None]}, {"a": [1.5, 2.5], "c": ["x", "z"]}
    shapes = column_shapes(real, generated)
    assert shapes.scores["a"].value == pytest.approx(0.5)  # at 1, or just below 3
    assert shapes.scores["c"].value == pytest.approx(1 - (1 / 6 + 1 / 3 + 1 / 2) / 2)
    # bins of [0, 3]: tenths; (0, x), (3, x), (6, y), (9, missing) beside (5, x), (8, z): nothing in common
    assert pair_trends(real, generated).scores["a", "c"].value == 0
    assert pair_trends(real, real).mean.value == 1


def test_arrays_and_which_columns_are_discrete() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (80, 3)), rng.integers(0, 5, (70, 3))
    as_numbers, as_codes = column_shapes(x, y), column_shapes(x, y, discrete=[1, 2])
    assert as_numbers.scores[0] == as_codes.scores[0]
    share = lambda z, v: (z[:, 1] == v).mean()
    assert as_codes.scores[1].value == pytest.approx(1 - sum(abs(share(x, v) - share(y, v)) for v in range(5)) / 2)
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    assert column_shapes(frame[["c", "a", "b"]], pd.DataFrame(y, columns=["a", "b", "c"])).scores["b"] == as_numbers.scores[1]


def test_nothing_to_say_is_nan_and_left_out_of_the_mean() -> None:
    real = pd.DataFrame({"a": [1.0, 1, 1], "b": [1.0, 2, 3], "c": [np.nan] * 3})
    shapes, trends = column_shapes(real, real), pair_trends(real, real)
    assert math.isnan(shapes.scores["c"].value)
    assert shapes.mean.value == 1
    assert all(math.isnan(s.value) for s in trends.scores.values())
    assert math.isnan(trends.mean.value)


def test_errors_match_repetition() -> None:
    runs = [(table(2 * s, 250, missing=False), table(2 * s + 1, 200, 0.6, missing=False)) for s in range(80)]
    for score, keys in ((column_shapes, ("height", "colour")), (pair_trends, (("height", "weight"), ("height", "colour")))):
        found = [score(*run).scores for run in runs]
        for key in keys:
            values = [f[key].value for f in found]
            error = np.median([f[key].standard_error for f in found])
            assert error == pytest.approx(np.std(values, ddof=1), rel=0.35), key


def test_bad_input() -> None:
    frame = table(0, 20)
    for call in (
        lambda: column_shapes(frame, frame[["height"]]),
        lambda: column_shapes(frame, frame[:0]),
        lambda: column_shapes(frame, frame, discrete=["nonsense"]),
        lambda: column_shapes(frame, frame, discrete=["paid"]),
        lambda: pair_trends(np.array([[np.inf, 1.0]]), np.ones((1, 2))),
        lambda: pair_trends(np.ones(3), np.ones(3)),
    ):
        with pytest.raises(DataError):
            call()
