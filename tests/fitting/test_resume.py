"""A run that is killed anywhere and gone on with ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Line, Nursery, lines, own_family, points, vectors

import pushforward as pf
from pushforward.core.errors import CheckpointError
from pushforward.fitting.fit import fit_data
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.options import Training

RUNS = {
    "nice": ("moons", {"hidden": [16, 16], "transforms": 4, "steps": 14, "validate": 4, "batch_size": 128}),
    "vae": ("digits", {"hidden": [24], "latent": 4, "steps": 12, "validate": 3, "batch_size": 64}),
    "wgan-gp": ("moons", {"hidden": [16], "latent": 4, "critic_steps": 2, "steps": 10, "validate": 3, "batch_size": 64}),
    "gmm": ("moons", {"components": 5, "steps": 14}),
}


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


def order(name: str, out: Path, **more):
    data, options = RUNS[name]
    common = {"device": "cpu", "report": False, "quiet": True, "save_every": 0, "resume": True}
    return {"data": data, "family_name": name, "out": str(out), **common, **options, **more}


def finish(nursery: Nursery, options) -> None:
    answer = nursery.fit(options)
    assert (answer["code"], answer["said"]) == (0, "")


def whole(nursery: Nursery, name: str, out: Path) -> Path:
    finish(nursery, order(name, out))
    return out


def assert_same(run: Path, expected: Path) -> None:
    for file in ("model.safetensors", "raw.safetensors"):
        assert (run / file).exists() == (expected / file).exists()
        if (expected / file).exists():
            assert (run / file).read_bytes() == (expected / file).read_bytes(), file
    assert lines(run) == lines(expected)


@pytest.mark.parametrize("name", RUNS)
def test_killed_while_writing(nursery, tmp_path, name):
    expected = whole(nursery, name, tmp_path / "whole")
    rng, kills = random.Random(f"calls {name}"), 0
    for trial in range(120):
        # snapshots are many more files to write: they are made in some trials only, so that a few kills reach the end
        options = order(name, tmp_path / "run", **({"snapshots": 0} if trial % 3 else {}))
        answer = nursery.fit(options, calls=rng.randint(8, 40))
        if answer["code"] == 0:
            break
        assert (answer["code"], answer["said"]) == (-9, "")
        kills += 1
    assert (answer["code"], answer["said"]) == (0, "")
    assert kills >= 2
    assert_same(tmp_path / "run", expected)


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_any_moment(nursery, tmp_path, name):
    expected, run = whole(nursery, name, tmp_path / "whole"), tmp_path / "run"
    rng, kills, span = random.Random(f"seconds {name}"), 0, 0.5
    while kills < 4:
        answer = nursery.fit(order(name, run), seconds=span * rng.uniform(0.2, 1))
        if answer["code"] == 0:  # it was quicker: begin again, with less time
            shutil.rmtree(run)
            kills, span = 0, span / 2
            continue
        assert (answer["code"], answer["said"]) == (-9, "")
        kills += 1
    answer = nursery.fit(order(name, run))
    assert (answer["code"], answer["said"]) == (0, "")
    assert_same(run, expected)


def test_torn_line_and_leftover_part(nursery, tmp_path):
    expected, run = whole(nursery, "nice", tmp_path / "whole"), tmp_path / "run"
    assert nursery.fit(order("nice", run), calls=45)["code"] == -9
    with open(run / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 9, "epoch": 0.1, "tra')
    part = run / "checkpoints" / ".step-000000013.1.part"
    part.mkdir()
    (part / "tensors.safetensors").write_bytes(b"half of it")
    finish(nursery, order("nice", run))
    assert_same(run, expected)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-000000014"]


def test_killed_before_the_first_checkpoint_after_a_record(nursery, tmp_path):
    run = whole(nursery, "nice", tmp_path / "whole")
    other = tmp_path / "run"
    other.mkdir()
    (other / "recipe.json").write_bytes((run / "recipe.json").read_bytes())
    (other / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    finish(nursery, order("nice", other))
    assert_same(other, run)


def test_a_finished_run_stays_as_it_is(nursery, tmp_path):
    run = whole(nursery, "nice", tmp_path / "run")
    before = {file: (run / file).read_bytes() for file in ("model.safetensors", "raw.safetensors")}
    told = lines(run)
    finish(nursery, order("nice", run))
    assert {file: (run / file).read_bytes() for file in before} == before
    assert lines(run) == told


@pytest.mark.parametrize("name", ["nice", "gmm"])
def test_ctrl_c_saves_and_says_how_to_go_on(nursery, tmp_path, name):
    expected = whole(nursery, name, tmp_path / "whole")
    run = tmp_path / "run"
    answer = nursery.fit(order(name, run, save_every=1000), interrupt=5)
    assert answer["code"] == 0
    assert answer["said"].startswith("Interrupted: stopped at step ")
    assert str(run) in answer["said"]
    assert "--resume" in answer["said"]
    assert "\n" not in answer["said"]
    assert not (run / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match="not finished"):
        pf.load(run)
    finish(nursery, order(name, run, save_every=1000))
    assert_same(run, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 15}, "steps"),
        ({"batch_size": 64}, "batch_size"),
        ({"hidden": [8]}, "options"),
        ({"seed": 1}, "seed"),
        ({"family_name": "made", "transforms": None}, "family"),
        ({"data": "digits"}, "schema"),
    ],
)
def test_resume_with_something_else(tmp_path, change, said):
    run = tmp_path / "run"
    steps = {"steps": 4, "validate": 2}
    pf.fit(**order("nice", run, **steps))
    options = {k: v for k, v in order("nice", run, **(steps | change)).items() if v is not None}
    if options["family_name"] == "made":
        options = {k: v for k, v in options.items() if k not in ("transforms", "hidden")}
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=said) as found:
        pf.fit(**options)
    assert "\n" not in str(found.value)
    assert (run / "model.safetensors").read_bytes() == before


def test_other_rows_of_the_same_schema_are_refused(tmp_path):
    options = {"steps": 4, "hidden": (8,), "out": tmp_path / "run", "quiet": True, "report": False, "resume": True}
    pf.fit(points(200), "nice", **options)
    with pytest.raises(CheckpointError, match="data"):
        pf.fit(points(210), "nice", **options)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_callback_that_raises(tmp_path, at):
    def raising(record):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Stop

    calls = 0
    options = {"steps": 15, "validate": 5, "hidden": (8,), "quiet": True, "report": False, "batch_size": 16}
    x = points(120)
    pf.fit(x, "nice", out=tmp_path / "whole", **options)
    with pytest.raises(Stop):
        pf.fit(x, "nice", out=tmp_path / "run", callback=raising, **options)
    pf.fit(x, "nice", out=tmp_path / "run", resume=True, **options)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["nice", "gmm"])
def test_killed_between_an_early_stop_and_the_last_file(tmp_path, monkeypatch, name):
    """What was decided before the kill (to stop) is not decided again."""
    options = {"quiet": True, "report": False, "patience": 2, "steps": 60}
    options |= {"hidden": (32,), "validate": 30, "learning_rate": 0.05} if name == "nice" else {"components": 6}
    x = points(80)
    pf.fit(x, name, out=tmp_path / "whole", **options)
    assert lines(tmp_path / "whole")[-1]["step"] < 60

    def fails(self, run):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Fitted, "write", fails)
        with pytest.raises(Stop):
            pf.fit(x, name, out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    pf.fit(x, name, out=tmp_path / "run", resume=True, **options)
    assert_same(tmp_path / "run", tmp_path / "whole")


class Careless(Line):
    """A user's own model whose loss draws from the global generators of torch and numpy."""

    def _loss(self, batch, turn):
        noise = torch.randn(batch.x.shape) + float(np.random.randn())  # noqa: NPY002
        return {"loss": -self.log_prob(batch.x + 0.1 * noise)}


def test_a_model_that_draws_from_global_generators(tmp_path):
    calls = 0

    def raising(record):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stop

    fam = own_family(lambda schema: Careless(schema))
    data, training = vectors(points(100)), Training(steps=12, validate=6, batch_size=16, device="cpu")
    config = fam.configure({})

    def go(out, **rest):
        return fit_data(data, fam, config, training, out=out, report=False, quiet=True, **rest)

    go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "run", callback=raising)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    go(tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_that_is_damaged(tmp_path):
    options = {"steps": 4, "hidden": (8,), "out": tmp_path / "run", "quiet": True, "report": False}
    pf.fit(points(60), "nice", **options)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors = folder / "tensors.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated") as found:
        pf.fit(points(60), "nice", resume=True, **options)
    assert "\n" not in str(found.value)
    tensors.write_bytes(content)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        pf.fit(points(60), "nice", resume=True, **options)


def test_force_starts_anew(tmp_path):
    options = {"steps": 6, "validate": 3, "hidden": (8,), "quiet": True, "report": False, "out": tmp_path / "run"}
    pf.fit(points(60), "nice", **options)
    told = lines(tmp_path / "run")
    with pytest.raises(pf.PushforwardError, match="--force"):
        pf.fit(points(60), "nice", **options)
    pf.fit(points(60), "nice", force=True, **options)
    assert lines(tmp_path / "run") == told
