"""Tables larger than memory: mapped files, constant memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.data import stream
from pushforward.data.like import decode, open_like
from pushforward.data.sources import open_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "arrow"


def table(n=500):
    rng = np.random.default_rng(0)
    gaps = rng.random(n) < 0.1
    return pd.DataFrame(
        {
            "x": np.where(gaps, np.nan, rng.normal(size=n)),
            "k": np.array(["a", "b", None], dtype=object)[rng.integers(0, 3, n)],
            "n": rng.integers(0, 50, n),
            "t": pd.date_range("2020-01-01", periods=n, freq="D").strftime("%Y-%m-%d"),
            "ok": rng.random(n) < 0.5,
        }
    )


def same(a, b):
    assert torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "frame", "datasets"])
def test_mapped_rows_are_those_in_memory(tmp_path, ending, cache):
    frame = table()
    path = tmp_path / f"big.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif ending == "frame":
        path = frame
    else:
        import datasets

        path = datasets.Dataset.from_pandas(frame)
    small = open_data(path, target="ok", condition="k")
    big = open_data(path, target="ok", condition="k", memory_limit=100)
    assert isinstance(big.store, stream.ArrowStore)
    assert big.schema == small.schema
    index = np.array([499, 3, 3, 250, 0])
    for at in (index, slice(None), slice(10, 20)):
        got, expected = big.rows(at), small.rows(at)
        same(got.x, expected.x)
        for name in ("ok", "k"):
            same(got.columns[name], expected.columns[name])
    parts = big.split(seed=0)
    assert len(parts.train) + len(parts.validation) + len(parts.test) == 500
    same(open_like(path, small.schema, memory_limit=100).rows(index).x, small.rows(index).x)
    assert decode(big.schema, big.rows(index).x)["n"].tolist() == frame["n"].iloc[index].tolist()
    # One copy of the file for all its columns, one for those that open_like reads; none of what is in memory already.
    assert len(list(cache.glob("*"))) == (2 if ending in ("csv", "parquet", "jsonl") else 0)


def test_cache_is_keyed_by_the_state_of_the_file(tmp_path, cache):
    path = tmp_path / "a.csv"
    table().to_csv(path, index=False)
    open_data(path, memory_limit=100)
    first = list(cache.glob("*.arrow"))
    made = first[0].stat().st_mtime_ns
    open_data(path, memory_limit=100, types={"n": "category"})
    assert [p.stat().st_mtime_ns for p in cache.glob("*.arrow")] == [made]
    table(510).to_csv(path, index=False)
    assert len(open_data(path, memory_limit=100)) == 510
    assert len(list(cache.glob("*"))) == 1  # the copy of the file as it was is gone


def test_nothing_is_left_where_conversion_fails(tmp_path, cache, monkeypatch):
    path = tmp_path / "a.csv"
    table().to_csv(path, index=False)

    def broken(reader, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(stream, "_write", broken)
    with pytest.raises(OSError, match="disk full"):
        open_data(path, memory_limit=100)
    assert not list(cache.glob("*"))


def test_new_rows_are_checked_before_they_are_mapped(tmp_path):
    path = tmp_path / "a.csv"
    table().to_csv(path, index=False)
    schema = open_data(path).schema
    other = table()
    other.loc[321, "k"] = "z"
    other.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"column 'k' of a\.csv, row 322: 'z'"):
        open_like(path, schema, memory_limit=100)


SCRIPT = """
import sys, threading, time
import numpy as np, psutil, torch, datasets, pyarrow, pyarrow.parquet, pandas
from pushforward.data.sources import open_data
me = psutil.Process()
def private():  # mapped pages of the file are the system's to take back, so they do not count
    m = me.memory_info()
    return m.rss - m.shared
open_data(sys.argv[2], memory_limit=0).rows(slice(0, 10))  # what libraries allocate once
base = peak = private()
stop = False
def watch():
    global peak
    while not stop:
        peak = max(peak, private())
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
data = open_data(sys.argv[1], memory_limit=2**20)
total = 0.0
for start in range(0, len(data), 8192):
    total += float(data.rows(slice(start, start + 8192)).x.sum())
stop = True; thread.join()
print(type(data.store).__name__, len(data), peak - base, total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts private memory as Linux does")
def test_memory_is_constant(tmp_path):
    rows, width = 2_000_000, 8
    block = np.random.default_rng(0).integers(0, 1_000, (20_000, width)).astype("float64") / 7
    names = [f"c{i}" for i in range(width)]
    big, small = tmp_path / "big.parquet", tmp_path / "small.parquet"
    part = pa.table(list(block.T), names=names)
    pq.write_table(part, small)
    with pq.ParquetWriter(big, part.schema) as writer:
        for _ in range(rows // len(block)):
            writer.write_table(part)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(big), str(small)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    store, count, growth, total = done.stdout.split()
    assert (store, int(count)) == ("ArrowStore", rows)
    assert float(total) == pytest.approx(block.sum() * rows / len(block))
    decoded = rows * width * 8
    assert int(growth) < 0.5 * decoded, f"memory grew by {int(growth) / 2**20:.0f} MiB of {decoded / 2**20:.0f}"
