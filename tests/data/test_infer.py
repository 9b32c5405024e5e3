"""What each column is taken for, and the messages where it cannot be."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pushforward.core.errors import DataError
from pushforward.data.infer import infer_columns
from pushforward.data.like import decode
from pushforward.data.sources import open_data


def typed(values, types=None, name="v", batch=None):
    array = pa.array(values, from_pandas=True)
    size = batch or len(array)
    batches = [{name: array.slice(i, size)} for i in range(0, len(array), size)]
    return infer_columns(batches, types, names=[name], dtypes={name: "float64"}, place="file.csv")


def kind(values, types=None, name="v"):
    return typed(values, types, name).columns[0].kind.value


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False, None, True], "boolean"),
        ([1, 5, 5, 3], "integer"),
        ([1.0, 5.0, None, 3.0], "integer"),
        ([1.0, 5.5, None, 3.0], "number"),
        (["a", "b", "a", "b"], "category"),
        ([f"w{i}" for i in range(100)], "identifier"),
        ([f"w{i % 60}" for i in range(100)], "identifier"),
        ([f"w{i % 40}" for i in range(100)], "category"),
        (["1.5", "2", "2", "7"], "number"),
        (["7", "2", "2", "7"], "integer"),
        (["007", "012", "012", "007"], "category"),
        (["2020-01-31", "2020-02-29", "2020-01-31", "2019-01-01"], "date"),
        (["2020-01-31", "2020-02-30", "2020-01-31", "2020-02-30"], "category"),
        ([dt.date(2020, 1, 1), dt.date(2020, 1, 2), None, dt.date(2020, 1, 3)], "date"),
        ([3, 3, 3, 3], "constant"),
        (["a", "a", "a", "a"], "constant"),
        (["a", "a", None, "a"], "category"),
        (list(range(20)), "identifier"),
        (list(range(19)), "integer"),
        (list(range(20))[::-1], "integer"),
    ],
)
def test_kinds(values, expected):
    assert kind(values) == expected


@pytest.mark.parametrize("name", ["id", "ID", "user_id", "userId", "index", "Unnamed: 0", "rownames", "row id"])
def test_names_of_identifiers(name):
    assert kind([4, 1, 3, 9], name=name) == "identifier"
    assert kind([4, 1, 3, 3], name=name) == "integer"


@pytest.mark.parametrize("name", ["grid", "paid", "humid", "idea", "candid"])
def test_names_that_only_look_like_identifiers(name):
    assert kind([4, 1, 3, 9], name=name) == "integer"


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_grid_is_found(digits, single):
    values = np.round(RNG.integers(1, 40, 200) * 10.0**-digits + 3, digits)
    column = typed(values.astype("float32") if single else values).columns[0]
    assert column.resolution == pytest.approx(10.0**-digits)
    assert column.kind.value == "number"


def test_no_grid_without_repeats_or_with_few_rows():
    assert typed(np.round(RNG.normal(size=200), 6)).columns[0].resolution is None
    assert typed([0.5, 0.5, 0.25] * 10).columns[0].resolution is None
    assert typed(RNG.normal(size=200)).columns[0].resolution is None


def test_statistics_do_not_depend_on_batches():
    values = RNG.normal(1e6, 1, 5000)
    whole, parts = typed(values).columns[0], typed(values, batch=7).columns[0]
    for column in (whole, parts):
        assert column.mean == pytest.approx(values.mean(), rel=1e-12)
        assert column.std == pytest.approx(values.std(), rel=1e-8)
        assert (column.lower, column.upper) == (values.min(), values.max())


def test_levels_and_missing():
    found = typed(["x10", "x9", None, "x9"])
    column = found.columns[0]
    assert column.categories == ("x9", "x10")
    assert column.missing
    assert column.levels == 3
    assert column.mean == pytest.approx(0.75)  # codes 1, 0, 2, 0
    assert found.missing == {"v": 1}
    assert "1 missing" in found.notes[0]


def test_counting_stops_at_the_cap():
    from pushforward.data.tallies import Distinct

    counter = Distinct(10)
    for start in range(0, 100, 5):
        counter.add(pa.array(range(start, start + 5)), np.ones(5, dtype=int))
    assert counter.frozen
    assert counter.values is None
    assert counter.number == 15  # what was seen when the cap was passed


@pytest.mark.parametrize(
    ("values", "as_type", "expected"),
    [
        ([1, 2, 1, 2], "category", "category"),
        ([1, 2, 1, 2], "boolean", "boolean"),
        (["no", "yes", "no", "no"], "boolean", "boolean"),
        ([1, 2, 1, 2], "number", "number"),
        ([True, False, True, True], "number", "number"),
        ([True, False, True, True], "category", "category"),
        ([1.5, 2.5, None, 2.5], "category", "category"),
        (["1", "2", "2", "x"], "category", "category"),
        (["a", "b", "a", "c"], "identifier", "identifier"),
        ([dt.date(2020, 1, 1), dt.date(2020, 1, 2)] * 2, "category", "category"),
    ],
)
def test_types_override(values, as_type, expected):
    assert kind(values, {"v": as_type}) == expected
    frame = pd.DataFrame(
        {"v": pd.Series(values, dtype=object if isinstance(values[0], dt.date) else None), "w": [0.5, 1.5, 2, 9]}
    )
    data = open_data(frame, types={"v": as_type})
    if expected != "identifier":
        pd.testing.assert_frame_equal(decode(data.schema, data.rows().x), frame)


@pytest.mark.parametrize(
    ("values", "types", "message"),
    [
        ([None, None, None, None], None, "column 'v' of file.csv has no values: leave it out with --drop v"),
        ([1.0, 2.0], None, "file.csv has 2 rows: at least 4"),
        ([1.0, np.inf, 2.0, 3.0], None, "column 'v' of file.csv, row 2"),
        (["1", "2", "3", "4", "oops"], None, "column 'v' of file.csv, row 5: 'oops' is not a number.*--types v=category"),
        ([1, 2, 2**60, 2**60], None, f"column 'v' of file.csv, row 3: {2**60} is beyond 2\\*\\*53"),
        ([1, 2, 3, 4], {"w": "number"}, "file.csv has no column 'w'"),
        ([1, 2, 3, 4], {"v": "categry"}, "did you mean 'category'"),
        (["a", "b", "c", "d"], {"v": "number"}, "row 1: 'a' is not a number"),
        ([1.5, 2.5, 3.5, 4.5], {"v": "integer"}, "whole numbers"),
        ([1, 2, 3, 4], {"v": "boolean"}, "4 distinct values"),
        (["a", "b", "c", "d"], {"v": "date"}, "ISO dates"),
    ],
)
def test_messages(values, types, message):
    with pytest.raises(DataError, match=message) as caught:
        typed(values, types)
    assert "\n" not in str(caught.value)


def test_large_identifiers_are_no_numbers():
    assert kind([2**60, 2**60 + 7, 2**60 + 1, 2**61]) == "identifier"
