"""A fitted model speaks the user's types, whatever the chunks, before and after it is saved."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import resource
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import points

import pushforward as pf
from pushforward.core.errors import CheckpointError, DataError, PushforwardError, RecipeError, Unsupported
from pushforward.core.schema import Schema, Vector
from pushforward.data import toys
from pushforward.fitting import files
from pushforward.fitting.fitted import Fitted

OPTIONS = {
    "nice": {"hidden": (16,), "transforms": 3, "steps": 20},
    "vae": {"hidden": (16,), "latent": 3, "steps": 20},
    "gmm": {"components": 3, "steps": 5},
    "made": {"hidden": (16,), "steps": 10},
    "wgan-gp": {"hidden": (16,), "critic_steps": 1, "steps": 5},
    "rectified-flow": {"steps": 5},
    "gaussian": {},
    "independent": {},
}


def fit(data, name, **more):
    return pf.fit(data, name, quiet=True, **(OPTIONS.get(name, {}) | more))


def mixed(n=160, seed=0):
    """Numbers, integers, a category, a boolean, and gaps in two of them."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "price": np.exp(size + 0.2 * rng.normal(size=n)).round(1),
            "rooms": rng.integers(1, 9, size=n),
            "town": np.where(size > 0, "Rome", np.where(rng.random(n) < 0.5, "Oslo", "Bern")),
            "sold": rng.random(n) < 0.3,
            "age": 30 + 10 * size + rng.normal(size=n),
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame.loc[::11, "town"] = None
    return frame


@pytest.fixture(scope="module")
def vectors():
    return {name: fit(points(), name) for name in OPTIONS}


@pytest.fixture(scope="module")
def tables():
    return {name: fit(mixed(), name) for name in ("nice", "vae", "gmm", "made")}


@pytest.fixture(scope="module")
def labelled():
    return fit("digits", "nice", condition="label", steps=3)


# chunks, seeds, files


@pytest.mark.parametrize("name", OPTIONS)
def test_samples_do_not_depend_on_chunks(vectors, name):
    whole = vectors[name].sample(150, seed=4)
    assert whole.shape == (150, 3)
    assert np.isfinite(whole).all()
    for chunk in (3, 7, 1000):
        np.testing.assert_allclose(vectors[name].sample(150, seed=4, chunk=chunk), whole, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(vectors[name].sample(40, seed=4), whole[:40], rtol=2e-4, atol=2e-5)
    assert not np.allclose(vectors[name].sample(150, seed=5), whole)


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "wgan-gp"])
def test_scores_do_not_depend_on_chunks(vectors, name):
    x = points(40, seed=9)
    whole = vectors[name].score(x, seed=2)
    assert whole.log_prob.shape == (40,)
    assert whole.log_prob.dtype == np.float64
    for chunk in (3, 7, 1000):
        found = vectors[name].score(x, seed=2, chunk=chunk)
        np.testing.assert_allclose(found.log_prob, whole.log_prob, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole.bits_per_dim, -whole.log_prob / 3 / np.log(2))


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_loaded(vectors, tmp_path, name):
    model = vectors[name]
    assert model.save(tmp_path / "run") == tmp_path / "run"
    again = pf.load(tmp_path / "run")
    assert again.recipe == json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert again.schema == model.schema
    assert again.family is model.family
    np.testing.assert_array_equal(again.sample(20, seed=1), model.sample(20, seed=1))
    x = points(20, seed=3)
    if "score" in model.family.verbs:
        np.testing.assert_array_equal(again.log_prob(x), model.log_prob(x))
    if "encode" in model.family.verbs:
        np.testing.assert_array_equal(again.encode(x), model.encode(x))


@pytest.mark.parametrize("name", ["nice", "vae", "gmm", "made"])
def test_a_table_saved_and_loaded(tables, tmp_path, name):
    tables[name].save(tmp_path / "run")
    again = pf.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.sample(30), tables[name].sample(30))
    np.testing.assert_array_equal(again.log_prob(mixed()), tables[name].log_prob(mixed()))


def test_save_does_not_overwrite(vectors, tmp_path):
    vectors["gmm"].save(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(PushforwardError, match="exists already") as found:
        vectors["nice"].save(tmp_path / "run")
    assert "\n" not in str(found.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    vectors["nice"].save(tmp_path / "run", force=True)
    assert pf.load(tmp_path / "run").family.name == "nice"


# types


@pytest.mark.parametrize("name", ["nice", "vae", "gmm", "made"])
def test_a_frame_in_gives_a_frame_out(tables, name):
    frame, model = mixed(), tables[name]
    drawn = model.sample(200)
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.columns) == list(frame.columns)
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    assert set(drawn["town"].dropna()) <= {"Rome", "Oslo", "Bern"}
    assert drawn["age"].isna().any()
    assert not drawn[["price", "rooms", "sold"]].isna().any().any()
    np.testing.assert_allclose(drawn["price"], drawn["price"].round(1))
    assert np.isfinite(model.log_prob(frame)).all()
    shuffled = frame[frame.columns[::-1]].assign(extra=1)
    np.testing.assert_array_equal(model.log_prob(shuffled), model.log_prob(frame))


def test_a_polars_frame_in_gives_a_polars_frame_out(tables):
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(mixed())
    model = fit(frame, "nice")
    drawn = model.sample(50)
    assert isinstance(drawn, polars.DataFrame)
    assert drawn.schema == frame.schema
    np.testing.assert_allclose(model.log_prob(frame), tables["nice"].log_prob(mixed()), rtol=1e-5, atol=1e-4)


def test_gaps_are_filled_and_the_rest_is_left(tables):
    frame = mixed()
    frame.loc[3:20, "price"] = np.nan
    for name in ("gmm", "vae", "made"):
        full = tables[name].complete(frame)
        assert list(full.columns) == list(frame.columns)
        assert full.dtypes.to_dict() == frame.dtypes.to_dict()
        assert not full["price"].isna().any()
        for column in frame.columns:
            known = frame[column].notna()
            pd.testing.assert_series_equal(full.loc[known, column], frame.loc[known, column])
        again = tables[name].complete(frame)
        pd.testing.assert_frame_equal(again, full)
        other = tables[name].complete(frame, seed=1)
        assert not other.loc[3:20, "price"].equals(full.loc[3:20, "price"])


@pytest.mark.parametrize("container", ["pandas", "polars", "file"])
def test_completed_rows_are_the_rows_that_were_given(tables, tmp_path, container):
    polars = pytest.importorskip("polars")
    frame = mixed()
    frame.insert(1, "ref", [f"x-{i:05d}" for i in range(len(frame))])
    frame.insert(2, "customer_id", 7 * np.arange(len(frame)) + 100_003)
    model = fit(polars.from_pandas(frame) if container == "polars" else frame, "gmm", components=2)
    part = frame.iloc[50:20:-1].copy()
    part["price"] = np.nan
    if container == "file":
        part.to_csv(tmp_path / "part.csv", index=False)
    given = {"pandas": part, "polars": polars.from_pandas(part), "file": tmp_path / "part.csv"}[container]
    full = model.complete(given)
    assert list(full.columns) == list(frame.columns)
    assert list(full["ref"]) == list(part["ref"])
    assert list(full["customer_id"]) == list(part["customer_id"])


def test_a_file_that_is_no_table_is_named(tables, tmp_path):
    np.save(tmp_path / "points.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"points\.npy is no table file: expected a table with columns"):
        tables["gmm"].score(tmp_path / "points.npy")


def test_gaps_of_vectors_are_filled_from_the_conditional(vectors):
    """A Gaussian's completion follows the textbook formula."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + [10, -5]
    model = fit(x, "gaussian")
    gaps = np.full((2000, 2), np.nan)
    gaps[:, 0] = 13.0
    full = model.complete(gaps)
    np.testing.assert_array_equal(full[:, 0], 13.0)
    # x2 | x1 = 13 is N(-5 + (13 - 10) / 2, 0.25)
    assert full[:, 1].mean() == pytest.approx(-3.5, abs=0.06)
    assert full[:, 1].std() == pytest.approx(0.5, abs=0.04)


def test_ways_of_scoring_and_encoding_are_options_of_the_family(vectors):
    flow, x = vectors["rectified-flow"], points(30)
    tight = flow.log_prob(x, tolerance=1e-6)
    np.testing.assert_allclose(flow.log_prob(x, steps=200), tight, atol=1e-3)
    assert np.abs(flow.log_prob(x, steps=2) - tight).max() > 1e-3
    np.testing.assert_allclose(flow.encode(x, steps=400), flow.encode(x), atol=0.05)
    with pytest.raises(RecipeError, match="give one of them"):
        flow.log_prob(x, steps=3, tolerance=1e-3)
    with pytest.raises(RecipeError, match="tolerance must be above 0"):
        flow.log_prob(x, tolerance=-1.0)
    with pytest.raises(RecipeError, match="nice has no option 'steps' to score with: it has none"):
        vectors["nice"].score(x, steps=3)
    with pytest.raises(RecipeError, match="no option 'step' to encode with: did you mean 'steps'"):
        flow.encode(x, step=3)


def test_ways_of_completing_are_options_of_the_family(vectors):
    gaps = points(40)
    gaps[::2, 0] = np.nan
    flow, seen = vectors["rectified-flow"], {}
    for method in ("particles", "repaint", "replace", "posterior"):
        seen[method] = flow.complete(gaps, method=method, steps=3)
        np.testing.assert_array_equal(seen[method][~np.isnan(gaps)], gaps[~np.isnan(gaps)])
        assert np.isfinite(seen[method]).all()
    for one, other in itertools.combinations(seen.values(), 2):
        assert not np.allclose(one, other)
    np.testing.assert_array_equal(flow.complete(gaps, steps=3), seen["particles"])
    np.testing.assert_array_equal(flow.complete(gaps, steps=3, method="repaint", repeats=1), seen["replace"])
    with pytest.raises(RecipeError, match="nice has no option 'steps' to complete with: it has none"):
        vectors["nice"].complete(gaps, steps=3)
    with pytest.raises(RecipeError, match="no option 'repeat' to complete with: did you mean 'repeats'"):
        flow.complete(gaps, repeat=3)


def test_images_are_bytes():
    model = fit("digits", "vae", steps=5)
    drawn = model.sample(3)
    assert drawn.dtype == np.uint8
    assert drawn.shape[:3] == (3, 8, 8)
    pixels = pf.open_data("digits").rows(slice(0, 5)).x.numpy()[:, 0]
    observed = np.zeros((5, 8, 8), dtype=bool)
    observed[:, :4] = True
    given = model.decode(pf.open_data("digits").rows(slice(0, 5)))
    full = model.complete(given, observed=observed)
    np.testing.assert_array_equal(full[:, :4], given[:, :4])
    assert (full[:, 4:] != given[:, 4:]).any()
    with pytest.raises(DataError, match="observed="):
        model.complete(given)
    with pytest.raises(DataError, match="observed has shape"):
        model.complete(given, observed=observed[:, :4])
    assert pixels.max() == 16


def test_texts_are_strings():
    texts = ["the cat sat", "a dog ran by", "the dog sat", "a cat ran by"] * 20
    model = fit(texts, "made", length=6)
    drawn = model.sample(4)
    assert isinstance(drawn, list)
    assert all(isinstance(t, str) and len(t) == 6 for t in drawn)
    assert set("".join(drawn)) <= set("".join(texts))
    assert model.log_prob(["the ca"]).shape == (1,)
    with pytest.raises(DataError):
        model.log_prob(["THE CA"])


def test_codes_have_the_promised_shape(vectors, labelled):
    x = points(11)
    assert vectors["nice"].encode(x).shape == (11, 3)
    assert vectors["vae"].encode(x).shape == (11, 3)
    assert vectors["gmm"].encode(x).shape == (11, 3)
    np.testing.assert_allclose(vectors["gmm"].encode(x).sum(1), 1)


def test_predictions_are_in_the_users_categories():
    frame = mixed()
    frame["town"] = frame["town"].fillna("Bern")
    model = pf.fit(frame, "classifier", target="town", steps=60, quiet=True)
    found = model.predict(frame)
    assert set(found) <= {"Rome", "Oslo", "Bern"}
    probability = model.predict_proba(frame.drop(columns="town"))
    assert probability.shape == (160, 3)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
    assert [model.classes[i] for i in probability.argmax(1)] == list(found)
    assert ((found == "Rome") == (frame["town"] == "Rome")).mean() > 0.9
    flags = pf.fit(frame, "classifier", target="sold", steps=3, quiet=True)
    assert flags.predict(frame).dtype == bool
    whole = pf.fit(frame, "classifier", target="rooms", steps=3, quiet=True)
    assert set(whole.predict(frame).tolist()) <= set(range(1, 9))
    assert all(isinstance(v, int) for v in whole.predict(frame).tolist())


# verbs and options


def test_missing_verbs_name_families_that_have_them(vectors):
    with pytest.raises(Unsupported, match=r"wgan-gp cannot score; .*nice.* can"):
        vectors["wgan-gp"].log_prob(points(3))
    with pytest.raises(Unsupported, match=r"wgan-gp cannot complete; .*gmm.* can"):
        vectors["wgan-gp"].complete(points(3))
    with pytest.raises(Unsupported, match=r"gmm cannot interpolate; .*nice.* can"):
        vectors["gmm"].interpolate(points(3), points(3))
    with pytest.raises(Unsupported, match="cannot predict"):
        vectors["nice"].predict(points(3))
    assert vectors["wgan-gp"].density_kind is None
    kinds = {n: vectors[n].density_kind for n in ("nice", "gmm", "vae", "rectified-flow")}
    assert kinds == {"nice": "exact", "gmm": "exact", "vae": "lower_bound", "rectified-flow": "ode"}


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m: m.sample(3, temprature=1), RecipeError, "did you mean 'temperature'"),
        (lambda m: m.sample(0), RecipeError, "at least 1, found 0"),
        (lambda m: m.sample(3, chunk=0), RecipeError, "chunk must be at least 1"),
        (lambda m: m.sample(3, condition={"label": 1}), Unsupported, "without conditions"),
        (lambda m: m.score(points(3), samples=0), RecipeError, "samples must be at least 1"),
        (lambda m: m.score(points(3, 2)), DataError, "2 numbers a row: expected 3"),
        (lambda m: m.score(np.zeros((0, 3))), DataError, "no rows"),
        (lambda m: m.score(np.full((2, 3), np.nan)), DataError, "nan"),
    ],
)
def test_calls_that_make_no_sense(vectors, call, error, said):
    with pytest.raises(error, match=said) as found:
        call(vectors["nice"])
    assert "\n" not in str(found.value)


def test_steps_below_one_are_refused(vectors):
    with pytest.raises(RecipeError, match="steps must be at least 1, found 0"):
        vectors["rectified-flow"].sample(3, steps=0)


def test_temperature_is_an_option(vectors):
    cold, warm = (vectors["nice"].sample(400, temperature=t).std(0) for t in (0.2, 1.0))
    assert (cold < 0.6 * warm).all()


# conditions


def test_conditions_in_the_users_terms(labelled):
    one = labelled.sample(4, condition={"label": 3})
    np.testing.assert_array_equal(labelled.sample(4, condition={"label": [3, 3, 3, 3]}), one)
    np.testing.assert_array_equal(labelled.sample(4, condition={"label": np.array([3, 3, 3, 3])}), one)
    np.testing.assert_array_equal(labelled.sample(4, condition={"label": "3"}), one)
    assert labelled.sample(5).shape[0] == 5
    np.testing.assert_array_equal(labelled.sample_rows(3, condition={"label": [7, 0, 2]}).columns["label"], [7, 0, 2])


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"labl": 3}, "no condition 'labl': did you mean 'label'"),
        ({}, "lacks label"),
        ({"label": [1, 2, 3]}, "3 values for 4 samples"),
        ({"label": 17}, "17"),
        ({"label": "seven"}, "seven"),
    ],
)
def test_conditions_that_are_none(labelled, condition, said):
    with pytest.raises(DataError, match=said) as found:
        labelled.sample(4, condition=condition)
    assert "\n" not in str(found.value)


def test_conditions_of_tables_are_scored_and_given_back():
    frame = mixed()
    frame["town"] = frame["town"].fillna("Bern")
    model = fit(frame, "nice", condition=["town", "rooms"], steps=60)
    drawn = model.sample(6, condition={"town": ["Rome", "Oslo"] * 3, "rooms": 4})
    assert list(drawn.columns) == list(frame.columns)
    assert drawn["town"].tolist() == ["Rome", "Oslo"] * 3
    assert drawn["rooms"].tolist() == [4] * 6
    assert np.isfinite(model.log_prob(frame)).all()
    swapped = frame.assign(town=np.where(frame["town"] == "Rome", "Oslo", "Rome"))
    assert model.log_prob(frame).mean() > model.log_prob(swapped).mean()
    with pytest.raises(DataError, match="town"):
        model.log_prob(frame.drop(columns="town"))
    with pytest.raises(DataError, match="Paris"):
        model.sample(1, condition={"town": "Paris", "rooms": 1})


# what a score means


def test_bounds_grow_with_samples(vectors):
    x = points(200, seed=3)
    model = vectors["vae"]
    scores = {k: model.score(x, samples=k) for k in (1, 4, 32)}
    means = [scores[k].log_prob.mean() for k in (1, 4, 32)]
    assert means[0] < means[1] < means[2]
    assert np.isnan(scores[1].standard_error).all()
    errors = scores[32].standard_error
    assert (errors > 0).all()
    assert np.median(errors) < 1
    # the error tells how far another seed's value lies
    other = model.score(x, samples=32, seed=1)
    z = (other.log_prob - scores[32].log_prob) / np.hypot(errors, other.standard_error)
    assert 0.4 < np.sqrt(np.mean(np.clip(z, -5, 5) ** 2)) < 2
    exact = vectors["nice"].score(x, samples=7)
    assert (exact.standard_error == 0).all()
    np.testing.assert_array_equal(exact.log_prob, vectors["nice"].score(x).log_prob)


@pytest.mark.parametrize("name", ["gmm", "nice", "gaussian", "made"])
def test_densities_are_in_the_users_units(name):
    x, new = points(), points(30, seed=5)
    options = {"steps": 15, "validate": 1}
    small, large = (fit(scale * x, name, **(options if name != "gaussian" else {})) for scale in (1.0, 1000.0))
    shift = large.log_prob(1000 * new) - small.log_prob(new)
    np.testing.assert_allclose(shift, -3 * np.log(1000), atol=0.02)


def test_one_gaussian_scores_as_scipy_does():
    from scipy.stats import multivariate_normal

    scale = np.array([1, 1e-6, 1e6])
    x = points(400)
    model = fit(x * scale, "gaussian")
    train = model.open(x).split(0).train.rows().x.numpy()
    expected = multivariate_normal(train.mean(0), np.cov(train.T, bias=True)).logpdf(x[:50]) - np.log(scale).sum()
    np.testing.assert_allclose(model.log_prob(x[:50] * scale), expected, atol=0.05)


def test_a_density_integrates_to_one():
    x = toys.sample("moons", 1500, seed=1) * [3.0, 0.2] + [50, -1]
    model = fit(x, "nice", steps=120, hidden=(32, 32), transforms=4)
    low, high = x.min(0), x.max(0)
    axes = [np.linspace(a - (b - a), b + (b - a), 300) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    mass = np.exp(model.log_prob(grid)).sum() * np.prod([axis[1] - axis[0] for axis in axes])
    assert mass == pytest.approx(1, abs=0.02)


# damage


@pytest.fixture
def saved(vectors, tmp_path):
    return vectors["nice"].save(tmp_path / "run")


def edit(run, **changes):
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | changes))


def truncate(run):
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(run):
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5])


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-read",)


def put_pickle(run):
    (run / "model.safetensors").write_bytes(pickle.dumps(Bomb()))


def put_torch_file(run):
    torch.save({"a": torch.zeros(2)}, run / "model.safetensors")


def put_folder(run):
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "model.safetensors is damaged or truncated"),
        (cut_header, "damaged or truncated"),
        (lambda run: (run / "model.safetensors").write_bytes(b""), "damaged or truncated"),
        (put_pickle, "is a pickle"),
        (put_torch_file, "is a pickle"),
        (put_folder, "model.safetensors"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: (run / "recipe.json").unlink(), "recipe.json is missing"),
        (lambda run: (run / "recipe.json").write_text("{ not json"), "recipe.json is damaged"),
        (lambda run: (run / "recipe.json").write_bytes(b"\xff\xfe\x00"), "recipe.json is damaged"),
        (lambda run: (run / "recipe.json").write_text("[1]"), "is no recipe"),
        (lambda run: (run / "recipe.json").write_text("[[1]]"), "is no recipe"),
        (lambda run: (run / "recipe.json").write_text("5"), "is no recipe"),
        (lambda run: (run / "recipe.json").write_text("{}"), "is no recipe"),
        (lambda run: edit(run, version=2), "version 2, this pushforward reads up to 1: upgrade"),
        (lambda run: edit(run, version="new"), "version"),
        (lambda run: edit(run, options={"hidden": [17], "transforms": 3}), "does not fit recipe.json"),
        (lambda run: edit(run, options={"hidden": [16], "transforms": 5}), "does not fit recipe.json"),
        (lambda run: edit(run, options={"hiden": [16]}), "no option 'hiden'"),
        (lambda run: edit(run, options={"hidden": "wide"}), "nice|recipe.json is damaged"),
        (lambda run: edit(run, options=7), "recipe.json is damaged"),
        (lambda run: edit(run, family="nicer"), "no family is called 'nicer'"),
        (lambda run: edit(run, family=["nice"]), "recipe.json is damaged"),
        (lambda run: edit(run, schema={"example": {"kind": "vector"}}), "schema is damaged"),
        (lambda run: edit(run, schema=3), "schema is damaged"),
        (lambda run: (run / "preview.npz").write_bytes(b"PK\x03\x04rubbish"), "preview.npz is damaged"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(saved, monkeypatch, damage, said):
    monkeypatch.chdir(saved.parent)
    damage(saved)
    with pytest.raises((CheckpointError, RecipeError), match=said) as found:
        pf.load(saved)
    assert "\n" not in str(found.value)
    assert str(saved) in str(found.value) or isinstance(found.value, RecipeError)
    assert not os.path.exists("pickle-was-read")


def test_what_is_no_run(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError):
            pf.load(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="no run folder"):
        pf.load(tmp_path / "file")


def test_an_unknown_device(saved):
    with pytest.raises(RecipeError, match="device 'abacus'"):
        pf.load(saved, device="abacus")


def test_any_length_of_the_header_is_read(tmp_path):
    """safetensors begin with the length of their header, and its first byte may be that of a pickle."""
    starts = set()
    for count in range(1, 40):
        tensors = {f"tensor-{i:0{count}d}": torch.full((2,), float(i)) for i in range(count)}
        files.write_tensors(tmp_path / "t.safetensors", tensors)
        starts.add((tmp_path / "t.safetensors").read_bytes()[0])
        found = files.read_tensors(tmp_path / "t.safetensors")
        assert all(torch.equal(found[n], t) for n, t in tensors.items())
    assert 0x80 in starts


# writing


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_files(vectors, saved, monkeypatch, name):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, full_disk)
        with pytest.raises(PushforwardError, match="the disk is full") as found:
            vectors["vae"].save(saved, force=True)
    assert "\n" not in str(found.value)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_files_that_may_not_grow(vectors, saved):
    """A real failure of the operating system in the middle of writing weights."""
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(PushforwardError, match=r"model\.safetensors could not be written: File too large"):
            vectors["vae"].save(saved, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_writer_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})

    def half():
        with files.whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    from pushforward.fitting import checkpoint

    checkpoint.save(tmp_path, 3, {"a": torch.ones(2)}, {})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full_disk)
        with pytest.raises(PushforwardError, match="disk is full"):
            checkpoint.save(tmp_path, 4, {"a": torch.zeros(2)}, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000003"]
    assert torch.equal(checkpoint.load(checkpoint.latest(tmp_path))[0]["a"], torch.ones(2))
    checkpoint.save(tmp_path, 4, {"a": torch.zeros(2)}, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000004"]


def test_a_folder_that_may_not_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PushforwardError, match=r"could not be written|is a file") as found:
        pf.fit(points(60), "gaussian", out=tmp_path / "file" / "run", quiet=True, report=False)
    assert "\n" not in str(found.value)


def test_a_fitted_model_is_in_evaluation_mode(vectors):
    assert all(not m.model.training for m in vectors.values())
    assert isinstance(vectors["nice"], Fitted)
    assert vectors["nice"].schema == Schema(Vector(3))
