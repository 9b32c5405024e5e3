"""A fitted model given texts, vectors and pictures, in the user's terms, from the first fit to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import pushforward as pf
from pushforward.cli import main
from pushforward.core.errors import DataError, Unsupported
from pushforward.data.sources import open_data
from pushforward.fitting.fitted import Fitted

RNG = np.random.default_rng(0)
WORDS = np.array(["a red cat", "a red dog", "one blue cat"])
LABEL = np.arange(60) % 3
ARRAYS = {
    "images": (LABEL[:, None, None, None] * 80 + RNG.integers(0, 90, (60, 8, 8, 3))).astype(np.uint8),
    "label": LABEL,
    "caption": WORDS[LABEL],
    "vec": RNG.normal(3, 2, (60, 4)) + LABEL[:, None],
    "sketch": RNG.integers(0, 256, (60, 8, 8), dtype=np.uint8),
}
NAMES = ["label", "caption", "vec", "sketch", "small:2"]
GIVEN: dict[str, Any] = {
    "label": 1,
    "caption": "A blue dog",
    "vec": [1.0, 2.0, 3.0, 4.0],
    "sketch": ARRAYS["sketch"][0],
    "small:2": ARRAYS["images"][0],
}
SMALL: dict[str, Any] = {"steps": 3, "batch_size": 16, "width": 8, "sampling_steps": 3, "score_steps": 2, "quiet": True}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rich") / "pictures.npz"
    np.savez(str(path), **ARRAYS)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def fitted(archive: Path) -> Fitted:
    run = archive.parent / "run"
    return pf.fit(archive, "rectified-flow", condition=NAMES, types={"caption": "text"}, out=run, **SMALL)


def test_the_run_has_a_report_and_loads_to_the_same_samples(fitted: Fitted, archive: Path) -> None:
    run = archive.parent / "run"
    page = (run / "report.html").read_text()
    assert "made from the example" in page
    assert "small:2" in page
    loaded = pf.load(run)
    assert loaded.schema == fitted.schema
    for condition in (None, GIVEN):
        assert np.array_equal(loaded.sample(3, condition=condition, seed=2), fitted.sample(3, condition=condition, seed=2))


def test_conditions_are_in_the_terms_of_the_user(fitted: Fitted) -> None:
    codes = fitted.conditions(GIVEN, 3, 0)
    assert codes is not None
    assert {name: tuple(c.shape) for name, c in codes.items()} == {
        "label": (3,), "caption": (3, 3), "vec": (3, 4), "sketch": (3, 1, 8, 8), "small:2": (3, 3, 4, 4)
    }  # fmt: skip
    small = ARRAYS["images"][0].reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.array_equal(codes["small:2"][2].permute(1, 2, 0).numpy(), np.rint(small))
    each = {**GIVEN, "caption": ["a cat", "a dog", "a red cat"], "vec": ARRAYS["vec"][:3], "sketch": ARRAYS["sketch"][:3]}
    assert fitted.sample(3, condition=each, guidance=2.0).shape == (3, 8, 8, 3)
    with pytest.raises(DataError, match="2 values for 3 samples"):
        fitted.sample(3, condition={**GIVEN, "caption": ["a", "b"]})
    with pytest.raises(DataError, match="lacks vec, sketch, small:2"):
        fitted.sample(3, condition={"label": 1, "caption": "a"})


def test_without_conditions_those_of_rows_are_drawn(fitted: Fitted) -> None:
    codes = fitted.conditions(None, 20, 0)
    assert codes is not None
    assert fitted.preview is not None
    x = fitted.preview.x.float().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)).round()
    vectors = fitted.preview.columns["vec"]
    for vector, small in zip(codes["vec"], codes["small:2"], strict=True):
        row = int((vectors == vector).all(1).nonzero()[0])
        assert torch.equal(x[row], small.float())


def test_scores_are_given_what_the_data_hold(fitted: Fitted, archive: Path) -> None:
    score = fitted.log_prob(archive)
    assert np.isfinite(score).all()
    np.testing.assert_allclose(fitted.log_prob(archive, chunk=7), score, rtol=1e-4)
    # another text, another density
    other = {**ARRAYS, "caption": np.roll(ARRAYS["caption"], 1)}
    assert (np.abs(fitted.log_prob(other) - score) > 1e-6).mean() > 0.9
    assert fitted.encode(archive).shape == (60, 8 * 8 * 3)
    assert fitted.interpolate(archive, archive, steps=3).shape == (180, 8, 8, 3)


def test_completion_is_told_what_is_visible() -> None:
    model = pf.fit(ARRAYS | {"images": ARRAYS["images"]}, "rectified-flow", condition="visible", **SMALL)
    data = open_data({"images": ARRAYS["images"][:2]})
    observed = np.ones((2, 8, 8), bool)
    observed[:, :4] = False
    filled = model.complete(data, observed=observed)
    assert np.array_equal(filled[:, 4:], ARRAYS["images"][:2, 4:])
    hidden = ARRAYS["images"][:2].copy()
    hidden[:, :4] = 7
    assert np.array_equal(model.complete(hidden, observed=observed), filled), "what is hidden was looked at"


def test_families_that_see_no_pictures_say_so(archive: Path) -> None:
    with pytest.raises(Unsupported, match=r"vae takes no text \('caption'\)"):
        pf.fit(archive, "vae", condition="caption", types={"caption": "text"}, quiet=True)
    board = pf.compare(archive, ["vae", "rectified-flow"], steps=2, condition=["vec", "grey"], quiet=True)
    assert [r.family for r in board.failed] == ["vae"]


def test_texts_steer_tables() -> None:
    import pandas as pd

    frame = pd.DataFrame({"price": RNG.normal(size=60), "title": WORDS[LABEL]})
    how = {"steps": 3, "batch_size": 16, "hidden": (16,), "sampling_steps": 3, "quiet": True}
    model = pf.fit(frame, "rectified-flow", condition="title", types={"title": "text"}, **how)
    drawn = model.sample(4, condition={"title": "a red fox"})
    assert drawn["title"].tolist() == ["a red <unknown>"] * 4
    assert np.isfinite(model.log_prob(frame)).all()


def test_the_command_line_takes_texts_files_and_numbers(fitted: Fitted, archive: Path, capsys: Any) -> None:
    run, picture = archive.parent / "run", archive.parent / "photo.png"
    Pillow.fromarray(ARRAYS["images"][3]).resize((31, 40)).save(picture)
    words = ["label=2", "caption=a red cat", "vec=1,2,3,4", f"sketch={picture}", f"small:2={picture}"]
    out = archive.parent / "drawn.npy"
    assert main(["sample", str(run), "-n", "3", "--condition", *words, "--out", str(out), "--json"]) == 0
    assert np.load(out).shape == (3, 8, 8, 3)
    assert json.loads(capsys.readouterr().out)["condition"]["caption"] == "a red cat"
    assert main(["sample", str(run), "-n", "3", "--condition", *words[:-1], "small:2=nowhere.png"]) == 2
    assert "there is no file 'nowhere.png'" in capsys.readouterr().err
    made = archive.parent / "made"
    options = ["--steps", "2", "--batch-size", "16", "--width", "8", "--sampling-steps", "2", "--no-report", "--quiet"]
    fit = ["fit", str(archive), "rectified-flow", "--condition", "caption", "grey", "--types", "caption=text"]
    assert main([*fit, "--out", str(made), *options]) == 0
    assert [c["name"] for c in json.loads((made / "recipe.json").read_text())["schema"]["conditions"]] == ["caption", "grey"]
