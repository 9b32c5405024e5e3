"""Signals and sets of points on the command line: what is found in them, and the files samples go to."""

import json
import sys

import numpy as np
import pytest
from scipy.io import wavfile

from pushforward.cli.arguments import UsageError
from pushforward.cli.output import destination, emit, kind_of
from pushforward.core.errors import PushforwardError
from pushforward.core.schema import Points, Schema, Signal
from pushforward.data.sources import open_data

rng = np.random.default_rng(0)
HEARD = Schema(Signal(1, 20, 100, flat=True, dtype="float32"))
UNHEARD = Schema(Signal(2, 20))


def go(value, out, schema, run, **more):
    where = destination(None if out is None else str(out), kind_of(schema), force=False, json=more.pop("json", False), run=run)
    emit(value, where, schema=schema, **more)


def test_inspect_tells_what_it_took_an_array_for(cli):
    np.save("a.npy", rng.normal(size=(6, 20, 3)))
    said = cli("inspect", "a.npy")
    assert said.code == 0
    assert "sets of 20 points in 3 dimensions" in said.out
    said = cli("inspect", "a.npy", "--kind", "signal", "--length", "2")
    assert "20 channels and 2 samples" in said.out
    said = cli("inspect", "a.npy", "--kind", "signal", "--json")
    assert said.json["kind"] == "signal"
    assert len(said.json["columns"]) == 20
    said = cli("inspect", "a.npy", "--kind", "vector")
    assert said.code == 2
    assert "expected (N, D) for vectors" in said.err
    said = cli("inspect", "a.npy", "--kind", "sound")
    assert (said.code, len(said.lines)) == (2, 1)
    assert "one of vector, image, signal, points" in said.err


def test_inspect_recordings(cli):
    import os

    os.mkdir("sounds")
    for i in range(5):
        wavfile.write(f"sounds/{i}.wav", 100, rng.normal(size=50 + i).astype(np.float32))
    said = cli("inspect", "sounds")
    assert said.code == 0
    assert "signals of 1 channel" in said.out
    assert "s at 100 Hz" in said.out


def test_recordings_are_written_as_a_folder_or_an_array(tmp_path, capsys):
    x = rng.uniform(-0.9, 0.9, (5, 20)).astype(np.float32)
    go(x, f"{tmp_path}/new/", HEARD, tmp_path)
    back = open_data(tmp_path / "new")
    assert back.schema.example == HEARD.example
    assert np.allclose(back.rows().x[:, 0], x, atol=1e-4)
    with pytest.raises(PushforwardError, match="not empty"):
        go(x, f"{tmp_path}/new/", HEARD, tmp_path)
    go(x, tmp_path / "x.npz", HEARD, tmp_path)
    back = open_data(tmp_path / "x.npz")
    assert back.schema.example == HEARD.example
    assert np.array_equal(back.rows().x[:, 0], x)
    go(x, None, HEARD, tmp_path)
    assert len(list((tmp_path / "samples").glob("*.wav"))) == 5
    assert "5 recordings written" in capsys.readouterr().err


@pytest.mark.parametrize(("schema", "noun"), [(UNHEARD, "signal"), (Schema(Points(20, 2)), "sets of points")])
def test_other_arrays_are_written_as_arrays(tmp_path, capsys, schema, noun):
    x = rng.normal(size=(5, *schema.example.shape))
    for name in ("x.npy", "x.npz"):
        go(x, tmp_path / name, schema, tmp_path)
        assert np.array_equal(open_data(tmp_path / name, kind=schema.example.name).rows().x, x)
    go(x, None, schema, tmp_path)
    assert (tmp_path / "samples.npz").exists()
    assert noun in capsys.readouterr().err
    go(x, None, schema, tmp_path, json=True)
    assert np.allclose(json.loads(capsys.readouterr().out)["rows"], x)
    for out in ("x.csv", "folder/", "x"):
        with pytest.raises(UsageError, match=r"can be written as .npz, .npy$"):
            go(x, tmp_path / out if "/" not in out else f"{tmp_path}/{out}", schema, tmp_path)


def test_arrays_go_to_a_pipe(tmp_path, capfdbinary, monkeypatch):
    x = rng.normal(size=(5, 20, 2))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    go(x, "-.npy", Schema(Points(20, 2)), tmp_path)
    assert capfdbinary.readouterr().out[:6] == b"\x93NUMPY"
