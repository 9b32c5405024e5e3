"""Conditions of more than one number a row: vectors, texts, pictures, and what is made from the example."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

from pushforward.core.errors import DataError
from pushforward.core.schema import Column, ColumnKind, Image, Part, Signal, Tokens, Vector
from pushforward.data import captions, sides
from pushforward.data.describe import summary
from pushforward.data.like import decode, open_like
from pushforward.data.sources import open_data

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
CAPTIONS = np.array(["A red cat", "a dog", "the red, red apple", "a cat"] * 3)
VECTORS = RNG.normal(3, 2, (12, 5))
SKETCHES = RNG.integers(0, 256, (12, 12, 12), dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "pictures.npz"
    np.savez(
        *(path,),
        images=PIXELS,
        label=np.arange(12) % 3,
        caption=CAPTIONS,
        vec=VECTORS,
        sketch=SKETCHES,
        age=VECTORS[:, 0],
        short=VECTORS[:5],
    )
    return path


def dictionary() -> dict[str, Any]:
    return {"images": PIXELS, "label": np.arange(12) % 3, "caption": CAPTIONS.tolist(), "vec": VECTORS, "sketch": SKETCHES,
            "age": VECTORS[:, 0]}  # fmt: skip


NAMES = ["label", "caption", "vec", "sketch", "age", "grey"]


def test_arrays_of_a_file_and_of_a_dict_are_conditions(archive: Path) -> None:
    for source in (archive, dictionary()):
        data = open_data(source, condition=NAMES, types={"caption": "text"})
        label, caption, vec, sketch, age, grey = data.schema.conditions
        assert isinstance(label, Column)
        assert label.kind is ColumnKind.CATEGORY
        assert isinstance(age, Column)
        assert (age.kind, age.mean) == (ColumnKind.NUMBER, pytest.approx(VECTORS[:, 0].mean()))
        assert isinstance(caption, Part)
        assert isinstance(caption.kind, Tokens)
        assert isinstance(vec, Part)
        assert vec.kind == Vector(5)
        assert vec.mean == pytest.approx(VECTORS.mean(0))
        assert vec.std == pytest.approx(VECTORS.std(0))
        assert sketch == Part("sketch", Image(1, 6, 6))
        assert grey == Part("grey", Image(1, 6, 6), "grey")
        columns = data.rows(slice(2, 4)).columns
        assert captions.decode(caption.kind, columns["caption"]) == ["the red , red apple", "a cat"]
        assert torch.equal(columns["vec"], torch.from_numpy(VECTORS[2:4]))
        halved = SKETCHES[2:4].reshape(2, 6, 2, 6, 2).mean((2, 4))
        assert np.array_equal(columns["sketch"][:, 0].numpy(), np.rint(halved))
        assert "grey" not in columns
        assert {row["name"]: row["type"] for row in summary(data)["columns"]}["caption"] == "text"


def test_only_named_arrays_are_read(archive: Path) -> None:
    assert open_data(archive).schema.conditions == ()
    assert set(open_data(archive, condition="label").rows().columns) == {"label"}


def test_new_data_are_read_by_the_schema(archive: Path) -> None:
    data = open_data(archive, condition=NAMES, types={"caption": "text"})
    rows = data.rows()
    for source in (archive, dictionary(), data):
        again = open_like(source, data.schema).rows()
        assert set(again.columns) == set(NAMES) - {"grey"}
        for name, values in again.columns.items():
            assert torch.equal(values, rows.columns[name]), name
    new = {**dictionary(), "caption": ["a blue cat"] * 12, "vec": VECTORS.astype(np.float32)}
    caption = open_like(new, data.schema).rows().columns["caption"]
    kind = data.schema.conditions[1].kind
    assert isinstance(kind, Tokens)
    assert captions.decode(kind, caption[:1]) == ["a <unknown> cat"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vec": VECTORS[:, :3]}, "has 3 numbers a row: expected 5"),
        ({"vec": VECTORS[:4]}, "has 4 rows: expected 12"),
        ({"vec": None}, "lacks the column 'vec'"),
        ({"sketch": SKETCHES - 300.0}, "holds negative pixels"),
    ],
)
def test_new_data_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    schema = open_data(dictionary(), condition=["vec", "sketch"]).schema
    given = {name: values for name, values in {**dictionary(), **change}.items() if values is not None}
    with pytest.raises(DataError, match=said):
        open_like(given, schema)


def test_bad_names_and_shapes_are_told(archive: Path) -> None:
    for how, said in (
        ({"condition": "short"}, "expected 12 rows, as there are"),
        ({"condition": "vecs"}, "has no column 'vecs'|has no columns"),
        ({"condition": "small:4"}, "divides 6×6 pixels"),
        ({"condition": ["vec", "vec"]}, "named twice"),
        ({"target": "vec"}, "a target is a category"),
        ({"condition": "label", "types": {"label": "text"}}, "holds category values: a text condition is made of strings"),
        ({"condition": "label", "types": {"caption": "text"}}, "only a condition can be"),
    ):
        with pytest.raises(DataError, match=said):
            open_data(archive, **how)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="made from images"):
        open_data({"x": VECTORS, "y": np.arange(12) % 2}, condition="grey")


def test_resized_pictures_have_resized_conditions(archive: Path) -> None:
    data = open_data(archive, condition=["sketch", "small:2"], resize=4)
    assert [c.kind.shape for c in data.schema.conditions if isinstance(c, Part)] == [(1, 4, 4), (3, 2, 2)]
    assert data.rows().columns["sketch"].shape == (12, 1, 4, 4)


def test_many_different_strings_are_text_unless_told_otherwise() -> None:
    names = [f"picture {i} of {i % 7}" for i in range(250)]
    source = {"x": np.zeros((250, 2, 2), np.uint8), "name": names}
    (part,) = open_data(source, condition="name").schema.conditions
    assert isinstance(part, Part)
    (column,) = open_data(source, condition="name", types={"name": "category"}).schema.conditions
    assert isinstance(column, Column)
    assert len(column.categories) == 250


def test_a_table_can_have_a_text_as_condition() -> None:
    frame = pd.DataFrame({"price": np.arange(40) / 7, "title": [f"Red shoe, size {i % 9}" for i in range(39)] + ["Boot"]})
    data = open_data(frame, condition="title", types={"title": "text"})
    (part,) = data.schema.conditions
    assert isinstance(part, Part)
    assert isinstance(part.kind, Tokens)
    new = pd.DataFrame({"price": [1.0, 2.0], "title": ["red boot", None]})
    codes = open_like(new, data.schema).rows().columns["title"]
    assert captions.decode(part.kind, codes) == ["red boot", ""]
    rows = data.rows(slice(0, 2))
    assert decode(data.schema, rows.x, rows.columns)["title"].tolist() == ["red shoe , size 0", "red shoe , size 1"]
    assert torch.equal(open_like(data, data.schema).rows().columns["title"], data.rows().columns["title"])


def test_signals_beside_signals() -> None:
    x, other = RNG.normal(size=(12, 2, 30)), RNG.normal(4, 3, size=(12, 30))
    data = open_data({"x": x, "wave": other, "vec": VECTORS}, condition=["wave", "vec"], kind="signal")
    wave, vec = data.schema.conditions
    assert isinstance(wave, Part)
    assert isinstance(wave.kind, Signal)
    assert wave.mean == pytest.approx([other.mean()])
    assert vec.kind == Vector(5)
    with pytest.raises(DataError, match="7 samples a row: expected 30"):
        open_data({"x": x, "wave": other[:, None, :7]}, condition="wave", kind="signal")


@pytest.mark.skipif(
    not Path(os.environ.get("PUSHFORWARD_DATA", "/nowhere"), "emoji", "emoji32.npz").exists(), reason="needs the data set"
)
def test_emoji_have_captions() -> None:
    data = open_data("emoji", condition=["category", "caption", "grey"])
    category, caption, grey = data.schema.conditions
    assert isinstance(category, Column)
    assert len(category.categories) == 10
    assert isinstance(caption, Part)
    assert isinstance(caption.kind, Tokens)
    assert captions.decode(caption.kind, data.rows(slice(0, 1)).columns["caption"]) == ["grinning face"]
    assert grey.kind == Image(1, 32, 32)
    codes = open_like("emoji", data.schema).rows(slice(0, 50)).columns["caption"]
    assert torch.equal(codes, data.rows(slice(0, 50)).columns["caption"])


# texts


def test_the_vocabulary_is_of_the_most_frequent_words() -> None:
    kind = captions.learn(["b a a", "a c!", "d"], [1, 2, 1])
    assert kind.vocabulary == ("\x00", "<unknown>", "a", "!", "c", "b", "d")
    assert kind.length == 3
    code = captions.encode(kind, ["A c z q", None, "!"])
    assert code.tolist() == [[2, 4, 1], [0, 0, 0], [3, 0, 0]]
    with pytest.raises(DataError, match="row 1 is of type int: expected a text"):
        captions.encode(kind, [3])  # type: ignore[list-item]


# values for sampling


def test_one_value_or_one_for_each() -> None:
    part = Part("v", Vector(3))
    assert sides.encode(part, sides.repeated(part, [1, 2, 3], 4)).shape == (4, 3)
    assert sides.encode(part, sides.repeated(part, "1,2,3", 2)).tolist() == [[1, 2, 3]] * 2
    assert sides.encode(part, sides.repeated(part, np.ones((4, 3)), 4)).shape == (4, 3)
    for value, said in ((np.ones((5, 3)), "5 values for 4 samples"), ("a,b", "expected 3 numbers"), ([1.0, 2.0], "expected 3")):
        with pytest.raises(DataError, match=said):
            sides.encode(part, sides.repeated(part, value, 4))
    text = Part("t", captions.learn(["a b"], [1]))
    assert sides.encode(text, sides.repeated(text, "b a", 2)).tolist() == [[3, 2], [3, 2]]
    assert sides.encode(text, sides.repeated(text, ["b", "a"], 2)).tolist() == [[3, 0], [2, 0]]


def test_pictures_come_in_any_size_and_form(tmp_path: Path) -> None:
    colour, plain = Part("c", Image(3, 6, 6)), Part("grey", Image(1, 6, 6), "grey")
    photo = Pillow.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    for value in (photo, np.asarray(photo), str(tmp_path / "photo.png"), [photo, photo], np.stack([np.asarray(photo)] * 2)):
        for part in (colour, plain):
            codes = sides.encode(part, sides.repeated(part, value, 2))
            assert codes.shape == (2, *part.kind.shape)
            assert torch.equal(codes, sides.encode(part, sides.repeated(part, photo, 2)))
    exact = torch.from_numpy(PIXELS[:2]).permute(0, 3, 1, 2)
    assert torch.equal(sides.encode(colour, sides.repeated(colour, PIXELS[:2], 2)), exact)
    greys = SKETCHES[:2, :6, :6]
    assert torch.equal(sides.encode(plain, sides.repeated(plain, greys, 2))[:, 0], torch.from_numpy(greys))
    assert torch.equal(sides.encode(plain, sides.repeated(plain, greys[0], 2))[1, 0], torch.from_numpy(greys[0]))
    with pytest.raises(DataError, match="there is no file"):
        sides.encode(plain, sides.repeated(plain, str(tmp_path / "no.png"), 2))


def test_what_is_transparent_is_hidden(tmp_path: Path) -> None:
    part = Part("visible", Image(4, 6, 6), "visible")
    alpha = np.full((6, 6, 1), 255, np.uint8)
    alpha[:, 3:] = 0
    array = np.concatenate([PIXELS[0], alpha], 2)
    Pillow.fromarray(array).save(tmp_path / "part.png")
    for value in (array, Pillow.fromarray(array), str(tmp_path / "part.png")):
        codes = sides.encode(part, sides.repeated(part, value, 2))
        assert torch.equal(codes[1, 3], torch.from_numpy(alpha[..., 0]))
        assert not codes[0, :, :, 3:].any()
        assert torch.equal(codes[0, :3, :, :3], torch.from_numpy(PIXELS[0]).permute(2, 0, 1)[:, :, :3])
    with pytest.raises(DataError, match="3 channels: expected 4; the last says what is visible"):
        sides.encode(part, sides.repeated(part, PIXELS[0], 2))
