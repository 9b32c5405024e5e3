"""Every command on tiny data, every output format, and a clean standard output."""

import io
import json
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pushforward.cli import main

COLUMNS = ["ref", "price", "rooms", "city", "sold", "day", "country"]
SMALL = ("--components", "2", "--no-report")


def frame(text):
    return pd.read_csv(io.StringIO(text))


# ---------------------------------------------------------------------------------------------------------------- fit


def test_fit_says_where_the_run_is_how_good_and_what_next(cli, made, tmp_path):
    said = cli("fit", made / "houses.csv", "gmm", "--components", "2")
    assert said.code == 0
    assert said.out == "runs/houses-gmm\n"
    run = tmp_path / "runs" / "houses-gmm"
    assert (run / "recipe.json").exists()
    assert (run / "report.html").exists()
    for words in ("120 rows", "missing", "'ref' identifies rows", "−log p", "lower bound", "report.html"):
        assert words in said.err
    after = said.err.split("next\n")[1].splitlines()
    assert len(after) == 3
    assert all(line.startswith("  pushforward ") for line in after)


def test_the_commands_fit_proposes_work(cli, made):
    said = cli("fit", made / "houses.csv", "gmm", *SMALL)
    for line in said.err.split("next\n")[1].splitlines():
        assert cli(*line.split()[1:]).code == 0, line


def test_fit_names_runs_by_number_and_takes_force(cli, made, tmp_path):
    for expected in ("runs/points-gmm", "runs/points-gmm-2"):
        assert cli("fit", made / "points.npy", "gmm", *SMALL).out.strip() == expected
    before = (tmp_path / "runs/points-gmm/recipe.json").read_text()
    assert (
        cli("fit", made / "points.npy", "gmm", "--components", "3", "--no-report", "--force").out.strip() == "runs/points-gmm"
    )
    assert (tmp_path / "runs/points-gmm/recipe.json").read_text() != before


def test_fit_passes_on_options_of_training_and_family(cli, made):
    said = cli(
        *("fit", made / "points.npy", "nice", "--hidden", "7", "5", "--steps=4", "--batch_size", "8"),
        *("--learning-rate", "1e-2", "--seed", "3", "--no-report", "--json"),
    )
    recipe = said.json["recipe"]
    assert recipe["options"]["hidden"] == [7, 5]
    assert recipe["training"]["steps"] == 4
    assert recipe["training"]["batch_size"] == 8
    assert recipe["training"]["learning_rate"] == 0.01
    assert recipe["training"]["seed"] == 3
    assert said.json["evaluation"] is None


def test_fit_json_has_the_evaluation_and_nothing_else_on_stdout(cli, made, tmp_path):
    said = cli("fit", made / "points.npy", "gmm", "--components", "2", "--json", "--quiet", "--out", "r")
    assert said.json["run"] == "r"
    assert {m["name"] for m in said.json["evaluation"]["metrics"]} >= {"nats", "c2st"}
    assert not said.err


def test_an_option_of_a_family_that_fit_has_too_gets_a_name_of_its_own(cli, made):
    from dataclasses import fields

    from pushforward.catalog import FAMILIES
    from pushforward.cli.arguments import options
    from pushforward.cli.fit import Fit

    taken = {o.name for o in options(Fit)}
    for fam in FAMILIES.values():
        shown = {o.name for o in options(Fit.shaped(["moons", fam.name]))} - taken
        assert len(shown) == len(fields(fam.options)), fam.name


def test_fit_resumes_where_nothing_is_left_to_do(cli, made):
    words = ("fit", made / "points.npy", "nice", "--steps", "3", "--hidden", "4", "--no-report", "--out", "r")
    assert cli(*words).code == 0
    assert cli(*words, "--resume").code == 0


def test_types_drop_and_length_reach_the_data(cli, made):
    found = cli("inspect", made / "houses.csv", "--types", "rooms=category", "--drop", "day", "country", "--json").json
    columns = {c["name"]: c for c in found["columns"]}
    assert columns["rooms"]["type"] == "category"
    assert not {"day", "country"} & set(columns)
    assert "10 characters" in cli("inspect", made / "verse.txt", "--length", "10").out
    assert "4×4" in cli("inspect", made / "pictures", "--resize", "4").out


# ------------------------------------------------------------------------------------------------------------- sample


def test_sample_in_a_pipe_is_csv(cli, made):
    said = cli("sample", made / "houses", "-n", "5")
    assert (said.code, said.err) == (0, "")
    assert list(frame(said.out).columns) == COLUMNS
    assert len(frame(said.out)) == 5
    assert said.out == cli("sample", made / "houses", "-n", "5", "--out", "-").out
    assert said.out != cli("sample", made / "houses", "-n", "5", "--seed", "1").out


READERS = {
    ".csv": pd.read_csv,
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    ".parquet": pd.read_parquet,
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".json": pd.read_json,
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("run", ["houses", "points"])
def test_tables_and_arrays_in_every_format(cli, made, tmp_path, suffix, run):
    said = cli("sample", made / run, "-n", "7", "--out", f"new{suffix}")
    assert (said.code, said.out) == (0, "")
    assert "7 rows written" in said.err
    found = READERS[suffix](tmp_path / f"new{suffix}")
    assert list(found.columns) == (COLUMNS if run == "houses" else ["x0", "x1"])
    assert len(found) == 7


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".json"])
def test_a_sample_can_be_read_back_and_scored(cli, made, suffix):
    assert cli("sample", made / "houses", "-n", "9", "--out", f"new{suffix}").code == 0
    if suffix != ".json":
        assert cli("score", made / "houses", f"new{suffix}").code == 0


def test_arrays_as_npy_and_npz(cli, made, tmp_path):
    cli("sample", made / "points", "-n", "4", "--out", "a.npy")
    cli("sample", made / "points", "-n", "4", "--out", "a.npz")
    array = np.load(tmp_path / "a.npy")
    assert array.shape == (4, 2)
    assert np.array_equal(array, np.load(tmp_path / "a.npz")["x"])
    assert np.allclose(array, frame(cli("sample", made / "points", "-n", "4").out).to_numpy())


def test_images_go_to_a_numbered_sheet_in_the_run(cli, made):
    first = cli("sample", made / "digits", "-n", "9")
    second = cli("sample", made / "digits", "-n", "9")
    assert first.out == second.out == ""
    paths = [said.err.strip().split()[-1] for said in (first, second)]
    assert paths[0] != paths[1]
    assert min(Pillow.open(paths[0]).size) >= 3 * 32


def test_images_in_every_format(cli, made, tmp_path):
    cli("sample", made / "digits", "-n", "5", "--out", "x.npy")
    cli("sample", made / "digits", "-n", "5", "--out", "x.npz")
    cli("sample", made / "digits", "-n", "5", "--out", "x.png")
    cli("sample", made / "digits", "-n", "5", "--out", "folder/")
    pixels = np.load(tmp_path / "x.npy")
    assert pixels.shape[:3] == (5, 8, 8)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.load(tmp_path / "x.npz")["x"])
    assert Pillow.open(tmp_path / "x.png").format == "PNG"
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [f"{i:04d}.png" for i in range(5)]
    assert Pillow.open(files[0]).size == (8, 8)


def test_text_in_every_format(cli, made, tmp_path):
    said = cli("sample", made / "verse", "-n", "3")
    assert said.code == 0
    cli("sample", made / "verse", "-n", "3", "--out", "t.txt")
    cli("sample", made / "verse", "-n", "3", "--out", "t.json")
    cli("sample", made / "verse", "-n", "3", "--out", "t.jsonl")
    assert (tmp_path / "t.txt").read_text() == said.out
    texts = json.loads((tmp_path / "t.json").read_text())
    assert [len(text) for text in texts] == [8, 8, 8]
    assert [json.loads(line)["text"] for line in (tmp_path / "t.jsonl").read_text().splitlines()] == texts
    assert cli("sample", made / "verse", "-n", "3", "--json").json["rows"] == texts


def test_sample_json(cli, made):
    found = cli("sample", made / "houses", "-n", "40", "--json").json
    assert len(found["rows"]) == 40
    assert list(found["rows"][0]) == COLUMNS
    assert found["family"] == "gmm"
    assert any(row["price"] is None for row in found["rows"])
    assert np.asarray(cli("sample", made / "points", "-n", "3", "--json").json["rows"]).shape == (3, 2)
    wrote = cli("sample", made / "points", "-n", "3", "--json", "--out", "p.csv")
    assert wrote.json["out"] == "p.csv"
    assert not wrote.err


def test_formats_on_stdout(cli, made, monkeypatch):
    assert len(cli("sample", made / "points", "-n", "3", "--out", "-.jsonl").out.splitlines()) == 3
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert main(["sample", str(made / "points"), "-n", "3", "--out", "-.npy"]) == 0
    assert np.load(io.BytesIO(pipe.buffer.getvalue())).shape == (3, 2)


def test_conditions(cli, made):
    said = cli("sample", made / "given", "-n", "6", "--condition", "city=Oslo", "rooms=2")
    assert set(frame(said.out)["city"]) == {"Oslo"}
    assert set(frame(said.out)["rooms"]) == {2}
    again = cli("sample", made / "given", "-n", "6", "--condition", "city=Oslo", "--condition", "rooms=2")
    assert again.out == said.out
    assert set(frame(cli("sample", made / "given", "-n", "30").out)["city"].dropna()) > {"Oslo"}


def test_only_the_options_given_are_passed_on(cli, made):
    assert cli("sample", made / "points", "-n", "2").code == 0  # a mixture has no temperature
    cold = frame(cli("sample", made / "given", "-n", "20", "--temperature", "0.01").out)
    warm = frame(cli("sample", made / "given", "-n", "20").out)
    assert cold["price"].std() < warm["price"].std()


# ----------------------------------------------------------------------------------- score, encode, complete, predict


def test_score(cli, made):
    said = cli("score", made / "points", made / "points.npy")
    found = frame(said.out)
    assert list(found.columns) == ["log_prob", "standard_error"]
    assert len(found) == 120
    assert len(said.lines) == 1
    assert "120 rows" in said.err
    assert "exact" in said.err
    assert "bits/dim" not in said.err
    told = cli("score", made / "points", made / "points.npy", "--json").json
    assert told["kind"] == "exact"
    assert np.isclose(told["mean_log_prob"], found["log_prob"].mean())
    assert len(told["rows"]) == 120


def test_score_of_images_has_bits(cli, made):
    said = cli("score", made / "digits", "digits", "--out", "s.parquet")
    assert "bits/dim" in said.err
    assert cli("score", made / "digits", "digits", "--json").json["bits_per_dim"] > 0


def test_score_of_a_bound_has_errors_with_samples(cli, made):
    one = cli("score", made / "vae", made / "points.npy")
    many = cli("score", made / "vae", made / "points.npy", "--samples", "8")
    assert "lower bound" in one.err
    assert "--samples" in one.err
    assert frame(one.out)["standard_error"].isna().all()
    assert (frame(many.out)["standard_error"] > 0).all()
    assert "±" in many.err.split("lower bound")[1]


def test_encode(cli, made, tmp_path):
    assert cli("encode", made / "points", made / "points.npy", "--out", "z.npy").code == 0
    codes = np.load(tmp_path / "z.npy")
    text = frame(cli("encode", made / "points", made / "points.npy").out)
    assert text.columns[0] == "code_0"
    assert np.allclose(text.to_numpy(), codes, atol=1e-5)
    assert np.allclose(cli("encode", made / "points", made / "points.npy", "--json").json["rows"], codes, atol=1e-5)


def test_complete_fills_gaps_and_keeps_the_rest(cli, made):
    before = pd.read_csv(made / "houses.csv")
    after = frame(cli("complete", made / "houses", made / "houses.csv").out)
    assert not after["price"].isna().any()
    there = before["price"].notna()
    assert np.allclose(before["price"][there], after["price"][there])
    assert list(before["day"]) == list(after["day"])
    assert (before["city"] == after["city"])[before["city"].notna()].all()


def test_complete_arrays(cli, made, tmp_path):
    holes = np.load(made / "points.npy").copy()
    holes[::2, 1] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    assert cli("complete", made / "points", "holes.npy", "--out", "full.npy").code == 0
    full = np.load(tmp_path / "full.npy")
    assert np.isfinite(full).all()
    assert np.allclose(full[1::2], holes[1::2])
    np.save(tmp_path / "mask.npy", np.isfinite(holes))
    np.save(tmp_path / "whole.npy", np.nan_to_num(holes))
    assert cli("complete", made / "points", "whole.npy", "--observed", "mask.npy", "--out", "masked.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "masked.npy"), full)


def test_predict(cli, made):
    plain = frame(cli("predict", made / "classifier", made / "houses.csv").out)
    assert list(plain.columns) == ["city"]
    assert len(plain) == 120
    likely = frame(cli("predict", made / "classifier", made / "houses.csv", "--probabilities").out)
    shares = likely[["p(Bern)", "p(Kyiv)", "p(Oslo)", "p(missing)"]]
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-4)
    assert (plain["city"].fillna("missing") == shares.idxmax(axis=1).str[2:-1]).all()
    assert len(cli("predict", made / "classifier", made / "houses.csv", "--json").json["rows"]) == 120


def test_predict_without_the_target_column(cli, made, tmp_path):
    pd.read_csv(made / "houses.csv").drop(columns="city").to_csv(tmp_path / "new.csv", index=False)
    assert cli("predict", made / "classifier", "new.csv").out == cli("predict", made / "classifier", made / "houses.csv").out


# -------------------------------------------------------------------------------------------- compare, report, inspect


def test_compare_and_report(cli, made, tmp_path):
    said = cli("compare", made / "points.npy", "gaussian", "gmm", "--steps", "2", "--quiet")
    assert said.code == 0
    assert "gaussian" in said.out
    assert "runs/points-compare/report.html" in said.err
    folder = tmp_path / "runs" / "points-compare"
    assert {"leaderboard.csv", "leaderboard.json", "report.html", "gmm", "gaussian"} <= {p.name for p in folder.iterdir()}
    assert cli("report", folder / "gmm").code == 0
    together = cli("report", folder / "gmm", folder / "gaussian", "--out", "both.html", "--title", "Both of them")
    assert together.code == 0
    assert "Both of them" in (tmp_path / "both.html").read_text()
    assert cli("report", folder, "--out", "all.html").code == 0


def test_compare_json(cli, made):
    said = cli("compare", made / "points.npy", "gaussian", "--json", "--quiet", "--out", "c")
    assert said.json["results"][0]["family"] == "gaussian"
    assert said.json["report"] == "c/report.html"


def test_inspect(cli, made):
    said = cli("inspect", made / "houses.csv")
    for words in ("price", "number", "identifier", "constant", "always X", "Bern, Kyiv, Oslo", "2024-01-01", "missing"):
        assert words in said.out
    assert "pushforward fit" in said.err
    found = cli("inspect", made / "houses.csv", "--json").json
    columns = {c["name"]: c for c in found["columns"]}
    assert columns["price"]["missing"] == 14
    assert columns["country"]["type"] == "constant"
    assert found["rows"] == 120
    assert "8×8" in cli("inspect", "digits").out
    assert "8×8" in cli("inspect", made / "pictures").out
    assert "vectors of 2" in cli("inspect", made / "points.npy").out


@pytest.mark.parametrize("data", ["houses.csv", "points.npy", "verse.txt", "pictures"])
def test_every_kind_of_file_can_be_fitted_sampled_and_scored(cli, made, data):
    assert cli("fit", made / data, "made", "--steps", "2", "--hidden", "8", "--out", "r", "--no-report").code == 0
    assert cli("sample", "r", "-n", "2").code == 0
    assert cli("score", "r", made / data).code == 0


# ----------------------------------------------------------------------------------------------------------- terminal


def test_on_a_terminal_there_is_a_preview(cli, made):
    said = cli("sample", made / "houses", "-n", "30", terminal=True)
    rows = [line for line in said.out.splitlines() if "2024-" in line]
    assert len(rows) == 20
    assert "20 of 30" in said.err
    said = cli("score", made / "points", made / "points.npy", terminal=True)
    assert "20 of 120" in said.err
    assert "mean log p" in said.err
    assert len(cli("sample", made / "verse", "-n", "3", terminal=True).out.splitlines()) >= 3


def test_on_a_terminal_fit_prints_no_bare_path(cli, made):
    assert cli("fit", made / "points.npy", "gmm", *SMALL, terminal=True).out == ""


def test_no_binary_on_a_terminal(cli, made):
    said = cli("sample", made / "digits", "--out", "-", terminal=True)
    assert said.code == 2
    assert "garble" in said.err
    assert not said.out
