"""Signals: arrays, folders of recordings, the spoken digits, new data under a schema, and .wav files that give them back."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile

from pushforward.core.errors import DataError
from pushforward.core.schema import Signal, Vector, from_json, to_json
from pushforward.data import signals
from pushforward.data.arrays import ArrayStore
from pushforward.data.describe import summary
from pushforward.data.like import decode, open_like
from pushforward.data.sources import open_data

rng = np.random.default_rng(0)


def fails(message, source, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_data(source, **options)
    assert "\n" not in str(caught.value)


def tone(length, scale=0.5, channels=1):
    x = scale * np.sin(np.arange(length) * 0.3 + np.arange(channels)[:, None])
    return x.T if channels > 1 else x[0]


def recordings(folder, lengths, *, rate=8000, dtype=np.int16, channels=1, classes=("a", "b")):
    for i, length in enumerate(lengths):
        path = folder / classes[i % len(classes)] / f"{i:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        x = tone(length, channels=channels)
        wavfile.write(path, rate, (x * 32767).astype(np.int16) if dtype == np.int16 else x.astype(dtype))
    return folder


# --------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("container", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("shape", [(6, 20), (6, 1, 20), (6, 3, 20)])
def test_arrays_are_given_back(container, dtype, shape):
    x = rng.normal(size=shape) * 100
    x = torch.tensor(x).to(getattr(torch, dtype)) if container == "torch" else x.astype(dtype)
    data = open_data(x, kind="signal")
    assert data.schema.example == Signal(1 if len(shape) == 2 else shape[1], 20, None, len(shape) == 2, container, dtype)
    codes = data.rows().x
    assert codes.dtype == torch.float64
    assert codes.shape == (6, *data.schema.example.shape)
    back = decode(data.schema, codes)
    assert type(back) is type(x)
    assert back.dtype == x.dtype
    assert back.shape == x.shape
    assert (back == x).all()
    assert torch.equal(open_like(x, data.schema).rows().x, codes)
    assert from_json(json.loads(json.dumps(to_json(data.schema)))) == data.schema


def test_whole_numbers_stop_at_the_ends_of_their_type():
    data = open_data(np.ones((4, 8), np.int16), kind="signal")
    assert decode(data.schema, torch.full((1, 1, 8), 40_000.0)).max() == 32_767
    assert decode(data.schema, torch.full((1, 1, 8), -40_000.0)).min() == -32_768


def test_a_long_array_of_floats_is_read_as_signals_and_that_is_said(tmp_path):
    x = rng.normal(size=(5, 2, 30))
    np.save(tmp_path / "a.npy", x)
    for source in (x, torch.tensor(x), str(tmp_path / "a.npy")):
        data = open_data(source)
        assert data.schema.example.shape == (2, 30)
        assert any("read as signals, 2 channels of 30 samples" in note and "--kind" in note for note in data.notes)
    assert open_data(x[:, 0]).schema.example == Vector(30)
    assert open_data(x[:, 0], kind="signal").notes == ()


def test_a_rate_in_an_archive_makes_signals(tmp_path):
    x = rng.normal(size=(5, 30)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, rate=100, y=np.arange(5) % 2)
    data = open_data(tmp_path / "a.npz", condition="label")
    assert data.schema.example == Signal(1, 30, 100, True, "numpy", "float32")
    assert data.schema.conditions[0].categories == (0, 1)
    np.savez(tmp_path / "b.npz", x=x, rate=200)
    with pytest.raises(DataError, match="200 samples a second: the model has learned 100"):
        open_like(tmp_path / "b.npz", data.schema)
    np.savez(tmp_path / "c.npz", x=x, rate=-1)
    fails("expected one number of samples a second", tmp_path / "c.npz")


def test_length_cuts_and_fills():
    x = rng.normal(size=(5, 2, 30))
    short, long = open_data(x, kind="signal", length=10), open_data(x, kind="signal", length=40)
    assert np.array_equal(short.rows().x.numpy(), x[:, :, :10])
    assert np.array_equal(long.rows().x[:, :, :30].numpy(), x)
    assert (long.rows().x[:, :, 30:] == 0).all()
    assert "cut to 10" in short.notes[0]
    assert "filled with zeros to 40" in long.notes[0]
    fails("length is 0", x, kind="signal", length=0)


def test_a_large_file_stays_on_disk(tmp_path):
    x = rng.normal(size=(40, 2, 30)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    data = open_data(tmp_path / "a.npy", memory_limit=1000)
    assert isinstance(data.store, ArrayStore)
    rows = data.rows(slice(3, 5)).x
    assert rows.dtype == torch.float64
    assert np.array_equal(rows.numpy(), x[3:5])


def test_bad_arrays():
    x = rng.normal(size=(5, 2, 30))
    fails(r"kind is one of vector, image, signal, points, found 'sound'", x, kind="sound")
    fails(r"expected signals as \(N, L\) or \(N, C, L\)", x[:, :, :, None], kind="signal")
    fails("at least 4", x[:3], kind="signal")
    fails("expected real numbers", x.astype(str), kind="signal")
    x[2, 1, 7] = np.nan
    fails("row 3, channel 2, sample 8: the value is nan; replace it", x, kind="signal")
    fails("give kind=signal", rng.normal(size=(5, 9, 9)))
    fails(r"expected \(N, D\) for vectors", rng.normal(size=(5, 2, 9)), kind="vector")
    fails("is a table and cannot be read as signal", pd.DataFrame({"a": range(9)}), kind="signal")
    schema = open_data(rng.normal(size=(5, 2, 30))).schema
    with pytest.raises(DataError, match=r"has shape \(N, 2, 29\): expected \(N, 2, 30\)"):
        open_like(rng.normal(size=(5, 2, 29)), schema)
    with pytest.raises(DataError, match="expected signals of 2 channels and 30 samples"):
        open_like(["some words"] * 6, schema)


def test_gaps_pass_where_they_are_asked_for():
    x = rng.normal(size=(5, 2, 30))
    schema = open_data(x).schema
    x[1, 0, 4] = np.nan
    assert open_like(x, schema, holes=True).rows().x.isnan().sum() == 1
    with pytest.raises(DataError, match="row 2, channel 1, sample 5"):
        open_like(x, schema)


# ----------------------------------------------------------------------------------------------------------- recordings


def test_a_folder_of_recordings(tmp_path):
    folder = recordings(tmp_path / "words", [50] * 8)
    (folder / "README.txt").write_text("words")
    data = open_data(folder, condition="label")
    assert data.schema.example == Signal(1, 50, 8000, True, "numpy", "float32")
    assert data.schema.conditions[0].categories == ("a", "b")
    assert data.rows().columns["label"].tolist() == [0] * 4 + [1] * 4
    assert data.notes == ("files that are no .wav were skipped (1): README.txt",)
    x = data.rows().x
    assert x.dtype == torch.float64
    assert np.allclose(x[0, 0], (tone(50) * 32767).astype(np.int16) / 32768)
    assert decode(data.schema, x).shape == (8, 50)
    assert torch.equal(open_like(str(folder), data.schema).rows().x, x)
    # without the classes a folder of recordings and texts about them still holds recordings
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(5):
        wavfile.write(flat / f"{i}.wav", 8000, tone(50).astype(np.float32))
        (flat / f"{i}.txt").write_text("said " * 50)
    assert open_data(flat).schema.example.name == "signal"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_every_type_of_sample_is_within_one(tmp_path, dtype):
    wanted = np.array([0, 0.5, -0.5, 0.25, -1.0])
    if dtype == "uint8":
        held = (wanted * 128 + 128).astype(np.uint8)
    else:
        held = (wanted * (np.iinfo(dtype).max + 1.0) if "int" in dtype else wanted).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 100, held)
    x, rate = signals.read_wav(tmp_path / "a.wav")
    assert rate == 100
    assert np.array_equal(x, wanted[None].astype(np.float32))


def test_recordings_of_different_length(tmp_path):
    lengths = [100, 200, 300, 400, 500, 600, 700, 800, 900, 4000]
    folder = recordings(tmp_path / "a", lengths)
    data = open_data(folder)
    size = data.schema.example.length
    assert size == signals.fitting(lengths)
    assert 1210 <= size <= 1210 * 17 / 16
    assert size % 32 == 0
    assert any("1 are cut and 9 end in silence" in note and "--length" in note for note in data.notes)
    x = data.rows().x  # 000 002 … of class a, then 001 003 … of b
    assert (x[0, 0, 100:] == 0).all()
    assert (x[0, 0, 1:100] != 0).all()
    assert open_data(folder, length=250).schema.example.length == 250
    schema = open_data(folder, length=250).schema
    assert torch.equal(open_like(folder, schema).rows().x, x[:, :, :250])
    assert signals.fitting([7, 7]) == 7


def test_folders_too_large_for_memory_are_read_when_needed(tmp_path, monkeypatch):
    folder = recordings(tmp_path / "a", [40, 50, 60, 70], channels=2)
    whole = open_data(folder).rows()
    monkeypatch.setattr(signals, "IN_MEMORY", 500)
    data = open_data(folder, condition="label")
    assert isinstance(data.store, signals.WavStore)
    assert torch.equal(data.rows().x, whole.x)
    assert torch.equal(data.rows(np.array([3, 1])).columns["label"], data.rows().columns["label"][[3, 1]])
    assert any("as they are needed" in note for note in data.notes)
    wavfile.write(next(iter(sorted(folder.rglob("*.wav")))), 4000, tone(40).astype(np.float32))
    with pytest.raises(DataError, match="now 1 channel at 4000 Hz, was 2 channels at 8000 Hz"):
        data.rows()


def test_mono_among_stereo_is_repeated(tmp_path):
    folder = recordings(tmp_path / "a", [40] * 4, channels=2)
    wavfile.write(folder / "a" / "000.wav", 8000, tone(40).astype(np.float32))
    data = open_data(folder)
    assert data.schema.example.shape == (2, 40)
    assert not data.schema.example.flat
    assert torch.equal(data.rows().x[0, 0], data.rows().x[0, 1])
    assert not torch.equal(data.rows().x[1, 0], data.rows().x[1, 1])
    assert any("mono" in note for note in data.notes)
    wavfile.write(folder / "a" / "000.wav", 8000, tone(40, channels=3).astype(np.float32))
    fails("has 2 channels, others in .* 3", folder)


def test_bad_folders_of_recordings(tmp_path):
    folder = recordings(tmp_path / "a", [40] * 5)
    wavfile.write(folder / "a" / "000.wav", 4000, tone(40).astype(np.float32))
    fails(r"2 different rates: 8000 Hz \(4, e.g. .*\), 4000 Hz .*ffmpeg", folder)
    (folder / "a" / "000.wav").write_bytes(b"RIFF nothing")
    fails("000.wav cannot be read as a .wav file", folder)
    x = tone(40).astype(np.float32)
    x[3] = np.inf
    wavfile.write(folder / "a" / "000.wav", 8000, x)
    fails("sample 4: the value is inf", folder)
    fails("is one recording: pass the folder", folder / "b" / "001.wav")
    (tmp_path / "mp3").mkdir()
    (tmp_path / "mp3" / "a.mp3").write_bytes(b"")
    fails(r"no .wav files in .*a.mp3.*ffmpeg -i a.mp3 a.wav", tmp_path / "mp3")
    (tmp_path / "none").mkdir()
    fails("found nothing", tmp_path / "none", kind="signal")
    other = recordings(tmp_path / "slow", [40] * 5, rate=4000)
    with pytest.raises(DataError, match="4000 Hz: the model has learned 8000 Hz"):
        open_like(other, open_data(recordings(tmp_path / "b", [40] * 5)).schema)


def test_wav_files_give_codes_back(tmp_path):
    kind = Signal(2, 50, 8000, dtype="float32")
    x = np.round(rng.uniform(-1, 1, (2, 50)) * 32768).clip(-32768, 32767) / 32768
    signals.save_wav(kind, x, tmp_path / "a.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(signals.read_wav(tmp_path / "a.wav")[0], x.astype(np.float32))
    signals.save_wav(kind, 3 * x, tmp_path / "b.wav")
    assert np.abs(signals.read_wav(tmp_path / "b.wav")[0]).max() <= 1
    whole = Signal(1, 50, 8000, dtype="int16")
    signals.save_wav(whole, x[:1] * 32768, tmp_path / "c.wav")
    assert np.array_equal(signals.read_wav(tmp_path / "c.wav")[0], x[:1].astype(np.float32))
    with pytest.raises(DataError, match="no known sampling rate"):
        signals.save_wav(Signal(2, 50), x, tmp_path / "d.wav")


def test_summary_tells_of_channels_and_time(tmp_path):
    found = summary(open_data(recordings(tmp_path / "a", [40, 50, 60, 70, 90], channels=2)))
    assert "s at 8000 Hz" in found["example"]
    assert [c["name"] for c in found["columns"][:2]] == ["channel 1", "channel 2"]
    assert "deviation" in found["columns"][0]["values"]
    assert "zero" in found["columns"][0]["values"]


@pytest.mark.skipif(
    not Path(os.environ.get("PUSHFORWARD_DATA", "/nowhere"), "fsdd", "fsdd8k.npz").exists(), reason="needs the data set"
)
def test_spoken_digits():
    data = open_data("spoken-digits", condition="label")
    kind = data.schema.example
    assert (kind.channels, kind.rate, kind.flat) == (1, 8000, True)
    assert 4836 <= kind.length <= 5139
    assert (len(data), len(data.test)) == (2700, 300)
    assert data.schema.conditions[0].categories == tuple(range(10))
    short = open_data("spoken-digits", length=1000)
    assert torch.equal(short.rows(slice(0, 9)).x, data.rows(slice(0, 9)).x[:, :, :1000])
    assert data.rows().x.abs().max() <= 1
