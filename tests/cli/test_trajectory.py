"""The way from noise to samples on the command line: columns of a sheet, panels of a picture, frames of rows."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pushforward.cli import main


@pytest.fixture(scope="module")
def ways(made, tmp_path_factory):
    """Runs of diffusion families."""
    place = tmp_path_factory.mktemp("ways")
    common = ("--steps", "2", "--no-report", "--quiet", "--device", "cpu")

    def fit(data, run, *more):
        assert main(["fit", str(data), "rectified-flow", "--out", str(place / run), *common, *more]) == 0

    fit(made / "points.npy", "points", "--hidden", "8")
    fit(made / "houses.csv", "houses", "--hidden", "8")
    fit("digits", "digits", "--width", "16", "--batch-size", "8")
    return place


def test_a_sheet_has_a_column_a_frame_and_a_row_a_sample(cli, ways, tmp_path):
    words = ("sample", ways / "digits", "-n", "3", "--trajectory", "5")
    assert "15 images written" in cli(*words, "--out", "way.png").err
    width, height = Pillow.open(tmp_path / "way.png").size
    assert (width, height) == (5 * (5 * 9 + 1), 5 * (3 * 9 + 1))
    cli("sample", ways / "digits", "-n", "3", "--out", "last.png")
    last = np.asarray(Pillow.open(tmp_path / "last.png"))[5:45, 5:45]
    # the last frame of the first row is the first sample
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "way.png"))[5:45, 4 * 45 + 5 : 4 * 45 + 45], last)
    cli(*words, "--out", "way.npy")
    assert np.load(tmp_path / "way.npy").shape[:3] == (15, 8, 8)
    assert "15 images written" in cli(*words, "--out", "frames/").err
    assert len(list((tmp_path / "frames").iterdir())) == 15


def test_two_numbers_have_a_panel_a_frame(cli, ways, tmp_path):
    assert cli("sample", ways / "points", "-n", "40", "--trajectory", "4", "--out", "way.png").code == 0
    width, height = Pillow.open(tmp_path / "way.png").size
    assert 3 < width / height < 5
    pixels = np.asarray(Pillow.open(tmp_path / "way.png").convert("RGB"))
    assert all((panel < 200).any(2).sum() > 100 for panel in np.array_split(pixels, 4, axis=1))


@pytest.mark.parametrize("more", [(), ("--trajectory", "3")])
def test_only_ways_of_two_numbers_are_pictures(cli, ways, more):
    said = cli("sample", ways / ("houses" if more else "points"), *more, "--out", "way.png")
    assert said.code == 2
    assert len(said.lines) == 1
    assert "the ending '.png'" in said.err
    said = cli("sample", ways / "points", "--trajectory", "3", "--out", "way.jpg")
    assert said.code == 2
    assert ".npz, .png" in said.err


@pytest.mark.parametrize("run", ["points", "houses"])
def test_rows_say_which_frame_they_are(cli, ways, tmp_path, run):
    words = ("sample", ways / run, "-n", "2", "--trajectory", "3")
    shown = pd.read_csv(io.StringIO(cli(*words).out))
    assert shown.columns[0] == "frame"
    assert shown["frame"].tolist() == [0, 1, 2, 0, 1, 2]
    last = pd.read_csv(io.StringIO(cli("sample", ways / run, "-n", "2").out))
    assert list(last.columns) == list(shown.columns[1:])
    numbers = last.select_dtypes("number").columns.difference(["ref"])
    assert np.allclose(shown[shown["frame"] == 2][numbers], last[numbers], equal_nan=True)
    cli(*words, "--out", "way.parquet")
    assert pd.read_parquet(tmp_path / "way.parquet")["frame"].tolist() == [0, 1, 2, 0, 1, 2]
    assert [row["frame"] for row in cli(*words, "--json").json["rows"]] == [0, 1, 2, 0, 1, 2]
    assert "frame" in cli(*words, terminal=True).out


def test_arrays_are_as_they_are(cli, ways, tmp_path):
    cli("sample", ways / "points", "-n", "2", "--trajectory", "3", "--out", "way.npy")
    assert np.load(tmp_path / "way.npy").shape == (6, 2)


def test_models_without_a_way_say_so(cli, made):
    said = cli("sample", made / "points", "--trajectory", "3")
    assert (said.code, len(said.lines)) == (2, 1)
    assert "no way from noise to data" in said.err
    assert "--trajectory" in cli("sample", "--help").out
