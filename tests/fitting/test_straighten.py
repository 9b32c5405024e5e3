"""``straighten``: from a fitted diffusion model to one that needs few steps, for every kind of teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import points

import pushforward as pf
from pushforward.core.errors import PushforwardError, RecipeError, Unsupported
from pushforward.models.consistency import ConsistencyModel
from pushforward.models.diffusion import Diffusion
from pushforward.paths.schedule import Rectified

SMALL: dict[str, Any] = {"hidden": (16, 16), "steps": 4, "quiet": True}
QUICK: dict[str, Any] = {"pairs": 60, "steps": 3, "batch_size": 16, "quiet": True}


@pytest.fixture(scope="module")
def plain() -> pf.Fitted:
    return pf.fit(points(), "rectified-flow", tolerance=1e-2, **SMALL)


def towns(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"size": rng.gamma(3, 20, rows).round(1), "town": rng.choice(["Bern", "Oslo", "Rome"], rows)})


@pytest.fixture(scope="module")
def told() -> pf.Fitted:
    return pf.fit(towns(), "rectified-flow", condition="town", tolerance=1e-2, **SMALL)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("method", ["reflow", "consistency"])
def test_a_straightened_run_is_a_run(plain: pf.Fitted, tmp_path: Path, method: Any) -> None:
    before = weights(plain.model)
    found = pf.straighten(plain, method=method, out=tmp_path / "run", **QUICK)
    again = pf.load(tmp_path / "run")
    assert again.family.name == {"reflow": "rectified-flow", "consistency": "consistency"}[method]
    x = found.sample(5, seed=1)
    np.testing.assert_array_equal(again.sample(5, seed=1), x)
    if method == "reflow":
        np.testing.assert_array_equal(again.log_prob(x), found.log_prob(x))
    if method == "reflow":
        assert again.encode(x).shape == (5, 3)
    assert again.preview is not None
    assert len(again.history) == len(found.history) > 0
    assert (tmp_path / "run" / "raw.safetensors").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    # the teacher is as it was
    after = weights(plain.model)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.requires_grad for p in plain.model.parameters())


def test_the_recipe_says_from_what_and_how_straight(plain: pf.Fitted) -> None:
    found = pf.straighten(plain, rounds=2, seed=4, **QUICK)
    recipe = json.loads(json.dumps(found.recipe))
    done = recipe["straightened"]
    assert (done["method"], done["rounds"], done["pairs"]) == ("reflow", 2, 60)
    assert done["from"]["family"] == "rectified-flow"
    assert done["from"]["options"]["hidden"] == [16, 16]
    assert recipe["options"]["hidden"] == [16, 16]
    assert recipe["options"]["tolerance"] == 1e-2
    assert (recipe["options"]["sampler"], recipe["options"]["sampling_steps"]) == ("euler", 4)
    assert set(done["before"]) == set(done["after"]) == {"straightness", "straightness_error", "cost", "cost_error"}
    assert done["before"]["straightness"] > 0
    assert (recipe["steps"], recipe["training"]["steps"], recipe["seed"]) == (3, 3, 4)
    assert recipe["data"]["rows"] == {"train": 54, "validation": 6, "test": 0}
    assert "straightened from rectified-flow by reflow" in recipe["data"]["notes"][-1]
    twice = pf.straighten(found, method="consistency", **QUICK).recipe
    assert twice["straightened"]["from"]["straightened"]["rounds"] == 2
    assert (twice["family"], twice["options"]["sampling_steps"]) == ("consistency", 1)


def test_the_seed_decides(plain: pf.Fitted) -> None:
    one, two, three = (pf.straighten(plain, seed=s, **QUICK).sample(4) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, three)


@pytest.mark.parametrize(
    ("family", "options", "kept"),
    [
        ("rectified-flow", {}, True),
        ("rectified-flow", {"prediction": "velocity"}, True),
        ("rectified-flow", {"prediction": "data"}, False),
        ("rectified-flow", {"shift": 2.0}, True),
        ("flow-matching", {"schedule": "angle", "coupling": "ot"}, True),
        ("score-sde", {}, True),
        ("ddpm", {"trained_steps": 20, "variance": "learned"}, True),
        ("ddpm", {"trained_steps": 20, "prediction": "noise"}, False),
        ("edm", {}, True),
    ],
)
@pytest.mark.parametrize("method", ["reflow", "consistency"])
def test_a_teacher_of_any_path_hands_its_weights_on(family: str, options: dict[str, Any], kept: bool, method: Any) -> None:
    teacher = pf.fit(points(), family, tolerance=1e-1, **SMALL, **options)
    found = pf.straighten(teacher, method=method, learning_rate=1e-12, weight_decay=0.0, **QUICK)
    student = found.model
    assert isinstance(student, {"reflow": Diffusion, "consistency": ConsistencyModel}[method])
    assert type(student.schedule) is Rectified
    assert student.learning.prediction == ("velocity" if options.get("prediction") == "velocity" else "v")
    theirs, ours = weights(teacher.model.net), weights(student.net)
    if method == "consistency" and options.get("variance") != "learned":  # jumps, and beside them the flow
        theirs |= {n: torch.cat([theirs[n]] * 2) for n in ("last.weight", "last.bias")}
    same = {n: theirs[n].shape == t.shape and bool(torch.allclose(theirs[n], t, atol=1e-7)) for n, t in ours.items()}
    if options.get("variance") == "learned" and method == "reflow":  # whose teacher's last layer has twice the outputs
        assert {n for n, s in same.items() if not s} == {"last.weight", "last.bias"}
    else:
        assert all(same.values()) == kept
    for name, value in teacher.model.preprocess.state_dict().items():
        assert torch.equal(student.preprocess.state_dict()[name], value)
    assert np.isfinite(found.sample(8)).all()


def test_straight_paths_are_found() -> None:
    teacher = pf.fit("moons", "rectified-flow", steps=200, hidden=(32, 32), tolerance=1e-2, learning_rate=5e-3, quiet=True)
    found = pf.straighten(teacher, pairs=1500, steps=200, learning_rate=5e-3, quiet=True)
    before, after = (found.recipe["straightened"][when] for when in ("before", "after"))
    assert after["straightness"] < 0.15 * before["straightness"]
    assert after["cost"] < before["cost"] + 0.02


# conditions and data


@pytest.mark.parametrize("method", ["reflow", "consistency"])
@pytest.mark.parametrize("given", [False, True])
def test_conditions_are_those_of_rows(told: pf.Fitted, tmp_path: Path, method: Any, given: bool) -> None:
    frame = towns()
    frame["town"] = "Oslo"  # so that it can be seen where they come from
    found = pf.straighten(told, frame if given else None, method=method, out=tmp_path / "r", report=False, **QUICK)
    drawn = found.sample(50)
    assert list(drawn.columns) == ["size", "town"]
    asked = {"Oslo"} if given else {"Bern", "Oslo", "Rome"}
    assert set(drawn["town"]) == asked
    assert set(found.sample(5, condition={"town": "Rome"})["town"]) == {"Rome"}
    assert found.recipe["data"]["rows"]["test"] == (12 if given else 0)
    if method == "reflow":
        found.score(towns())


def test_pictures_are_straightened_between_their_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushforward.fitting.straighten._MEASURED", 1)
    options: dict[str, Any] = {"width": 8, "score_steps": 2, "sampling_steps": 2, "batch_size": 32}
    teacher = pf.fit("digits", "ddpm", condition="label", steps=2, quiet=True, **options)
    for method in ("reflow", "consistency"):
        found = pf.straighten(teacher, method=method, **QUICK)  # type: ignore[arg-type]
        drawn = np.asarray(found.sample(3, condition={"label": 4}))
        assert drawn.shape[0] == 3
        assert drawn.dtype == np.uint8
        held = pf.open_data("digits", condition="label").select(slice(0, 4))
        if method == "reflow":
            assert np.isfinite(found.log_prob(held)).all()
        else:
            with pytest.raises(Unsupported, match="consistency cannot score"):
                found.log_prob(held)


def test_with_data_a_run_is_evaluated(plain: pf.Fitted, tmp_path: Path) -> None:
    pf.straighten(plain, points(), out=tmp_path / "r", **QUICK)
    assert (tmp_path / "r" / "report.html").exists()
    figures = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert {m["name"] for m in figures["metrics"]} >= {"nats", "energy"}


# errors


def test_what_is_wrong_is_said(plain: pf.Fitted, told: pf.Fitted, tmp_path: Path) -> None:
    other = pf.fit(points(), "gmm", components=2, quiet=True)
    with pytest.raises(Unsupported, match="gmm has no flow to straighten; ddpm, score-sde, edm, flow-matching, rectified-flow"):
        pf.straighten(other, **QUICK)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"method": "reflux"}, "method is reflow or consistency"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"method": "consistency", "rounds": 2}, "one round"),
        ({"pairs": 3}, "pairs must be at least 4"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step": 3}, "did you mean 'steps'"),
        ({"batch_size": 100}, "larger than"),
    ]
    for given, said in wrong:
        with pytest.raises(RecipeError, match=said):
            pf.straighten(plain, **{**QUICK, **given})
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(PushforwardError, match=r"exists and is not empty: choose another"):
        pf.straighten(plain, out=tmp_path / "there", **QUICK)
    assert (tmp_path / "there" / "file").read_text() == "mine"
    bare = pf.Fitted(told.model, told.family, told.schema, told.recipe)
    with pytest.raises(RecipeError, match="kept no rows: give data="):
        pf.straighten(bare, **QUICK)


def test_an_interruption_says_that_nothing_is_kept(plain: pf.Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward.core.errors import Interrupted
    from pushforward.fitting import straighten as module

    def stopped(*_: Any) -> Any:
        raise Interrupted("stopped at step 3; nothing was kept, since no run folder was given (out=)")

    monkeypatch.setattr(module, "trained", stopped)
    with pytest.raises(Interrupted, match="stopped at step 3; nothing was kept, and straightening begins anew"):
        pf.straighten(plain, **QUICK)
