"""Signals and sets of points through a fit: samples, gaps, features, evaluation and what a run keeps of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import NoOptions, own_family

from pushforward.catalog.baselines import GaussianOptions, gaussian
from pushforward.core.errors import DataError
from pushforward.core.schema import Points, Schema, Signal
from pushforward.data.signals import read_wav
from pushforward.data.sources import open_data
from pushforward.fitting.features import features, outline
from pushforward.fitting.fit import fit_data, training_from
from pushforward.metrics import distances

VERBS = ("sample", "score", "encode", "complete")


def fit(data, run=None, **training):
    fam = own_family(lambda schema: gaussian(schema, GaussianOptions()), verbs=VERBS, kinds=("signal", "points"))
    return fit_data(data, fam, NoOptions(), training_from({"steps": 3, **training}), out=run, quiet=True)


def waves(n=200, channels=2, length=12, seed=0):
    rng = np.random.default_rng(seed)
    pitch, loud = rng.uniform(0.3, 0.9, (n, channels, 1)), rng.uniform(0.2, 0.5, (n, channels, 1))
    return (loud * np.sin(pitch * np.arange(length))).astype(np.float32)


def rings(n=200, count=6, seed=0):
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, (n, count)), rng.uniform(0.5, 2, (n, 1))
    return 3 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


SETS = {
    "mono": (waves(channels=1)[:, 0], "signal"),
    "stereo": (waves(), "signal"),
    "points": (rings(), "points"),
    "tensor": (torch.tensor(rings()), "points"),
}


@pytest.mark.parametrize("name", SETS)
def test_every_verb_speaks_the_users_type(name):
    x, kind = SETS[name]
    fitted = fit(open_data(x, kind=kind))
    drawn = fitted.sample(7, seed=1)
    assert type(drawn) is type(x)
    assert drawn.dtype == x.dtype
    assert drawn.shape == (7, *x.shape[1:])
    assert np.allclose(np.asarray(drawn)[:3], np.asarray(fitted.sample(7, seed=1, chunk=3))[:3])
    assert fitted.log_prob(x).shape == (len(x),)
    assert fitted.score(x).dims == np.asarray(x)[0].size
    assert len(fitted.encode(x)) == len(x)
    holes = x.clone() if isinstance(x, torch.Tensor) else x.copy()
    holes[::2, 1] = np.nan
    whole = np.asarray(fitted.complete(holes))
    seen = ~np.isnan(np.asarray(holes))
    assert np.isfinite(whole).all()
    assert np.array_equal(whole[seen], np.asarray(x)[seen])
    assert np.allclose(np.asarray(fitted.complete(x, observed=seen)), whole)


def test_a_mask_of_the_wrong_shape_is_refused():
    fitted = fit(open_data(SETS["stereo"][0], kind="signal"))
    with pytest.raises(DataError, match="observed has shape"):
        fitted.complete(SETS["stereo"][0], observed=np.ones((200, 12), bool))


def test_a_run_keeps_recordings_and_a_report(tmp_path):
    np.savez(tmp_path / "a.npz", x=SETS["mono"][0], rate=100, y=np.arange(200) % 2)
    fit(open_data(tmp_path / "a.npz"), tmp_path / "run")
    files = sorted((tmp_path / "run" / "samples").iterdir())
    assert [f.name for f in files[:2]] == ["0000.wav", "0001.wav"]
    x, rate = read_wav(files[0])
    assert (x.shape, rate) == ((1, 12), 100)
    with np.load(tmp_path / "run" / "samples.npz") as held:
        assert np.allclose(held["x"][0], x, atol=1 / 32768)
    figures = {m["name"]: m["value"] for m in json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]}
    assert {"nats", "sliced_wasserstein", "energy", "c2st", "memorisation", "linear_probe"} <= set(figures)
    assert "signals over time" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_of_points_keeps_samples_and_a_report(tmp_path):
    fit(open_data(SETS["points"][0], kind="points"), tmp_path / "run")
    with np.load(tmp_path / "run" / "samples.npz") as held:
        assert held["x"].shape[1:] == (6, 2)
    assert not (tmp_path / "run" / "samples.csv").exists()
    assert "contact sheet" in (tmp_path / "run" / "report.html").read_text()


# ------------------------------------------------------------------------------------------------------------- features


def test_features_of_signals_are_standardised_by_the_channel():
    schema, x = Schema(Signal(2, 12)), torch.tensor(waves()).double() * torch.tensor([[1.0], [50.0]])
    found = features(schema, x, x).reshape(-1, 2, 12)
    assert np.allclose(found.mean((0, 2)), 0, atol=1e-9)
    assert np.allclose(found.std((0, 2)), 1)
    # one scale for all samples of a channel: their shape is kept
    assert np.allclose(np.diff(found[0, 1]) / np.diff(x[0, 1].numpy()), (found[0, 1, 1] - found[0, 1, 0]) / float(x[0, 1, 1]))
    wild = x.clone()
    wild[0, 0, 0] = torch.inf
    assert np.isfinite(features(schema, wild, x)).all()


@pytest.mark.parametrize("dims", [1, 2, 3, 40])
def test_features_of_points_do_not_know_their_order(dims):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(9, 30, dims)))
    schema = Schema(Points(30, dims))
    found = features(schema, x, x)
    shuffled = x[:, torch.from_numpy(rng.permutation(30))]
    assert np.allclose(features(schema, shuffled, x), found)
    assert not np.allclose(features(schema, x.flip(0), x), found)
    # one scale for all coordinates, and any unit
    assert np.allclose(features(schema, 7 * x + 3, 7 * x + 3), found)


def test_outlines_are_as_far_apart_as_the_sets():
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(6, 512, 3)) * rng.uniform(0.3, 2, (6, 1, 3)) + rng.normal(size=(6, 1, 3))
    flat = outline(torch.from_numpy(sets)).numpy()
    near, far = [], []
    for i in range(6):
        for j in range(i):
            near.append(np.linalg.norm(flat[i] - flat[j]) / np.sqrt(flat.shape[1]))
            far.append(distances.sliced_wasserstein(sets[i], sets[j], projections=2000).value)
    assert np.allclose(near, far, rtol=0.2)
