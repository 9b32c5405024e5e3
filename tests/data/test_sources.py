"""Every kind of source, roles, new data under a schema, and one-line messages for bad input."""

import json

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pandas.testing import assert_frame_equal
from PIL import Image as Pillow

from pushforward.core.errors import DataError
from pushforward.core.schema import Image, Table, Tokens, Vector, from_json, to_json
from pushforward.data.arrays import ArrayStore
from pushforward.data.describe import describe, summary
from pushforward.data.like import decode, open_like
from pushforward.data.sources import open_data


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    n = 30
    return pd.DataFrame(
        {
            "id": np.arange(1, n + 1),
            "size": rng.normal(size=n).round(4),
            "count": rng.integers(0, 9, n),
            "colour": np.array(["red", "green", "blue"])[rng.integers(0, 3, n)],
            "when": pd.date_range("2024-01-01", periods=n, freq="5D").strftime("%Y-%m-%d"),
            "ok": rng.integers(0, 2, n) == 1,
        }
    )


def fails(message, source, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_data(source, **options)
    assert "\n" not in str(caught.value)


def json_round_trip(schema):
    assert from_json(json.loads(json.dumps(to_json(schema)))) == schema


# ---------------------------------------------------------------------------------------------------------- table files


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_files_give_the_frame_back(frame, tmp_path, ending):
    path = tmp_path / f"sales.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    data = open_data(path)
    assert (data.name, data.origin, len(data)) == ("sales", str(path), 30)
    assert [c.kind.value for c in data.schema.example.columns] == [
        "identifier",
        "number",
        "integer",
        "category",
        "date",
        "boolean",
    ]
    out = decode(data.schema, data.rows().x)
    assert_frame_equal(out.drop(columns="id"), frame.drop(columns="id"))
    json_round_trip(data.schema)
    assert torch.equal(open_like(str(path), data.schema).rows().x, data.rows().x)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_and_byte_order_mark(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    lines = ["a,b,c"] + [f'{i * i},"x;|{i % 2}",{i / 3:.2f}' for i in range(8)]
    path.write_text("\n".join(line.replace(",", delimiter) for line in lines), encoding="utf-8-sig")
    data = open_data(path)
    assert [c.name for c in data.schema.example.columns] == ["a", "b", "c"]
    assert data.schema.example.columns[1].categories == ("x;|0", "x;|1")


def test_csv_with_missing_values(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,c,b,x\n1,red,true,1.5\nNA,,false,nan\n3,NA,,2.5\nN/A,blue,true,3.5\n")
    data = open_data(path)
    assert data.schema.extra["missing"] == {"n": 2, "c": 2, "b": 1, "x": 1}
    x = data.rows().x
    assert x[:, 1].tolist() == [1, 2, 2, 0]
    assert x[:, 2].tolist() == [1, 0, 2, 1]
    assert torch.isnan(x[1, 0])
    out = decode(data.schema, x)
    assert [str(t) for t in out.dtypes] == ["Int64", "str", "boolean", "float64"] or out["c"].dtype == object
    assert torch.equal(open_like(out, data.schema).rows().x.nan_to_num(-1), x.nan_to_num(-1))


def test_type_that_changes_late_in_a_csv_file(tmp_path, monkeypatch):
    from pushforward.data import textfiles

    monkeypatch.setattr(textfiles, "BLOCK", 64)
    path = tmp_path / "late.csv"
    rows = [f"{i % 5},{i % 7},{i % 3},{'' if i < 60 else i % 2 == 0}" for i in range(100)]
    rows[80] = "2.5,x,1,True"
    path.write_text("a,b,c,d\n" + "\n".join(rows))
    fails(r"late.csv, row 81 \(line 82\): 'x' is not a number", path)
    data = open_data(path, types={"b": "category"})
    columns = {c.name: c for c in data.schema.example.columns}
    assert columns["a"].kind.value == "number"
    assert columns["a"].dtype == "float64"
    assert columns["b"].categories == (*"0123456", "x")
    assert columns["d"].kind.value == "boolean"
    assert len(data) == 100


def test_first_column_without_a_name_is_the_index_of_pandas(frame, tmp_path):
    frame.to_csv(tmp_path / "a.csv")
    data = open_data(tmp_path / "a.csv")
    assert data.schema.example.columns[0].name == "Unnamed: 0"
    assert data.schema.example.columns[0].kind.value == "identifier"
    frame.iloc[::2].to_parquet(tmp_path / "a.parquet")
    assert "__index_level_0__" not in [c.name for c in open_data(tmp_path / "a.parquet").schema.example.columns]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.csv is empty"),
        ("\n\n", "bad.csv is empty"),
        ("a,b\n", "bad.csv has no rows below the names of its columns"),
        ("a,b", "bad.csv has no rows below the names of its columns"),
        ("a,b\n1,2\n3,4\n", "bad.csv has 2 rows: at least 4"),
        ("a,b\n1,2\n3,4\n5,6,7\n8,9\n", "bad.csv, line 4: 3 fields, but the first line names 2 columns"),
        ("a,b\n1,2\n3,4\n5\n8,9\n", "bad.csv, line 4: 1 field, but"),
        ("a,b\n1,\n3,\n5,\n8,\n", "column 'b' of bad.csv has no values: leave it out with --drop b"),
        ("a,b\n1,2\n3,inf\n5,2\n8,9.5\n", "column 'b' of bad.csv, row 2"),
        ("a,b\n1,2\n\n3,2\n5,5\n8,9\n9,x\n", r"column 'b' of bad.csv, row 5 \(line 7\): 'x' is not a number"),
        ("a,a\n1,2\n3,4\n5,6\n7,8\n", "more than one column named 'a'"),
        ('a,b\n1,"x\n3,4\n', "bad.csv"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    fails(message, path)


def test_bad_bytes(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"a,b\n1,x\n2,caf\xe9\n3,y\n4,z\n")
    fails("not UTF-8 text .byte 0xe9 at position 13", path)
    path.write_bytes("a,b\n1,2\n".encode("utf-16"))
    fails("not UTF-8", path)
    for ending in ("parquet", "npy", "npz", "jsonl"):
        other = tmp_path / f"junk.{ending}"
        other.write_bytes(b"junk" * 9)
        fails(f"junk.{ending}", other)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    fails("cut.npy cannot be read", tmp_path / "cut.npy")
    fails("unknown ending '.xyz'", _touch(tmp_path / "a.xyz"))


def _touch(path):
    path.write_text("hello")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.jsonl is empty"),
        ('{"a": 1}\n{"a": "x"}\n', "in row 2"),
        ('{"a": 1, "b": {"c": 1}}\n' * 5, "column 'b' of bad.jsonl holds nested"),
        ('[{"a": 1}]', "JSON list"),
    ],
)
def test_bad_json(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    fails(message, path)


# --------------------------------------------------------------------------------------------------------------- names


def test_names_that_are_nothing(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    (tmp_path / "sales.csv").write_text("a\n1\n")
    fails("there is no file or folder '.*sale.csv': did you mean 'sales.csv'", str(tmp_path / "sale.csv"))
    fails("there is no file or folder", tmp_path / "nowhere")
    fails("neither a file nor a bundled data set: did you mean 'mnist'", "mnst")
    fails(r"neither a file nor a bundled data set.*hub.*no network", "someone/something")
    fails("a dict is no data", {"a": 1})


def test_hub_name(monkeypatch):
    split = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"a": [0.1, 0.5, 0.7, 2.0, 3.0], "k": list("xyxyx")}),
            "test": datasets.Dataset.from_dict({"a": [0.2], "k": ["y"]}),
        }
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name: split)
    data = open_data("someone/something", target="k")
    assert (len(data), data.test.tolist(), data.name) == (5, [5], "someone/something")


# --------------------------------------------------------------------------------------------------------------- roles


def test_roles(frame):
    data = open_data(frame, target="count", condition=["colour", "ok"], drop="when")
    assert data.schema.extra["order"] == ["id", "size", "count", "colour", "ok"]
    assert [c.name for c in data.schema.conditions] == ["colour", "ok"]
    rows = data.rows(np.arange(3))
    assert rows.x.shape == (3, 1)
    assert rows.columns["count"].tolist() == frame["count"][:3].tolist()
    assert rows.columns["count"].dtype == torch.float64
    json_round_trip(data.schema)
    other = open_data(data, target="colour")
    assert [c.name for c in other.schema.example.learned] == ["size", "count", "ok"]
    assert other.rows().x[:, 1].tolist() == frame["count"].tolist()
    assert open_data(data) is data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "colur"}, "no column 'colur' for the target: did you mean 'colour'"),
        ({"condition": "colur"}, "no column 'colur' for the condition: did you mean 'colour'"),
        ({"condition": "colour", "target": "colour"}, "named twice"),
        ({"target": "id"}, "of type identifier"),
        ({"drop": ["colur"]}, "no column 'colur' to drop: did you mean 'colour'"),
        ({"types": {"colur": "number"}}, "did you mean 'colour'"),
        ({"drop": ["size", "count", "colour", "when"], "target": "ok"}, "no column left to learn"),
    ],
)
def test_bad_roles(frame, options, message):
    fails(message, frame, **options)


def test_memory_stays_with_the_caller(frame):
    values = np.random.default_rng(0).normal(size=(9, 2))
    before = values.copy()
    data = open_data(values)
    data.store.x[:] = 0
    assert (values == before).all()
    tensor = torch.ones(9, 2, dtype=torch.float64)
    open_data(tensor).store.x[:] = 0
    assert (tensor == 1).all()
    kept = frame.copy(deep=True)
    open_data(frame).store.x[:] = 0
    assert_frame_equal(frame, kept)


# -------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_vectors(dtype, tmp_path):
    values = (np.random.default_rng(0).normal(size=(9, 3)) * 10).astype(dtype)
    np.save(tmp_path / "v.npy", values)
    for source, container in ((values, "numpy"), (torch.from_numpy(values), "torch"), (tmp_path / "v.npy", "numpy")):
        data = open_data(source)
        assert data.schema.example == Vector(3, container, dtype)
        x = data.rows().x
        assert x.dtype == torch.float64
        out = decode(data.schema, x)
        assert type(out) is (torch.Tensor if container == "torch" else np.ndarray)
        assert str(out.dtype).removeprefix("torch.") == dtype
        assert (np.asarray(out) == values).all()
        assert torch.equal(open_like(values, data.schema).rows().x, x)
        json_round_trip(data.schema)
    mapped = open_data(tmp_path / "v.npy", memory_limit=10)
    assert isinstance(mapped.store, ArrayStore)
    assert (mapped.rows(np.array([7, 2])).x.numpy() == values[[7, 2]]).all()


def test_one_dimension_is_one_number_a_row():
    assert open_data(np.arange(5.0)).rows().x.shape == (5, 1)


def test_labels_of_arrays(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 3
    np.savez(tmp_path / "v.npz", x=x, y=y)
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for source in (tmp_path / "v.npz", pairs):
        data = open_data(source, condition="label")
        assert data.schema.conditions[0].categories == (0, 1, 2)
        assert data.rows().columns["label"].tolist() == y.tolist()
        assert "columns" not in data.schema.extra
        json_round_trip(data.schema)
        plain = open_data(source)
        assert plain.schema.conditions == ()
        assert plain.rows().columns["label"].tolist() == y.tolist()
        again = open_like(source, data.schema)
        assert torch.equal(again.rows().columns["label"], data.rows().columns["label"])
        with pytest.raises(DataError, match="lacks the column 'label'"):
            open_like(x, data.schema)
    fails("no column 'lable' for the target: did you mean 'label'", pairs, target="lable")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2, 2, 2)), "shape"),
        (np.array(1.0), "shape"),
        (np.zeros((4, 2), dtype=object), "type object"),
        (np.array([["a", "b"]] * 4), "pass a DataFrame"),
        (np.array([[0, 0], [0, np.nan], [0, 0], [0, 0]]), "data, row 2, column 2: the value is nan.*pass a DataFrame"),
        (np.array([[0, 0], [0, 0], [np.inf, 0], [0, 0]]), "data, row 3, column 1: the value is inf"),
        (np.zeros((2, 3)), "data has 2 rows: at least 4"),
        (np.zeros((4, 2), dtype=complex), "type complex128"),
        (np.full((5, 4, 4), -3.5), "negative pixels"),
    ],
)
def test_bad_arrays(array, message, tmp_path):
    fails(message, array)
    if array.dtype == object:
        np.save(tmp_path / "o.npy", array, allow_pickle=True)
        fails("o.npy .* holds Python objects", tmp_path / "o.npy")


# -------------------------------------------------------------------------------------------------------------- others


def test_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 5, 4), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", images=pixels, labels=np.arange(8) % 2)
    data = open_data(tmp_path / "p.npz", target="label")
    assert data.schema.example == Image(1, 5, 4, 256)
    assert data.schema.target.name == "label"
    json_round_trip(data.schema)
    assert (decode(data.schema, data.rows().x) == pixels).all()
    assert torch.equal(open_like(pixels, data.schema).rows().x, data.rows().x)
    with pytest.raises(DataError, match="5×4"):
        open_like(pixels[:, :4], data.schema)
    for kind in ("a", "b"):
        (tmp_path / "folder" / kind).mkdir(parents=True)
        for i in range(4):
            Pillow.fromarray(pixels[i]).save(tmp_path / "folder" / kind / f"{i}.png")
    folder = open_data(tmp_path / "folder", condition="label")
    assert folder.schema.conditions[0].categories == ("a", "b")
    assert "columns" not in folder.schema.extra
    again = open_like(tmp_path / "folder", folder.schema)
    assert again.rows().columns["label"].tolist() == [0] * 4 + [1] * 4
    with pytest.raises(DataError, match="expected images of 1 channels, 5×4"):
        open_like(open_data(pixels[:, :4]), data.schema)
    fails("no columns, so 'label' cannot be its target", pixels, target="label")


def test_texts(tmp_path):
    data = open_data(["abba", "baab", "bbbb", "aaaa"], length=4)
    assert isinstance(data.schema.example, Tokens)
    assert decode(data.schema, data.rows().x) == ["abba", "baab", "bbbb", "aaaa"]
    assert decode(data.schema, open_like(["bbab"], data.schema).rows().x) == ["bbab"]
    with pytest.raises(DataError, match="'c'"):
        open_like(["abca"], data.schema)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_text("hello world, " * 20)
    for source in (tmp_path / "t", tmp_path / "t" / "a.txt"):
        opened = open_data(source, length=8)
        assert opened.schema.example.length == 8
        assert torch.equal(open_like(source, opened.schema).rows().x, opened.rows().x)


def test_bundled_and_hugging_face():
    data = open_data("digits", condition="label", name="mine")
    assert data.name == "mine"
    assert data.schema.conditions[0].levels == 10
    assert len(open_like("digits", data.schema).rows().columns["label"]) == len(data)
    features = datasets.Features({"a": datasets.Value("float32"), "k": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"a": [0.1, 0.5, 0.7, 2.0, 3.0], "k": [0, 1, 1, 0, 1]}, features=features)
    data = open_data(table, target="k")
    assert data.schema.target.categories == ("no", "yes")
    assert data.rows().columns["k"].tolist() == [0, 1, 1, 0, 1]
    assert decode(data.schema, data.rows().x)["a"].dtype == "float32"
    texts = open_data(datasets.Dataset.from_dict({"text": ["ab", "ba", "bb", "aa"]}), length=2)
    assert decode(texts.schema, texts.rows().x) == ["ab", "ba", "bb", "aa"]


def test_arrow_and_polars(frame):
    for source in (pa.Table.from_pandas(frame), pl.from_pandas(frame), pl.from_pandas(frame).lazy()):
        data = open_data(source)
        assert torch.equal(data.rows().x, open_data(frame).rows().x)


# ------------------------------------------------------------------------------------------------------------ open_like


def test_new_data_is_matched_by_name(frame):
    data = open_data(frame, target="count", condition="ok")
    fewer = frame[["ok", "when", "colour", "size"]].assign(more=[{}] * len(frame))
    new = open_like(fewer, data.schema)
    assert torch.equal(new.rows().x, data.rows().x)
    assert set(new.rows().columns) == {"ok"}
    assert new.schema is data.schema
    assert set(open_like(pl.from_pandas(frame), data.schema, need_target=True).rows().columns) == {"ok", "count"}
    again = open_like(data, data.schema)
    assert torch.equal(again.rows().x, data.rows().x)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f.drop(columns=["size", "when"]), {}, "lacks the columns 'size', 'when'"),
        (lambda f: f.drop(columns="ok"), {}, "lacks the columns 'ok'"),
        (lambda f: f.drop(columns="count"), {"need_target": True}, "lacks the columns 'count'"),
        (lambda f: f.assign(colour="pink"), {}, "column 'colour' of the new data, row 1: 'pink' was not among the 3"),
        (lambda f: f.assign(size=np.inf), {}, "column 'size' of the new data, row 1"),
        (lambda f: f.assign(size=None), {}, "column 'size' of the new data, row 1 is missing"),
        (lambda f: f.assign(size="big"), {}, "column 'size' of the new data, row 1: 'big' is not a number"),
        (lambda f: f.assign(count=1.5), {}, "row 1: 1.5 is not a whole number"),
        (lambda f: f.assign(when="today"), {}, "row 1: 'today' is not an ISO date"),
        (lambda f: f.iloc[:0], {}, "no rows"),
        (lambda f: np.zeros((4, 2)), {}, "expected a table"),
    ],
)
def test_new_data_that_does_not_fit(frame, change, options, message):
    schema = open_data(frame, target="count", condition="ok").schema
    with pytest.raises(DataError, match=message) as caught:
        open_like(change(frame), schema, **options)
    assert "\n" not in str(caught.value)


def test_holes(frame):
    schema = open_data(frame).schema
    partial = frame.astype({"count": "Int64", "ok": "boolean"})
    partial.loc[0, ["size", "colour", "ok", "when", "count"]] = None
    x = open_like(partial, schema, holes=True).rows().x
    assert torch.isnan(x[0]).all()
    assert not torch.isnan(x[1:]).any()
    vectors = open_data(np.random.default_rng(0).normal(size=(9, 3))).schema
    assert torch.isnan(open_like(np.array([[1.0, np.nan, 2.0]]), vectors, holes=True).rows().x[0, 1])
    for bad, message in (
        (np.zeros((4, 2)), "2 numbers a row: expected 3"),
        (np.zeros((4, 3, 1)), "expected"),
        (frame, "table"),
    ):
        with pytest.raises(DataError, match=message):
            open_like(bad, vectors)


def test_new_csv_is_read_by_the_types_learned(tmp_path):
    codes = ["007", "012", "100", "012", "007", "100"]
    data = open_data(pd.DataFrame({"code": codes, "x": [0.5, 1, 2, 3, 4, 9]}), types={"code": "category"})
    path = tmp_path / "new.csv"
    path.write_text("x,code\n1.5,012\n2.5,100\n")
    assert open_like(path, data.schema).rows().x.tolist() == [[1, 1.5], [2, 2.5]]
    path.write_text("x,code\n1.5,012\n2.5,101\n")
    with pytest.raises(DataError, match=r"column 'code' of new\.csv, row 2: '101'"):
        open_like(path, data.schema)


# ------------------------------------------------------------------------------------------------------------- describe


def test_describe(frame):
    from rich.console import Console

    data = open_data(frame.assign(unit="kg"), target="count", condition="colour")
    found = summary(data)
    assert json.loads(json.dumps(found)) == found
    roles = {row["name"]: row["role"] for row in found["columns"]}
    assert roles == {
        "id": "left out",
        "size": "learned",
        "count": "target",
        "colour": "condition",
        "when": "learned",
        "ok": "learned",
        "unit": "carried",
    }
    assert [row["name"] for row in found["columns"]] == [*frame.columns, "unit"]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(describe(data))
    text = console.export_text()
    assert "blue, green, red" in text
    assert "2024-01-01 to 2024-05-25" in text
    assert summary(open_data(np.zeros((5, 2)) + np.eye(5, 2)))["example"] == "vectors of 2 numbers"


def test_parquet_of_categories(tmp_path):
    table = pa.table({"k": pa.array(["a", "b", "a", "c"]).dictionary_encode(), "x": [0.5, 1.5, 2.5, 9.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet")
    assert isinstance(data.schema.example, Table)
    assert decode(data.schema, data.rows().x)["k"].dtype == "category"
