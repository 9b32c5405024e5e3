"""Declared bounds reach the schema, the recipe and the rows, and what does not fit is refused with its place."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind, Schema, Table, Vector, from_json, to_json
from pushforward.data.describe import summary
from pushforward.data.like import open_like
from pushforward.data.sources import open_data
from pushforward.fitting.fit import fit
from pushforward.fitting.fitted import load

INF = math.inf


def sales(rows: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "price": rng.exponential(10, rows),
            "rate": rng.random(rows) ** 2,
            "rooms": rng.integers(1, 6, rows),
            "day": pd.date_range("2024-01-01", periods=rows),
            "city": rng.choice(["Bern", "Oslo"], rows),
            "free": rng.normal(size=rows),
        }
    )
    frame.loc[3, "price"] = np.nan
    frame.loc[5, "rate"] = 0.0
    return frame.sample(frac=1, random_state=1, ignore_index=True)


BOUNDS: dict[str, tuple[Any, Any]] = {
    "price": (0, None),
    "rate": ("0", "1"),
    "rooms": (None, 9.5),
    "day": ("2020-01-01", "2030-01-01"),
}


def test_bounds_reach_the_columns_and_survive_json() -> None:
    data = open_data(sales(), bounds=BOUNDS, condition="rooms")
    kind = data.schema.example
    assert isinstance(kind, Table)
    found = {c.name: c.bounds for c in (*kind.columns, *data.schema.conditions)}
    days = (pd.Timestamp("2020-01-01") - pd.Timestamp(0)).days, (pd.Timestamp("2030-01-01") - pd.Timestamp(0)).days
    wanted = {"price": (0.0, INF), "rate": (0.0, 1.0), "rooms": (-INF, 9.5), "day": days, "city": None, "free": None}
    assert found == wanted
    assert data.schema.bounded
    text = json.dumps(to_json(data.schema), allow_nan=False)
    assert '"bounds": [0.0, null]' in text
    assert '"free", "bounds"' not in text
    again = from_json(json.loads(text))
    assert again.example == kind
    assert again.conditions == data.schema.conditions
    said = {row["name"]: row["values"] for row in summary(data)["columns"]}
    assert said["price"].endswith("; can be at least 0")
    assert said["rate"].endswith("; can be 0 to 1")
    assert said["day"].endswith("; can be 2020-01-01 to 2030-01-01")
    assert "can be" not in said["free"]
    plain = open_data(sales())
    assert not plain.schema.bounded
    assert "bounds" not in json.dumps(to_json(plain.schema))


def test_vectors_take_one_pair_or_one_for_each() -> None:
    x = np.random.default_rng(0).random((50, 3))
    assert open_data(x, bounds=(0, 1)).schema.example == Vector(3, bounds=((0, 1),) * 3)
    some = open_data(x, bounds={0: (None, 2), "2": (0, None)}).schema
    assert some.example.bounds == ((-INF, 2.0), (-INF, INF), (0.0, INF))  # type: ignore[attr-defined]
    again = from_json(json.loads(json.dumps(to_json(some), allow_nan=False)))
    assert again == some
    assert "bounds" not in to_json(open_data(x).schema)["example"]


BAD: dict[str, tuple[Any, list[str]]] = {
    "unknown": ({"prise": (0, None)}, ["no column 'prise'", "did you mean 'price'"]),
    "category": ({"city": (0, 1)}, ["'city'", "category", "numbers and dates"]),
    "swapped": ({"rate": (1, 0)}, ["'rate'", "1 … 0", "lower < upper"]),
    "equal": ({"rate": (1, 1)}, ["lower < upper"]),
    "no end": ({"rate": (None, INF)}, ["bound nothing"]),
    "not a pair": ({"rate": 3}, ["(lower, upper)", "3"]),
    "not a number": ({"rate": ("low", 1)}, ["'low' is not a number"]),
    "nan": ({"rate": (math.nan, 1)}, ["nan is not a number"]),
    "not a date": ({"day": ("yesterday", None)}, ["'yesterday' is not an ISO date"]),
    "whose": ((0, 1), ["is a table", "whose"]),
    "too low": ({"free": (0, None)}, ["'free'", "row", "outside its bounds, at least 0"]),
    "too high": ({"rooms": (0, 3)}, ["'rooms'", "outside its bounds, 0 to 3"]),
    "too late": ({"day": (None, "2024-02-01")}, ["'day'", "2024-0", "at most 2024-02-01"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bounds_are_refused_in_a_line(case: str) -> None:
    bounds, words = BAD[case]
    with pytest.raises(DataError) as caught:
        open_data(sales(), bounds=bounds)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_row_and_value_outside_are_named() -> None:
    frame = sales()
    frame.loc[16, "price"] = -3.5
    with pytest.raises(DataError, match=r"column 'price' of data, row 17: -3\.5 is outside its bounds, at least 0"):
        open_data(frame, bounds={"price": (0, None)})
    x = np.random.default_rng(0).random((50, 3))
    x[7, 1] = -2
    with pytest.raises(DataError, match=r"row 8, column 1 \(from 0\): -2 is outside the bounds at least 0"):
        open_data(x, bounds=(0, None))
    with pytest.raises(DataError, match=r"no column 3 to bound: its columns are 0 … 2"):
        open_data(x, bounds={3: (0, None)})
    with pytest.raises(DataError, match="bounds are for tables and vectors, and digits is of kind image"):
        open_data("digits", bounds=(0, 1))


def test_new_data_are_held_to_the_bounds() -> None:
    frame = sales()
    schema = open_data(frame, bounds=BOUNDS).schema
    assert len(open_like(frame, schema)) == len(frame)
    bad = frame.assign(rate=frame["rate"].where(frame.index != 20, 1.5))
    with pytest.raises(DataError, match=r"'rate' of the new data, row 21: 1\.5 is outside its bounds, 0 to 1"):
        open_like(bad, schema)
    gaps = frame.assign(rate=np.nan)
    assert open_like(gaps, schema, holes=True).rows().x[:, 1].isnan().all()
    vectors = Schema(Vector(2, bounds=((0.0, INF), (-INF, INF))))
    with pytest.raises(DataError, match="row 2, column 0"):
        open_like(np.array([[1.0, -1.0], [-1.0, 1.0]]), vectors)
    with pytest.raises(DataError, match="row 1, column 0"):
        open_like(open_data(-np.ones((5, 2)) - np.arange(5)[:, None]), vectors)


def test_rounding_is_no_reason_to_refuse() -> None:
    frame = sales().assign(rate=np.linspace(0, 3, 80) / 3)
    frame.loc[0, "rate"] = -1e-17
    assert open_data(frame, bounds={"rate": (0, 1)}).schema.bounded


def test_fits_keep_to_the_bounds_after_save_and_load(tmp_path: Any) -> None:
    bounds = BOUNDS | {"price": (0.0, None)}
    model = fit(sales(), "independent", bounds=bounds, quiet=True)
    model.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["schema"]["example"]["columns"][0]["bounds"] == [
        0.0,
        None,
    ]
    again = load(tmp_path / "run")
    sample = again.sample(3000)
    pd.testing.assert_frame_equal(sample, model.sample(3000))
    assert sample["price"].min() >= 0
    assert sample["rate"].between(0, 1).all()
    assert sample["rooms"].max() <= 9
    assert sample["day"].between("2020-01-01", "2030-01-01").all()
    np.testing.assert_array_equal(again.log_prob(sales()), model.log_prob(sales()))
    with pytest.raises(DataError, match="outside its bounds"):
        again.log_prob(sales().assign(price=-1.0))


def test_a_column_of_the_model_without_bounds_is_as_before() -> None:
    before = {"name": "a", "kind": "number", "lower": 0.0}
    schema = from_json({"example": {"kind": "table", "columns": [before], "container": "pandas"}})
    assert schema.example == Table((Column("a", ColumnKind.NUMBER, lower=0.0),))
    assert not schema.bounded
