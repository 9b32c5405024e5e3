"""Samples kept while a model learns: when, of what noise, and that training does not notice."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from test_distributed import launch
from tiny import Line, job, lines, own_family, points, vectors

import pushforward as pf
from pushforward.core.errors import CheckpointError, RecipeError
from pushforward.core.model import Samples
from pushforward.core.schema import Column, ColumnKind, Image, Points, Schema, Signal, Table, Tokens, Vector
from pushforward.data.dataset import Data, TensorStore
from pushforward.fitting import snapshots
from pushforward.fitting.fit import fit_data
from pushforward.fitting.options import Training
from pushforward.fitting.runs import read_run
from pushforward.fitting.snapshots import Snapshots, pictured, stored
from pushforward.fitting.trainer import train

HIDDEN = {"rectified-flow": {"hidden": (8,)}, "ddpm": {"hidden": (8,)}, "wgan-gp": {"hidden": (8,)}, "nice": {"hidden": (8,)}}


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """As many as asked for, however slow the machine."""
    monkeypatch.setattr(snapshots, "_SHARE", float("inf"))


class Dots(Line, Samples):
    """Draws from its map backwards, carelessly from the global generators too, and remembers what it was asked."""

    def __init__(self, schema, error=None):
        super().__init__(schema)
        self.error, self.asked = error, []

    def sample(self, n, condition, draws, **options):
        assert not torch.is_grad_enabled()
        torch.rand(3), np.random.rand(3)  # noqa: NPY002
        noise = draws.normal(self.schema.example.size)
        self.asked.append((n, condition, noise, self.training, self.bias.detach().clone()))
        if self.error is not None:
            raise self.error
        return noise - self.bias


def told():
    """Vectors of two numbers with a condition."""
    rng = np.random.default_rng(0)
    label = Column("label", ColumnKind.CATEGORY, tuple(range(5)), dtype="int64")
    columns = {"label": torch.from_numpy(rng.integers(0, 5, 90).astype(float))}
    return Data.of(Schema(Vector(2), (label,)), TensorStore(torch.from_numpy(rng.normal(size=(90, 2))), columns))


def kept(run):
    return {step: np.load(path)["x"] for step, path in stored(run)}


def task(model, data, run, **training):
    made = job(model, data, **training)
    made.run = run
    return made


# what is drawn


def test_the_same_noise_and_conditions_each_time_with_averaged_weights(tmp_path):
    data = told()
    model = Dots(data.schema)
    history = train(task(model, data, tmp_path, steps=40, validate=20, patience=0, snapshots=4, learning_rate=1e-3))
    assert [step for step, _ in stored(tmp_path)] == [2, 14, 28, 40]
    _, condition, noise, _, _ = model.asked[0]
    assert len(condition["label"].unique()) == 5
    for n, given, drawn, training, bias in model.asked:
        assert n == 200 == len(given["label"])
        assert torch.equal(given["label"], condition["label"])
        assert torch.equal(drawn, noise)
        assert not training
        assert float(bias.abs().max()) > 0
    found = kept(tmp_path)
    for (_, _, _, _, bias), x in zip(model.asked, found.values(), strict=True):
        np.testing.assert_allclose(x, (noise - bias).numpy(), rtol=1e-6)
    assert history.records[-1].validation == min(r.validation for r in history.records)
    assert torch.equal(model.asked[-1][4], model.bias.detach())
    assert not torch.equal(model.asked[-1][4], history.raw["bias"])


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (Vector(2), 200),
        (Vector(3), 0),
        (Image(1, 8, 8), 8),
        (Points(5, 2), 4),
        (Signal(1, 20), 4),
        (Tokens(("a", "b"), 4), 0),
        (Table((Column("a", ColumnKind.NUMBER), Column("b", ColumnKind.NUMBER))), 0),
    ],
)
def test_how_many_make_a_picture(kind, count):
    assert pictured(kind) == count


# when


def times(count, validations=40, seconds=1e9):
    film = Snapshots(task(Dots(Schema(Vector(2))), vectors(points(20, 2)), "run", snapshots=count))
    found = []
    for i in range(1, validations + 1):
        if film.due(i / validations, seconds * i / validations):
            found.append(i)
            film.taken, film.last = film._passed(i / validations), 1.0
            film.spent += 1.0
    return found


def test_they_are_spread_over_the_run():
    assert times(6) == [1, 8, 16, 24, 32, 40]
    assert times(2) == [1, 40]
    assert times(1) == [40]
    assert times(0) == []
    assert times(100) == list(range(1, 41))
    assert times(6, validations=3) == [1, 2, 3]


def test_slow_ones_are_fewer(monkeypatch):
    monkeypatch.setattr(snapshots, "_SHARE", 0.03)
    # each takes a second: of 400 twelve may be spent, of 200 six, of 100 three
    assert times(6, seconds=400) == [1, 8, 16, 24, 32, 40]
    assert times(6, seconds=200) == [1, 14, 20, 27, 34, 40]
    assert times(6, seconds=100) == [1, 27, 40]
    assert times(6, seconds=10) == [1]


def test_none_without_a_run_a_picture_or_a_sample(tmp_path):
    data = vectors(points(40, 2))
    assert not Snapshots(task(Line(data.schema), data, tmp_path)).on
    assert not Snapshots(job(Dots(data.schema), data)).on
    wide = vectors(points(40, 3))
    assert not Snapshots(task(Dots(wide.schema), wide, tmp_path)).on
    assert not Snapshots(task(Dots(data.schema), data, tmp_path, snapshots=0)).on
    assert Snapshots(task(Dots(data.schema), data, tmp_path)).on
    with pytest.raises(RecipeError, match="snapshots must be at least 0"):
        Training(snapshots=-1)


def test_a_model_that_stops_early_is_seen_at_its_end(tmp_path):
    data = vectors(points(60, 2))
    model = Dots(data.schema)
    options = {"steps": 400, "validate": 40, "patience": 2, "learning_rate": 1e-9, "average": 0, "weight_decay": 0.0}
    last = train(task(model, data, tmp_path, **options)).records[-1].step
    assert last < 400
    assert [step for step, _ in stored(tmp_path)][-1] == last


# training does not notice


@pytest.mark.parametrize("name", HIDDEN)
def test_training_ends_with_the_same_bits(tmp_path, name):
    options = {"steps": 12, "validate": 6, "batch_size": 16, "quiet": True, "report": False, "device": "cpu", **HIDDEN[name]}
    for count in (0, 6):
        pf.fit(points(100, 2), name, out=tmp_path / str(count), snapshots=count, **options)
    assert len(stored(tmp_path / "6")) == 6
    assert not (tmp_path / "0" / "snapshots").exists()
    for file in ("model.safetensors", "raw.safetensors"):
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "6" / file).read_bytes()
    assert lines(tmp_path / "0") == lines(tmp_path / "6")


def test_images_given_labels_end_with_the_same_bits(tmp_path):
    data = pf.open_data("digits", condition="label").select(slice(0, 60))
    found = []
    for count in (0, 3):
        from pushforward.catalog import family

        fam, run = family("rectified-flow"), tmp_path / str(count)
        training = Training(steps=3, validate=3, batch_size=8, device="cpu", snapshots=count)
        fit_data(data, fam, fam.configure({"width": 16}), training, out=run, report=False, quiet=True)
        found.append((run / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    pictures = kept(tmp_path / "3")
    assert list(pictures) == [1, 2, 3]
    assert all(x.shape == (8, 1, 8, 8) and x.dtype == np.uint8 for x in pictures.values())


def test_two_processes_keep_one_set(tmp_path):
    case = {"family_name": "rectified-flow", "hidden": [8], "steps": 4, "validate": 2, "batch_size": 32, "precision": "float32"}
    np.save(tmp_path / "data.npy", points(100, 2))
    assert launch(tmp_path, {"two": case}) == []
    pf.fit(tmp_path / "data.npy", out=tmp_path / "one", device="cpu", quiet=True, report=False, **case)
    one, two = kept(tmp_path / "one"), kept(tmp_path / "two")
    assert 2 in one
    assert 2 in two  # the second may be too slow for processes of their own
    np.testing.assert_allclose(two[2], one[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("checkpoint", ["old", "none"])
def test_a_resumed_run_has_the_same_snapshots(tmp_path, checkpoint):
    options = {"steps": 20, "validate": 20, "batch_size": 16, "quiet": True, "report": False, "device": "cpu", "hidden": (8,)}

    def raising(record):
        if checkpoint == "old" and record.step == 9:
            shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "kept")
        if record.step == 13:
            raise Stop

    pf.fit(points(100, 2), "ddpm", out=tmp_path / "whole", **options)
    with pytest.raises(Stop):
        pf.fit(points(100, 2), "ddpm", out=tmp_path / "run", callback=raising, **options)
    assert [step for step, _ in stored(tmp_path / "run")] == [1, 4, 8, 12]
    # killed long after the newest checkpoint: what was drawn since then comes again
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    if checkpoint == "old":
        shutil.move(tmp_path / "kept", tmp_path / "run" / "checkpoints")
    stored(tmp_path / "run")[1][1].write_bytes(b"damaged")
    part = tmp_path / "run" / "snapshots" / ".step-000016.1.part.npz"
    part.write_bytes(b"half of it")
    pf.fit(points(100, 2), "ddpm", out=tmp_path / "run", resume=True, **options)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not part.exists()
    whole, resumed = kept(tmp_path / "whole"), kept(tmp_path / "run")
    assert list(whole) == [1, 4, 8, 12, 16, 20]
    assert list(resumed) == ([1, 8, 12, 16, 20] if checkpoint == "old" else list(whole))
    for step, x in resumed.items():
        np.testing.assert_array_equal(x, whole[step])


def test_a_resumed_run_may_ask_for_more(tmp_path):
    options = {"steps": 4, "validate": 4, "quiet": True, "report": False, "hidden": (8,), "out": tmp_path / "run"}
    pf.fit(points(60, 2), "nice", snapshots=0, **options)
    pf.fit(points(60, 2), "nice", snapshots=3, resume=True, **options)


def test_a_model_that_cannot_be_drawn_from_is_trained_all_the_same(tmp_path):
    data = vectors(points(60, 2))
    for error in (pf.PushforwardError("not yet"), RuntimeError("singular")):
        model = Dots(data.schema, error)
        history = train(task(model, data, tmp_path, steps=10, validate=10, patience=0))
        assert history.records[-1].step == 10
        assert len(model.asked) == 6
        assert not stored(tmp_path)
    plain = train(job(Dots(data.schema), data, steps=10, validate=10, patience=0))
    assert torch.equal(history.raw["matrix"], plain.raw["matrix"])


# the folder of the run


def test_force_removes_what_another_model_left(tmp_path):
    run = tmp_path / "run"
    options = {"steps": 4, "validate": 4, "hidden": (8,), "quiet": True, "out": run}
    pf.fit(points(120, 2), "rectified-flow", **options)
    assert stored(run)
    assert (run / "trajectory.npz").exists()
    fam = own_family(lambda schema: Line(schema))
    training = Training(steps=4, validate=4, batch_size=16, device="cpu")
    fit_data(vectors(points(120, 2)), fam, fam.configure({}), training, out=run, force=True, report=False, quiet=True)
    left = {path.name for path in run.iterdir()}
    assert not left & {"snapshots", "trajectory.npz", "samples.npz", "density.npz", "report.html"}


def test_the_way_from_noise_to_data_is_kept_and_shown(tmp_path):
    run = tmp_path / "run"
    fitted = pf.fit(points(120, 2), "rectified-flow", steps=4, validate=4, hidden=(8,), quiet=True, out=run)
    way = np.load(run / "trajectory.npz")["x"]
    assert way.shape == (500, 6, 2)
    np.testing.assert_allclose(way[:, -1], fitted.sample_rows(500, seed=0).x.numpy(), rtol=1e-5)
    page = (run / "report.html").read_text()
    for words in ("The way to the data", "Snapshots", "step 1<", "step 4<"):
        assert words in page
    found = read_run(run)
    assert [step for step, _ in found.snapshots] == [1, 2, 3, 4]
    assert found.way.shape == way.shape
    plain = pf.fit(points(120, 2), "nice", steps=4, snapshots=0, hidden=(8,), quiet=True, out=tmp_path / "nice")
    assert plain.family.name == "nice"
    page = (tmp_path / "nice" / "report.html").read_text()
    assert "The way to the data" not in page
    assert "Snapshots" not in page


def test_damaged_files_are_named(tmp_path):
    run = tmp_path / "run"
    pf.fit(points(120, 2), "rectified-flow", steps=4, validate=4, hidden=(8,), quiet=True, out=run)
    way = np.load(run / "trajectory.npz")["x"]
    for bad in ({"x": way[:, :, :1]}, {"y": way}, {"x": way[0]}):
        np.savez(run / "trajectory.npz", **bad)
        with pytest.raises(CheckpointError, match=r"trajectory\.npz is damaged"):
            read_run(run)
    np.savez(run / "trajectory.npz", x=way)
    path = stored(run)[0][1]
    path.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"step-000001\.npz is damaged"):
        read_run(run)
