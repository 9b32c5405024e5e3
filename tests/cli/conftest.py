import json
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pushforward.cli import main


class Said:
    """What one command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit code {self.code}, said: {self.err}"

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return self.err.splitlines()


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run one command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUSHFORWARD_DEBUG", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def run(*words, terminal=False):
        capsys.readouterr()
        if terminal:
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


def houses(rows=120, seed=0):
    """A table of mixed types with gaps."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "ref": [f"h{i:04d}" for i in range(rows)],
            "price": rng.normal(50, 10, rows).round(1),
            "rooms": rng.integers(1, 6, rows),
            "city": rng.choice(["Bern", "Kyiv", "Oslo"], rows),
            "sold": rng.random(rows) < 0.4,
            "day": pd.date_range("2024-01-01", periods=rows).strftime("%Y-%m-%d"),
            "country": "X",
        }
    )
    frame.loc[::9, "price"] = np.nan
    frame.loc[::13, "city"] = None
    return frame


def pictures(folder, n=16, size=8):
    """A folder of small grey PNGs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        Pillow.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8)).save(folder / f"p{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Data files and runs that all tests read and none changes."""
    place = tmp_path_factory.mktemp("made")
    houses().to_csv(place / "houses.csv", index=False)
    rng = np.random.default_rng(1)
    np.save(place / "points.npy", rng.normal(size=(120, 2)))
    (place / "verse.txt").write_text("the rain falls on the sea and the sea takes the rain\n" * 30)
    pictures(place / "pictures")

    def fit(data, family, run, *more):
        assert main(["fit", str(data), family, "--out", str(place / run), "--no-report", "--quiet", *more]) == 0

    fit(place / "houses.csv", "gmm", "houses", "--components", "2")
    fit(place / "points.npy", "gmm", "points", "--components", "2")
    fit("digits", "independent", "digits")
    fit(place / "verse.txt", "made", "verse", "--length", "8", "--steps", "2", "--hidden", "8")
    fit(place / "houses.csv", "classifier", "classifier", "--target", "city", "--steps", "3", "--hidden", "8")
    fit(place / "houses.csv", "nice", "given", "--condition", "city", "rooms", "--steps", "3", "--hidden", "8")
    fit(place / "points.npy", "wgan-gp", "wgan", "--steps", "2", "--hidden", "8")
    fit(place / "points.npy", "rectified-flow", "flow", "--steps", "2", "--hidden", "8")
    fit(place / "points.npy", "vae", "vae", "--steps", "3", "--hidden", "8")
    return place
