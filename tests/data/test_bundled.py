import gzip
import hashlib
import io
import os
import sys
import types
import urllib.error

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.core.schema import Image, Tokens, Vector
from pushforward.data import bundled, homes, known, toys

real = pytest.mark.skipif(
    not os.environ.get("PUSHFORWARD_DATA"), reason="PUSHFORWARD_DATA is not set: the real files are needed"
)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No local data, an empty cache and no network."""

    def refuse(*args, **options):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.delenv("PUSHFORWARD_DATA", raising=False)
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path


class Web:
    """Answers from a table of contents by URL, and counts the questions."""

    def __init__(self, contents, lands=None):
        self.contents, self.lands, self.asked = contents, lands, []

    def __call__(self, request, timeout):
        assert timeout > 0
        self.asked.append(request.full_url)
        if request.full_url not in self.contents:
            raise urllib.error.URLError("not found")
        answer = io.BytesIO(self.contents[request.full_url])
        answer.geturl = lambda: self.lands or request.full_url
        return answer


def idx(array, code=0x08):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def remotes(contents):
    return tuple(known.Remote(url, hashlib.sha256(content).hexdigest()) for url, content in contents.items())


def fake(monkeypatch, name, contents, lands=None):
    web = Web(contents, lands)
    entry = known.CATALOG[name]
    monkeypatch.setitem(known.CATALOG, name, known.Bundled(entry.about, entry.kind, entry.local, remotes(contents)))
    monkeypatch.setattr("urllib.request.urlopen", web)
    return web


def test_idx():
    for code, dtype in ((0x08, "uint8"), (0x0B, "int16"), (0x0D, "float32")):
        array = np.arange(12).reshape(3, 2, 2).astype(dtype)
        for content in (idx(array, code), gzip.compress(idx(array, code))):
            found = bundled.read_idx(content)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, array)
    good = idx(np.arange(6, dtype=np.uint8))
    with pytest.raises(DataError, match="13 bytes, but 14"):
        bundled.read_idx(good[:-1])
    with pytest.raises(DataError, match="not an IDX"):
        bundled.read_idx(b"PK\x03\x04....")
    with pytest.raises(DataError, match="not an IDX"):
        bundled.read_idx(b"")
    with pytest.raises(DataError, match="damaged"):
        bundled.read_idx(gzip.compress(good)[:-9])


def test_digits(alone):
    data = bundled.open_bundled("digits")
    assert data.schema.example == Image(1, 8, 8, 17)
    assert len(data) == 1797
    assert data.test is None
    assert data.schema.extra["columns"][0].categories == tuple(range(10))
    assert data.origin == "digits"
    small = bundled.open_bundled("digits", resize=4)
    assert small.schema.example == Image(1, 4, 4, 256)


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys(alone, name):
    data = bundled.open_bundled(name)
    assert data.schema.example == Vector(2, dtype="float32")
    x = data.rows().x
    assert x.shape == (known.TOY_POINTS, 2)
    assert x.dtype == torch.float64
    assert torch.equal(x, bundled.open_bundled(name).rows().x)


def test_mnist_is_fetched_checked_and_kept(alone, monkeypatch):
    train, test = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2), np.full((2, 2, 2), 9, np.uint8)
    arrays = (train, np.array([3, 1, 2, 3, 1], np.uint8), test, np.array([2, 1], np.uint8))
    contents = {f"https://home/{i}.gz": gzip.compress(idx(a)) for i, a in enumerate(arrays)}
    web = fake(monkeypatch, "mnist", contents)
    data = bundled.open_bundled("mnist")
    assert data.schema.example == Image(1, 2, 2)
    assert data.index.tolist() == [0, 1, 2, 3, 4]
    assert data.test.tolist() == [5, 6]
    np.testing.assert_array_equal(data.store.x[:, 0], np.concatenate([train, test]))
    assert data.store.columns["label"].tolist() == [2, 0, 1, 2, 0, 1, 0]
    assert len(web.asked) == 4

    bundled.open_bundled("mnist")
    assert len(web.asked) == 4
    cached = alone / "cache" / "mnist"
    assert sorted(os.listdir(cached)) == ["0.gz", "1.gz", "2.gz", "3.gz"]
    (cached / "1.gz").write_bytes(b"damaged")
    bundled.open_bundled("mnist")
    assert web.asked[4:] == ["https://home/1.gz"]


def test_a_wrong_file_is_refused(alone, monkeypatch):
    url = "https://home/input.txt"
    web = fake(monkeypatch, "shakespeare", {url: b"to be" * 100})
    web.contents[url] = b"something else"
    with pytest.raises(DataError, match=r"SHA-256 .*Set PUSHFORWARD_DATA"):
        bundled.open_bundled("shakespeare")
    assert not (alone / "cache" / "shakespeare" / "input.txt").exists()

    web.contents[url] = b"to be" * 100
    web.lands = "http://elsewhere/input.txt"
    with pytest.raises(DataError, match="not https"):
        bundled.open_bundled("shakespeare")
    web.lands = None
    monkeypatch.setattr(homes, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        bundled.open_bundled("shakespeare")
    monkeypatch.setattr(homes, "MAX_BYTES", 1000)
    data = bundled.open_bundled("shakespeare", length=10)
    assert (data.name, len(data)) == ("shakespeare", 50)


def test_tables_without_a_checksum_are_checked_by_columns_and_rows():
    remote = known.Remote("https://home/p.csv", header=("a", "b"), rows=2)
    assert homes._problem(remote, b'"a","b"\n1,2\r\n3,4\n') is None
    assert "1 rows" in homes._problem(remote, b"a,b\n1,2\n")
    assert "columns" in homes._problem(remote, b"<html>")
    assert "columns" in homes._problem(remote, b"")


def test_tables_go_through_the_table_reader(alone, monkeypatch):
    def open_table(path, *, types=None, name=None):
        asked.append((path.read_text(), types, name))
        return bundled.open_bundled("moons")

    asked = []
    monkeypatch.setitem(sys.modules, "pushforward.data.tabular", types.SimpleNamespace(open_table=open_table))
    content = "a,b\n1,2\n3,4\n"
    fake(monkeypatch, "penguins", {"https://home/p.csv": content.encode()})
    assert bundled.open_bundled("penguins", types={"a": "number"}).origin == "penguins"
    assert asked == [(content, {"a": "number"}, "penguins")]
    with pytest.raises(DataError, match="none with a known checksum"):
        bundled.open_bundled("flights")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "binarized-mnist", "emoji", "shakespeare"])
def test_offline_says_what_was_tried(alone, name):
    with pytest.raises(DataError, match=f"cannot get '{name}'.*Set PUSHFORWARD_DATA") as caught:
        bundled.open_bundled(name)
    remote = known.CATALOG[name].remote
    assert ("no network in tests" if remote else "none with a known checksum") in str(caught.value)


def test_the_local_folder_comes_first(alone, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_DATA", str(alone))
    with pytest.raises(DataError, match=r"emoji32\.npz \(not there\)"):
        bundled.open_bundled("emoji")
    (alone / "emoji").mkdir()
    pixels = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    sets, categories = np.array([1, 0], np.uint8), np.array([0, 1], np.uint8)
    names = np.array(["Flags", "Animals"])
    arrays = {"images": pixels, "set": sets, "category": categories, "category_names": names}
    arrays |= {"subcategory": sets, "subcategory_names": np.array(["cats", "dogs"]), "caption": np.array(["a dog", "a cat"])}
    np.savez(alone / "emoji" / "emoji32.npz", **arrays)
    data = bundled.open_bundled("emoji")
    levels = [("noto", "twemoji"), ("Animals", "Flags"), ("cats", "dogs"), ("a cat", "a dog")]
    assert [c.categories for c in data.schema.extra["columns"]] == levels
    assert data.rows().columns["set"].tolist() == [0, 1]
    assert data.rows().columns["category"].tolist() == [1, 0]

    (alone / "emoji" / "emoji32.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="damaged"):
        bundled.open_bundled("emoji")
    (alone / "mnist").mkdir()
    np.savez(alone / "mnist" / "mnist.npz", x_train=pixels)
    with pytest.raises(DataError, match="y_train"):
        bundled.open_bundled("mnist")


def test_packed_bits(alone, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_DATA", str(alone))
    (alone / "binarized_mnist").mkdir()
    bits = np.random.default_rng(0).integers(0, 2, size=(6, 784), dtype=np.uint8)
    packed, labels = np.packbits(bits, axis=1), np.arange(6, dtype=np.uint8)
    parts = {"train": slice(0, 3), "valid": slice(3, 4), "test": slice(4, 6)}
    arrays = {k: packed[s] for k, s in parts.items()} | {f"y_{k}": labels[s] for k, s in parts.items()}
    np.savez(alone / "binarized_mnist" / "binarized_mnist.npz", **arrays)
    data = bundled.open_bundled("binarized-mnist")
    assert data.schema.example == Image(1, 28, 28, 2)
    np.testing.assert_array_equal(data.store.x.flatten(1), bits)
    assert data.test.tolist() == [4, 5]
    assert data.store.columns["label"].tolist() == list(range(6))


def test_names_and_options(alone):
    assert set(toys.TOYS) < set(known.NAMES)
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        bundled.open_bundled("fashion_mnist")
    with pytest.raises(DataError, match="resize does not apply"):
        bundled.open_bundled("moons", resize=8)
    with pytest.raises(DataError, match="types does not apply"):
        bundled.open_bundled("moons", types={"a": "number"})
    for entry in known.CATALOG.values():
        for remote in entry.remote:
            assert remote.url.startswith("https://")
            assert (len(remote.sha256) == 64) if remote.sha256 else remote.rows


@real
@pytest.mark.parametrize(
    ("name", "kind", "rows", "tested"),
    [
        ("fashion-mnist", Image(1, 28, 28), 60_000, 10_000),
        ("mnist", Image(1, 28, 28), 60_000, 10_000),
        ("binarized-mnist", Image(1, 28, 28, 2), 60_000, 10_000),
        ("emoji", Image(3, 32, 32), 7572, None),
    ],
)
def test_the_real_images(name, kind, rows, tested):
    data = bundled.open_bundled(name)
    assert data.schema.example == kind
    assert len(data) == rows
    assert (None if data.test is None else len(data.test)) == tested
    labels = next(iter(data.store.columns.values()))
    assert len(labels.unique()) == len(data.schema.extra["columns"][0].categories)


@real
def test_the_real_text():
    kind = bundled.open_bundled("shakespeare").schema.example
    assert isinstance(kind, Tokens)
    assert len(kind.vocabulary) == 65


@real
@pytest.mark.parametrize(("name", "rows"), [("penguins", 344), ("diamonds", 53_940)])
def test_the_real_tables(name, rows):
    data = bundled.open_bundled(name)
    assert len(data) == rows
    assert data.name == name
