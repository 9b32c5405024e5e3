"""fit, compare and evaluate from the outside: what they open, what they report, what they write."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import Line, own_family, points, vectors

import pushforward as pf
from pushforward import catalog
from pushforward.core.errors import DataError, PushforwardError, RecipeError, Unsupported
from pushforward.fitting import compare as comparing
from pushforward.fitting.evaluate import evaluate
from pushforward.fitting.fit import fit_data

FAST = {"steps": 6, "quiet": True}


# what fit opens


def test_fit_opens_arrays_frames_and_files(tmp_path):
    x = points(80)
    expected = pf.fit(x, "gaussian", **FAST).log_prob(x)
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(pf.fit(tmp_path / "x.npy", "gaussian", **FAST).log_prob(x), expected)
    np.testing.assert_array_equal(pf.fit(str(tmp_path / "x.npy"), "gaussian", **FAST).log_prob(x), expected)
    np.testing.assert_array_equal(pf.fit(torch.from_numpy(x), "gaussian", **FAST).log_prob(x), expected)
    np.testing.assert_array_equal(pf.fit(pf.open_data(x), "gaussian", **FAST).log_prob(x), expected)
    frame = pd.DataFrame(x, columns=list("abc"))
    by_frame = pf.fit(frame, "gaussian", **FAST).log_prob(frame)
    np.testing.assert_allclose(by_frame, expected, rtol=1e-6, atol=1e-6)
    frame.to_csv(tmp_path / "x.csv", index=False)
    by_file = pf.fit(tmp_path / "x.csv", "gaussian", **FAST)
    np.testing.assert_allclose(by_file.log_prob(tmp_path / "x.csv"), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(by_file.log_prob(frame), expected, rtol=1e-6, atol=1e-6)


def test_fit_does_not_change_the_callers_data():
    x = points(60)
    frame = pd.DataFrame(x, columns=list("abc"))
    kept, kept_frame = x.copy(), frame.copy()
    for given in (x, frame):
        model = pf.fit(given, "nice", hidden=(8,), **FAST)
        model.log_prob(given), model.encode(given)
    np.testing.assert_array_equal(x, kept)
    pd.testing.assert_frame_equal(frame, kept_frame)


def test_drop_and_types_reach_the_data():
    frame = pd.DataFrame(points(60), columns=list("abc")).assign(code=np.arange(60) % 3, junk="x")
    model = pf.fit(frame, "gaussian", types={"code": "category"}, drop=["junk", "c"], **FAST)
    assert [c.name for c in model.schema.example.columns] == ["a", "b", "code"]
    assert model.schema.example.columns[2].discrete


def test_a_family_without_parameters(tmp_path):
    model = pf.fit("digits", "independent", quiet=True, out=tmp_path / "run", report=False)
    assert model.recipe["parameters"] >= 64 * 17  # a frequency of each level of each pixel, though nothing is trained
    assert model.recipe["steps"] == 0
    again = pf.load(tmp_path / "run")
    images = model.sample(20)
    np.testing.assert_array_equal(again.sample(20), images)
    np.testing.assert_array_equal(again.log_prob(images), model.log_prob(images))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert len(before.splitlines()) == 1
    pf.fit("digits", "independent", quiet=True, out=tmp_path / "run", report=False, resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_classifier_of_images_takes_their_labels():
    model = pf.fit("digits", "classifier", **FAST)
    assert model.schema.target.name == "label"
    assert model.classes == tuple(range(10))
    again = pf.fit(pf.open_data("digits", target="label"), "classifier", **FAST)
    assert again.schema == model.schema


def test_an_integer_target_is_a_category():
    frame = pd.DataFrame(points(90), columns=list("abc")).assign(stars=np.arange(90) % 30 + 1)
    model = pf.fit(frame, "classifier", target="stars", **FAST)
    assert model.schema.target.discrete
    assert model.classes == tuple(range(1, 31))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda f: pf.fit(f, "classifier", **FAST), RecipeError, "name one with target="),
        (lambda f: pf.fit(f, "classifier", target="a", **FAST), RecipeError, "'a' holds numbers"),
        (lambda f: pf.fit(f, "classifier", target="z", **FAST), DataError, "no column 'z'"),
        (lambda f: pf.fit(f, "nise", **FAST), RecipeError, "did you mean 'nice'"),
        (lambda f: pf.fit(f, "nice", hiden=(3,), **FAST), RecipeError, "did you mean 'hidden'"),
        (lambda f: pf.fit(f, "gmm", condition="a", **FAST), Unsupported, "takes no conditions"),
        (lambda f: pf.fit(f, "nice", target="a", **FAST), Unsupported, "predicts no target"),
        (lambda f: pf.fit(f.iloc[:3], "nice", **FAST), DataError, "3 rows"),
        (lambda f: pf.fit(points(30), "classifier", **FAST), RecipeError, "name one with target="),
        (lambda f: pf.fit("no-such-thing", "nice", **FAST), DataError, "no-such-thing"),
        (lambda f: pf.fit(["a cat", "a dog"] * 30, "gmm", length=3, **FAST), Unsupported, "found tokens data"),
        (lambda f: pf.fit(f, "gmm", components=0, **FAST), RecipeError, "components must be at least 1"),
    ],
)
def test_errors_are_one_line(call, error, said):
    frame = pd.DataFrame(points(60), columns=list("abc"))
    with pytest.raises(error, match=said) as found:
        call(frame)
    assert "\n" not in str(found.value)


def test_the_run_folder(tmp_path):
    run = tmp_path / "a" / "b"
    model = pf.fit(points(80), "nice", out=run, report=False, hidden=(8,), **FAST)
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe == json.loads(json.dumps(model.recipe))
    assert recipe["version"] == 1
    assert recipe["options"]["hidden"] == [8]
    assert recipe["training"]["steps"] == 6
    assert recipe["data"]["rows"] == {"train": 64, "validation": 8, "test": 8}
    assert recipe["parameters"] == sum(p.numel() for p in model.model.parameters())
    names = {p.name for p in run.iterdir()}
    assert names == {"recipe.json", "metrics.jsonl", "model.safetensors", "raw.safetensors", "preview.npz", "checkpoints"}
    assert not [p for p in run.rglob("*") if ".part" in p.name or p.name.startswith(".")]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(PushforwardError, match="not empty"):
        pf.fit(points(60), "gaussian", out=tmp_path, report=False, **FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    pf.fit(points(60), "gaussian", out=tmp_path, report=False, force=True, **FAST)
    assert (tmp_path / "mine.txt").read_text() == "precious"


# compare


@pytest.fixture
def broken(monkeypatch):
    """A family called broken whose model cannot be built."""

    def make(schema):
        raise RuntimeError("the net\nfell over")

    families = dict(catalog.FAMILIES) | {"broken": own_family(make, name="broken")}
    for module in (catalog, comparing):
        monkeypatch.setattr(module, "FAMILIES", families)
    return families


def test_one_family_that_fails_does_not_stop_the_others(broken, tmp_path, capsys):
    found = pf.compare(points(120), ["gaussian", "broken", "independent"], steps=4, out=tmp_path / "out", quiet=True)
    assert [r.family for r in found.results] == ["gaussian", "broken", "independent"]
    (failed,) = found.failed
    assert failed.error == "RuntimeError: the net fell over"
    assert (tmp_path / "out" / "broken" / "error.txt").read_text() == failed.error + "\n"
    assert "Traceback" in (tmp_path / "out" / "broken" / "traceback.txt").read_text()
    board = found.leaderboard
    assert set(board["family"]) == {"gaussian", "broken", "independent"}
    assert board.set_index("family").loc["broken", "error"] == failed.error
    found.table()
    written = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert list(written["family"]) == list(board["family"])
    np.testing.assert_allclose(written["nats"], board["nats"])
    kept = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [r["error"] for r in kept["results"]] == ["", failed.error, ""]
    assert pf.load(tmp_path / "out" / "gaussian").family.name == "gaussian"


def test_where_all_fail_the_first_reason_is_told(broken):
    with pytest.raises(PushforwardError, match="no family could be fitted; the first said: RuntimeError: the net fell over"):
        pf.compare(points(60), ["broken"], steps=2, quiet=True)


def test_all_families_see_the_same_rows(monkeypatch):
    seen = []
    real = comparing.fit_data

    def spy(data, fam, config, training, *, splits, **rest):
        seen.append((fam.name, training.seed, *(tuple(part.index) for part in (splits.train, splits.validation, splits.test))))
        return real(data, fam, config, training, splits=splits, **rest)

    monkeypatch.setattr(comparing, "fit_data", spy)
    pf.compare(points(100), ["gaussian", "gmm", "nice"], steps=2, seeds=2, seed=5, quiet=True)
    assert [(name, seed) for name, seed, *_ in seen] == [(n, s) for n in ("gaussian", "gmm", "nice") for s in (5, 6)]
    assert len({rows for _, _, *parts in seen for rows in [tuple(parts)]}) == 1
    train, validation, test = (set(part) for part in seen[0][2:])
    assert len(train | validation | test) == 100
    assert len(train) + len(validation) + len(test) == 100


def test_seeds_give_errors_over_seeds():
    found = pf.compare(points(150), ["vae", "gaussian"], steps=8, seeds=3, quiet=True, batch_size=32)
    board = found.leaderboard.set_index("family")
    assert board.loc["vae", "seeds"] == 3
    values = [r.evaluation["nats"].value for r in found.results if r.family == "vae"]
    assert len(set(values)) == 3
    assert board.loc["vae", "nats"] == pytest.approx(np.mean(values))
    assert board.loc["vae", "nats_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    # a Gaussian is the same whatever the seed of the training
    assert board.loc["gaussian", "nats_error"] == pytest.approx(0, abs=1e-9)


def test_kinds_of_density_are_never_ranked_as_one():
    names = ["vae", "wgan-gp", "independent", "gaussian"]
    found = pf.compare(points(120), names, steps=3, quiet=True)
    board = found.leaderboard
    assert dict(zip(board["family"], board["density"], strict=True)) == {
        "vae": "lower_bound",
        "wgan-gp": "",
        "independent": "exact",
        "gaussian": "exact",
    }
    assert list(board["family"])[2:] == ["vae", "wgan-gp"]
    exact = board[board["density"] == "exact"]["nats"]
    assert exact.is_monotonic_increasing
    assert np.isnan(board.set_index("family").loc["wgan-gp", "nats"])
    assert "may understate" in str(found.table().caption)


def test_families_named_twice_are_fitted_once():
    found = pf.compare(points(60), ["gaussian", "gaussian"], steps=2, quiet=True)
    assert len(found.results) == 1


@pytest.mark.parametrize(
    ("families", "options", "said"),
    [
        ([], {}, "at least one family"),
        (["gausian"], {}, "did you mean 'gaussian'"),
        (["gaussian"], {"steps": 2, "minutes": 1}, "not both"),
        (["gaussian"], {"seeds": 0}, "seeds must be at least 1"),
        (["gaussian"], {"stepss": 2}, "did you mean 'steps'"),
    ],
)
def test_comparisons_that_make_no_sense(families, options, said):
    with pytest.raises(RecipeError, match=said) as found:
        pf.compare(points(60), families, quiet=True, **options)
    assert "\n" not in str(found.value)


def test_compare_does_not_overwrite(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(PushforwardError, match="not empty"):
        pf.compare(points(60), ["gaussian"], steps=2, out=tmp_path / "out", quiet=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_all_stands_for_every_family_of_such_data():
    able = [f.name for f in catalog.chosen(["all"], "signal")]
    assert {"independent", "gaussian", "ddpm"} < set(able)
    assert not {"made", "classifier", "transport"} & set(able)
    assert "classifier" in [f.name for f in catalog.chosen(["all"], "table", target=True)]
    twice = catalog.chosen(["gmm", "all", "gmm"], "vector")
    assert twice[0].name == "gmm"
    assert len(twice) == len({f.name for f in twice})
    with pytest.raises(RecipeError, match="no family is called 'al'"):
        catalog.chosen(["al"])


# evaluate


def measured(data, name, **options):
    opened = pf.open_data(data, target="label" if name == "classifier" else None)
    fam = catalog.family(name)
    training = comparing.training_from({"steps": 20, "seed": 0} | options)
    splits = opened.split(0)
    return evaluate(fit_data(opened, fam, fam.configure({}), training, splits=splits, quiet=True), splits, quiet=True)


def test_each_verb_has_its_figures():
    density = {"nats", "bits_per_dim", "calibration_ranks"}
    drawn = {"sliced_wasserstein", "energy", "c2st", "memorisation", "samples_per_second", "precision", "recall", "coverage"}
    codes, told, all_have = {"linear_probe", "knn"}, {"accuracy", "log_loss", "calibration"}, {"parameters", "seconds"}
    found = {name: measured("digits", name) for name in ("gaussian", "simclr", "classifier")}
    assert {m.name for m in found["gaussian"].metrics} == density | drawn | codes | all_have
    assert {m.name for m in found["simclr"].metrics} == codes | all_have
    assert {m.name for m in found["classifier"].metrics} == codes | told | all_have
    toy = measured("moons", "wgan-gp", steps=3)
    assert {m.name for m in toy.metrics} == drawn | all_have | {"critic"}
    random = np.random.default_rng(0)
    mixed = {"length": random.normal(size=300), "mass": random.normal(size=300), "sex": random.choice(["f", "m"], 300)}
    table = measured(pd.DataFrame(mixed), "gmm", steps=3)
    columns = {"column_shapes", "pair_trends", "c2st_column", "closest_record"}
    assert {m.name for m in table.metrics} == density | drawn | columns | all_have
    pictures = measured("digits", "made", steps=3)
    assert 0 < pictures["coverage"].value <= 1
    for evaluation in found.values():
        assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["family"] == evaluation.family
        for metric in evaluation.metrics:
            assert math.isfinite(metric.value)
            assert metric.kind in (("exact", "lower_bound") if metric.name in ("nats", "bits_per_dim") else (None,))
    assert 0 < found["gaussian"]["calibration_ranks"].value < 1
    assert found["simclr"]["linear_probe"].value > 0.7
    with pytest.raises(KeyError):
        toy["nats"]


def test_unseen_rows_far_out_have_low_ranks_and_slow_densities_few_rows(monkeypatch):
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(15_000, 2)), rng.normal(size=(15_000, 2)) * 6
    splits, away = (vectors(x).split(0) for x in (near, far))
    fitted = fit_data(splits.train, *own_gaussian(), splits=splits, quiet=True)
    right = evaluate(fitted, splits, quiet=True)
    assert right["calibration_ranks"].value < 0.12
    assert right["nats"].n == 1500
    monkeypatch.setattr("pushforward.fitting.evaluate._PATIENCE", 0.0)
    wrong = evaluate(fitted, replace(splits, test=away.test), quiet=True)
    assert wrong["calibration_ranks"].value > 0.6
    assert int(wrong["calibration_ranks"].note.split("less likely than ")[1].split("%")[0]) > 85
    assert wrong["nats"].n == 1000


def own_gaussian():
    fam = catalog.family("gaussian")
    return fam, fam.configure({}), comparing.training_from({"steps": 20, "seed": 0})


@pytest.mark.parametrize("rows", [5, 12, 30, 60])
def test_with_few_rows_figures_that_need_more_are_left_out(tmp_path, rows):
    x = points(rows)
    pf.fit(x, "gaussian", out=tmp_path / "run", **FAST)
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    names = {m["name"] for m in kept["metrics"]}
    assert {"nats", "samples_per_second"} <= names
    assert "c2st" not in names
    assert ("energy" in names) == (rows >= 15)
    assert (tmp_path / "run" / "report.html").exists()
    assert "c2st" in {m.name for m in measured(points(110), "gaussian").metrics}


def test_nats_are_those_of_the_test_rows():
    x = points(400)
    evaluation = measured(x, "gaussian")
    splits = pf.open_data(x).split(0)
    model = pf.fit(x, "gaussian", quiet=True)
    scores = model.log_prob(splits.test.rows().x.numpy())
    assert evaluation["nats"].value == pytest.approx(-scores.mean())
    assert evaluation["nats"].n == 40
    assert evaluation["nats"].standard_error == pytest.approx(scores.std(ddof=1) / math.sqrt(40), rel=0.02)
    assert evaluation["bits_per_dim"].value == pytest.approx(-scores.mean() / 3 / math.log(2))


def test_rows_without_a_finite_density_are_told():
    """An average over the finite ones alone would flatter the model."""

    class Blind(Line):
        def log_prob(self, x, condition=None, draws=None):
            return torch.where(x[:, 0] > x[:, 0].median(), -torch.inf, super().log_prob(x))

        def _loss(self, batch, turn):
            return {"loss": -super().log_prob(batch.x)}

    data = vectors(points(200))
    fam = own_family(lambda schema: Blind(schema))
    splits = data.split(0)
    training = comparing.training_from({"steps": 3, "batch_size": 16, "device": "cpu"})
    fitted = fit_data(data, fam, fam.configure({}), training, splits=splits, quiet=True)
    metric = evaluate(fitted, splits, quiet=True)["nats"]
    assert "10 rows have no finite density" in metric.note
    assert not math.isfinite(metric.value)


# what is learned


def test_real_data(tmp_path):
    if not os.environ.get("PUSHFORWARD_DATA"):
        pytest.skip("PUSHFORWARD_DATA is not set")
    frame_like = pf.open_data("penguins")
    found = pf.compare(frame_like, ["independent", "gaussian", "gmm"], steps=20, quiet=True, out=tmp_path / "out")
    assert not found.failed
    board = found.leaderboard.set_index("family")
    assert board.loc["gmm", "nats"] < board.loc["independent", "nats"] - 0.5


@pytest.mark.slow
def test_density_families_beat_the_baselines_on_digits():
    names = ["independent", "gaussian", "nice", "vae", "made", "gmm", "rectified-flow"]
    found = pf.compare("digits", names, steps=300, quiet=True)
    assert not found.failed
    board = found.leaderboard.set_index("family")
    for name in ("vae", "made", "gmm"):
        assert board.loc[name, "nats"] < board.loc["independent", "nats"] - 5
        assert board.loc[name, "nats"] < board.loc["gaussian", "nats"]
    for name in ("nice", "vae", "made", "gmm", "rectified-flow"):
        assert board.loc[name, "sliced_wasserstein"] < board.loc["independent", "sliced_wasserstein"]
        assert board.loc[name, "nats"] < board.loc["independent", "nats"]


def test_families_beat_the_baseline_on_a_toy():
    found = pf.compare("moons", ["independent", "gaussian", "nice", "gmm"], steps=150, quiet=True)
    board = found.leaderboard.set_index("family")
    for name in ("nice", "gmm"):
        assert board.loc[name, "nats"] < board.loc["independent", "nats"] - 0.1
        assert board.loc[name, "nats"] < board.loc["gaussian", "nats"] - 0.3


def test_a_frozen_family_can_be_tuned():
    """with_defaults takes what the family likes and the user overrides it."""
    fam = catalog.family("wgan-gp")
    full = comparing.training_from({"steps": 7}).with_defaults(fam.training)
    assert (full.steps, full.batch_size, full.weight_decay) == (7, fam.training["batch_size"], 0.0)
    assert comparing.training_from({"steps": 7, "batch_size": 9}).with_defaults(fam.training).batch_size == 9
    by_clock = comparing.training_from({"minutes": 2}).with_defaults(fam.training)
    assert by_clock.steps is None
    assert replace(full, steps=None).with_defaults({}).steps == 3000


def test_families_may_train_otherwise_on_another_kind_of_data():
    fam = replace(catalog.family("nice"), training={"batch_size": 32, "steps": 3}, training_of={"image": {"batch_size": 8}})
    flat, pictures = (pf.open_data(np.zeros(shape, np.uint8 if len(shape) > 2 else float)) for shape in ((9, 2), (9, 4, 4)))
    assert fam.training_for(flat.schema) == {"batch_size": 32, "steps": 3}
    assert fam.training_for(pictures.schema) == {"batch_size": 8, "steps": 3}
