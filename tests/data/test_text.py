import string

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.core.errors import DataError
from pushforward.core.schema import Tokens
from pushforward.data import text


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def test_a_file_becomes_consecutive_rows(tmp_path):
    data = text.open_text(write(tmp_path / "a.txt", "abcd" * 5 + "zz"), length=5)
    kind = data.schema.example
    assert kind == Tokens(("a", "b", "c", "d", "z"), 5)
    assert len(data) == 4
    rows = data.rows().x
    assert rows.dtype == torch.int64
    assert text.decode(kind, rows) == ["abcda", "bcdab", "cdabc", "dabcd"]
    assert data.name == "a.txt"
    assert data.origin == str(tmp_path / "a.txt")
    assert "2 characters" in data.notes[0]
    np.testing.assert_array_equal(data.rows(np.array([2, 0])).x, rows[[2, 0]])


def test_codes_are_small_and_wide_alphabets_work(tmp_path):
    assert text.open_text(write(tmp_path / "a.txt", "ab" * 200)).store.codes.dtype == np.uint8
    wide = "".join(chr(0x4E00 + i) for i in range(300)) * 2
    data = text.open_text(write(tmp_path / "b.txt", wide), length=10)
    assert data.store.codes.dtype == np.uint16
    assert "".join(text.decode(data.schema.example, data.rows().x)) == wide


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_characters_may_be_split_between_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "_CHUNK", chunk)
    content = "aé漢😀" * 4
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    data = text.open_text(path, length=4)
    assert "".join(text.decode(data.schema.example, data.rows().x)) == content


def test_a_folder_is_one_text(tmp_path):
    write(tmp_path / "2.txt", "cd" * 4)
    write(tmp_path / "1.txt", "ab" * 4)
    write(tmp_path / "notes.md", "xyz")
    data = text.open_text(tmp_path, length=4)
    assert text.decode(data.schema.example, data.rows().x) == ["abab", "abab", "cdcd", "cdcd"]
    assert any("1 file" in note for note in data.notes)


def test_strings_are_padded_and_cut():
    data = text.open_text(["abc", "a", "", "cbacba"], length=4)
    kind = data.schema.example
    assert kind.vocabulary == ("\x00", "a", "b", "c")
    assert text.decode(kind, data.rows().x) == ["abc", "a", "", "cbac"]
    assert "1 of 4" in data.notes[0]
    assert text.open_text(["ab", "ba", "aa", "bb"], length=2).schema.example.vocabulary == ("a", "b")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        text.open_text(write(tmp_path / "e.txt", ""))
    bad = tmp_path / "b.txt"
    bad.write_bytes(b"\xef\xbb\xbf" + b"a" * 300 + b"\xff" + b"a" * 300)
    with pytest.raises(DataError, match="byte 303 is 0xff"):
        text.open_text(bad)
    bad.write_bytes(b"a" * 300 + b"\xc3")
    with pytest.raises(DataError, match="byte 300 is 0xc3"):
        text.open_text(bad)
    with pytest.raises(DataError, match=r"makes 3 rows of 10 .*35 characters"):
        text.open_text(write(tmp_path / "s.txt", "a" * 35), length=10)
    with pytest.raises(DataError, match=r"U\+0000"):
        text.open_text(write(tmp_path / "n.txt", "ab\x00" * 200))
    with pytest.raises(DataError, match="there is no file"):
        text.open_text(tmp_path / "none.txt")
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=r"no \.txt files"):
        text.open_text(tmp_path / "sub")
    with pytest.raises(DataError, match="length is 0"):
        text.open_text(["a"] * 4, length=0)
    with pytest.raises(DataError, match="row 1 is int"):
        text.open_text(["a", 3, "b", "c"])
    with pytest.raises(DataError, match="list of texts is empty"):
        text.open_text([])


def test_encode_errors_name_the_row():
    kind = Tokens(("a", "b"), 3)
    with pytest.raises(DataError, match=r"row 1 holds the character 'x' .*position 2"):
        text.encode(kind, ["aba", "abx"])
    with pytest.raises(DataError, match="row 0 has 2 characters: expected exactly 3"):
        text.encode(kind, ["ab"])
    padded = Tokens(("\x00", "a", "b"), 3)
    with pytest.raises(DataError, match="row 1 has 4 characters: expected at most 3"):
        text.encode(padded, ["ab", "abab"])
    assert text.encode(padded, "b").tolist() == [[2, 0, 0]]
    with pytest.raises(DataError, match="0 to 1"):
        text.decode(kind, torch.full((1, 3), 2))
    with pytest.raises(DataError, match="expected whole numbers"):
        text.decode(kind, torch.zeros(1, 3))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(string.ascii_lowercase + "é😀", max_size=8), max_size=5))
def test_decode_undoes_encode(texts):
    kind = Tokens(("\x00", *sorted(string.ascii_lowercase + "é😀")), 8)
    codes = text.encode(kind, texts)
    assert codes.shape == (len(texts), 8)
    assert text.decode(kind, codes) == texts
