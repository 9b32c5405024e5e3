"""``--bounds`` on the command line."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def sales(cli, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": rng.exponential(10, 60), "rate": rng.random(60), "city": rng.choice(["a", "b"], 60)})
    frame.to_csv(tmp_path / "sales.csv", index=False)
    np.save(tmp_path / "points.npy", rng.random((60, 2)))
    return cli


def test_samples_are_within_the_bounds(sales, tmp_path):
    shown = sales("inspect", "sales.csv", "--bounds", "price=0:", "rate=0:1", "--json").json
    assert [c["values"].partition("; can be ")[2] for c in shown["columns"]] == ["at least 0", "0 to 1", ""]
    fitted = ("fit", "sales.csv", "independent", "--bounds", "price=0:", "rate=-1:1", "--no-report", "--quiet", "--out", "run")
    assert sales(*fitted).code == 0
    assert sales("sample", "run", "-n", "500", "--out", "new.csv").code == 0
    new = pd.read_csv(tmp_path / "new.csv")
    assert new["price"].min() >= 0
    assert new["rate"].between(-1, 1).all()
    assert sales("fit", "points.npy", "independent", "--bounds", "0:1", "--no-report", "--quiet", "--out", "square").code == 0
    assert sales("sample", "square", "-n", "500", "--out", "new.npy").code == 0
    drawn = np.load(tmp_path / "new.npy")
    assert drawn.min() >= 0
    assert drawn.max() <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["price"], ["--bounds takes name=low:high", "'price'"]),
        (["price=3"], ["--bounds takes name=low:high", "'price=3'"]),
        (["rate=0:1:2"], ["--bounds takes name=low:high"]),
        (["0:1", "price=0:"], ["--bounds takes name=low:high", "'0:1'"]),
        (["prise=0:"], ["no column 'prise'", "did you mean 'price'"]),
        (["rate=1:0"], ["leave no room", "lower < upper"]),
        (["rate=:"], ["bound nothing"]),
        (["rate=a:"], ["'a' is not a number"]),
        (["rate=0.5:"], ["'rate'", "row", "outside its bounds, at least 0.5"]),
        (["city=0:"], ["category"]),
        (["0:1"], ["is a table"]),
    ],
)
def test_bad_bounds(sales, words, said):
    found = sales("inspect", "sales.csv", "--bounds", *words)
    assert found.code == 2
    assert len(found.lines) == 1
    for word in said:
        assert word in found.lines[0]


def test_families_that_keep_no_bounds_say_so(sales):
    found = sales("fit", "sales.csv", "made", "--bounds", "price=0:", "--steps", "1", "--out", "run")
    assert found.code == 2
    assert "made does not keep within bounds" in found.lines[-1]
