"""Data that are carried to others: fitted, sampled from rows of one's own, kept with the run, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pushforward as pf
from pushforward.core.errors import DataError, RecipeError, Unsupported

QUICK: dict[str, Any] = {"steps": 3, "hidden": (16, 16), "quiet": True}


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """A cloud on the left, and two on the right."""
    random = np.random.default_rng(0)
    left = random.normal([-3, 0], 0.5, (1500, 2))
    right = random.normal(0, 0.3, (1500, 2)) + np.stack([np.full(1500, 3), random.choice([-2, 2], 1500)], 1)
    return left, right


def towns(n: int, shift: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    size = random.normal(shift, 1.0, n)
    size[::7] = np.nan
    return pd.DataFrame({"size": size, "town": random.choice(["Bern", "Oslo"], n)})


def test_a_cloud_becomes_two_and_each_row_goes_to_the_nearer() -> None:
    left, right = clouds()
    found = pf.fit(right, "transport", source=left, steps=500, hidden=(64, 64), learning_rate=5e-3, quiet=True)
    drawn = found.sample(1000)
    np.testing.assert_allclose(drawn.mean(0), right.mean(0), atol=0.25)
    np.testing.assert_allclose(drawn.std(0), right.std(0), atol=0.25)
    moved = found.sample(start=left)
    assert moved.shape == left.shape
    clear = np.abs(left[:, 1]) > 0.5
    assert (np.sign(moved[clear, 1]) == np.sign(left[clear, 1])).mean() > 0.95
    model: Any = found.model
    back = model.preprocess.push(torch.from_numpy(found.encode(moved))).numpy()
    np.testing.assert_allclose(back, left, atol=0.1)


def test_a_run_keeps_its_source(tmp_path: Path) -> None:
    left, right = clouds()
    np.save(tmp_path / "left.npy", left)
    found = pf.fit(right, "transport", source=str(tmp_path / "left.npy"), out=tmp_path / "run", report=False, **QUICK)
    assert found.recipe["options"]["source_rows"] == 1500
    assert found.recipe["data"]["notes"][-1] == "carried from left: 1,500 of 1,500 rows are kept with the model"
    (tmp_path / "left.npy").unlink()
    again = pf.load(tmp_path / "run")
    np.testing.assert_array_equal(again.sample(7, seed=2), found.sample(7, seed=2))
    np.testing.assert_array_equal(again.sample(start=left[:9], chunk=4), found.sample(start=left[:9]))
    way = np.asarray(again.trajectory(start=left[:3], frames=4, steps=30)).reshape(3, 4, 2)
    np.testing.assert_allclose(way[:, 0], left[:3], atol=1e-5)
    np.testing.assert_allclose(way[:, -1], again.sample(start=left[:3], steps=30), atol=1e-5)
    few = pf.fit(right, "transport", source=left, source_rows=64, **QUICK)
    kept: Any = few.model
    rows = {tuple(r) for r in kept.source.codes.numpy().tolist()}
    assert len(rows) == 64
    assert rows <= {tuple(r) for r in left.tolist()}
    assert "64 of 1,500 rows" in few.recipe["data"]["notes"][-1]


def test_tables_with_gaps_and_conditions(tmp_path: Path) -> None:
    options: dict[str, Any] = {"condition": "town", "out": tmp_path / "run", "report": False}
    found = pf.fit(towns(200, 3.0, 0), "transport", source=towns(150, -3.0, 1), **options, **QUICK)
    drawn = found.sample(20, condition={"town": "Oslo"}, guidance=2.0)
    assert list(drawn.columns) == ["size", "town"]
    assert set(drawn["town"]) == {"Oslo"}
    again = pf.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.sample(5, seed=1), found.sample(5, seed=1))
    assert np.isfinite(found.encode(towns(10, 3.0, 4))).all()


def test_pictures_become_pictures() -> None:
    random = np.random.default_rng(0)
    one, other = (random.integers(0, high, (40, 8, 8), dtype=np.uint8) for high in (255, 40))
    found = pf.fit(one, "transport", source=other, width=8, steps=2, sampling_steps=2, batch_size=16, quiet=True)
    drawn = np.asarray(found.sample(start=other[:3]))
    assert (drawn.shape[0], drawn.dtype) == (3, np.uint8)


def test_a_resumed_fit_is_the_whole_one(tmp_path: Path) -> None:
    left, right = clouds()
    how: dict[str, Any] = {"source": left, "hidden": (16, 16), "steps": 8, "validate": 4, "quiet": True, "report": False}
    whole = pf.fit(right, "transport", out=tmp_path / "whole", **how)
    seen: list[int] = []

    def stop(record: Any) -> bool:
        seen.append(record.step)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        pf.fit(right, "transport", out=tmp_path / "parts", callback=stop, **how)
    resumed = pf.fit(right, "transport", out=tmp_path / "parts", resume=True, **how)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_what_does_not_fit_is_said_in_one_line() -> None:
    left, right = clouds()
    found = pf.fit(right, "transport", source=left, **QUICK)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: pf.fit(right, "transport", **QUICK), RecipeError, "name them with source="),
        (lambda: pf.fit(right, "edm", source=left, **QUICK), RecipeError, "edm starts from noise.*fit the family transport"),
        (lambda: pf.fit(right, "transport", source=np.zeros((9, 3)), **QUICK), DataError, "3 numbers a row: expected 2"),
        (lambda: pf.fit(right, "transport", source=left, schedule="vp", **QUICK), RecipeError, "schedule is one of rectified"),
        (lambda: found.sample(3, start=left), RecipeError, "leave out the number"),
        (lambda: found.sample(start=np.zeros((2, 3))), DataError, "expected 2"),
        (lambda: found.sample(3, sampler="edm"), RecipeError, "no sampler of this model"),
        (lambda: found.log_prob(right), Unsupported, "transport cannot score"),
        (lambda: found.complete(right), Unsupported, "transport cannot complete"),
        (lambda: pf.straighten(found, steps=2), Unsupported, "no flow to straighten"),
        (lambda: pf.fit(right, "edm", **QUICK).sample(start=left), RecipeError, "edm starts from noise"),
    ]
    for attempt, kind, text in wrong:
        with pytest.raises(kind, match=text):
            attempt()
