"""``Fitted.interpolate``: raw rows in, raw rows out, in order, with both ends."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pushforward as pf
from pushforward.core.errors import DataError, RecipeError


def rooms(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.gamma(3, 20, rows).round(1),
            "rooms": rng.integers(1, 7, rows),
            "town": rng.choice(["Bern", "Oslo", "Rome"], rows),
        }
    )


@pytest.fixture(scope="module")
def table() -> pf.Fitted:
    return pf.fit(rooms(), "nice", steps=5, hidden=(8,), transforms=2, quiet=True)


def test_tables_go_from_row_to_row(table: pf.Fitted) -> None:
    frame = rooms()
    a, b = frame[:3].reset_index(drop=True), frame[3:6].reset_index(drop=True)
    ways = table.interpolate(a, b, steps=4)
    assert len(ways) == 12
    assert list(ways.dtypes) == list(frame.dtypes)
    pd.testing.assert_frame_equal(ways[0::4].reset_index(drop=True), a)
    pd.testing.assert_frame_equal(ways[3::4].reset_index(drop=True), b)
    assert set(ways["town"]) <= {"Bern", "Oslo", "Rome"}
    assert ways["rooms"].between(0, 8).all()
    pd.testing.assert_frame_equal(table.interpolate(a, b, steps=4, chunk=1), ways)


def test_pictures_go_too_under_the_condition_of_the_first() -> None:
    model = pf.fit("digits", "nice", condition="label", steps=3, hidden=(8,), transforms=2, quiet=True)
    data = pf.open_data("digits", condition="label")
    ways = model.interpolate(data.select(slice(0, 2)), data.select(slice(2, 4)), steps=3)
    shown = np.asarray(ways)
    assert shown.shape[0] == 6
    assert shown.dtype == np.uint8
    ends = model.decode(data.rows(slice(0, 2)))
    np.testing.assert_array_equal(shown[0::3], np.asarray(ends))


def test_what_is_wrong_is_said(table: pf.Fitted) -> None:
    frame = rooms()
    with pytest.raises(RecipeError, match="steps must be at least 2"):
        table.interpolate(frame[:2], frame[:2], steps=1)
    with pytest.raises(DataError, match="2 rows to start from and 3 to go to"):
        table.interpolate(frame[:2], frame[:3])
    with pytest.raises(DataError, match="Lima"):
        table.interpolate(frame[:2], frame[:2].assign(town="Lima"))
