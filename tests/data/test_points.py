"""Sets of points: arrays, new data under a schema."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.core.schema import Points, from_json, to_json
from pushforward.data.describe import summary
from pushforward.data.like import decode, open_like
from pushforward.data.sources import open_data

rng = np.random.default_rng(0)


def fails(message, source, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_data(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("container", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(6, 9, 2), (6, 9, 3), (6, 4, 5), (6, 3, 1)])
def test_arrays_are_given_back(container, shape):
    x = rng.normal(size=shape).astype(np.float32)
    x = torch.tensor(x) if container == "torch" else x
    data = open_data(x, kind="points")
    assert data.schema.example == Points(shape[1], shape[2], container, "float32")
    assert data.rows().x.dtype == torch.float64
    back = decode(data.schema, data.rows().x)
    assert type(back) is type(x)
    assert back.dtype == x.dtype
    assert (back == x).all()
    assert torch.equal(open_like(x, data.schema).rows().x, data.rows().x)
    assert from_json(json.loads(json.dumps(to_json(data.schema)))) == data.schema


def test_an_array_that_looks_like_points_is_read_as_such_and_that_is_said(tmp_path):
    x = rng.normal(size=(5, 20, 3))
    data = open_data(x)
    assert data.schema.example.shape == (20, 3)
    assert any("read as 20 points in 3 dimensions" in note and "--kind" in note for note in data.notes)
    np.savez(tmp_path / "a.npz", points=x, label=np.arange(5) % 2)
    data = open_data(tmp_path / "a.npz", condition="label")
    assert data.schema.example.shape == (20, 3)
    assert data.schema.conditions[0].categories == (0, 1)
    # between 0 and 1 they may as well be grey pictures
    inside = open_data(rng.random((5, 20, 3)))
    assert inside.schema.example.name == "image"
    assert "kind=points" in inside.notes[0]
    assert open_data(rng.random((5, 20, 3)), kind="points").notes == ()
    assert open_data(rng.random((5, 20, 20))).notes == ()


def test_length_keeps_some_points_of_each_set():
    x = rng.normal(size=(50, 20, 3))
    data = open_data(x, length=5)
    kept = data.rows().x.numpy()
    assert kept.shape == (50, 5, 3)
    places = [[int(np.flatnonzero((x[i] == p).all(1))[0]) for p in kept[i]] for i in range(50)]
    assert all(len(set(row)) == 5 for row in places)
    assert len({tuple(row) for row in places}) > 40
    assert np.array_equal(open_data(x, length=5).rows().x.numpy(), kept)
    assert any("5 of 20 points" in note for note in data.notes)
    fails("at most that, found 21", x, length=21)


def test_bad_arrays():
    x = rng.normal(size=(5, 20, 3))
    fails(r"expected sets of points as \(N, P, d\)", x[:, :, 0], kind="points")
    fails("at least 4", x[:3], kind="points")
    schema = open_data(x).schema
    with pytest.raises(DataError, match="sets of 19 points in 3 dimensions: expected 20 in 3"):
        open_like(x[:, 1:], schema)
    x[2, 1, 2] = np.nan
    fails("row 3, point 2, coordinate 3: the value is nan", x)
    assert open_like(x, schema, holes=True).rows().x.isnan().sum() == 1


def test_summary_tells_of_coordinates():
    found = summary(open_data(rng.normal(size=(5, 20, 3))))
    assert found["example"] == "sets of 20 points in 3 dimensions"
    assert [c["name"] for c in found["columns"]] == ["x", "y", "z"]
    assert len(summary(open_data(rng.normal(size=(5, 3, 5)), kind="points"))["columns"]) == 5


@pytest.mark.skipif(
    not Path(os.environ.get("PUSHFORWARD_DATA", "/nowhere"), "modelnet", "modelnet_points.npz").exists(),
    reason="needs the data set",
)
def test_modelnet():
    data = open_data("modelnet", condition="label", length=128)
    assert data.schema.example == Points(128, 3, dtype="float32")
    assert (len(data), len(data.test)) == (732, 150)
    assert data.schema.conditions[0].categories == ("airplane", "bathtub")
    assert data.rows().x.norm(dim=2).max() < 1.01
    schema = data.schema
    assert len(open_like("modelnet", schema)) == 732
