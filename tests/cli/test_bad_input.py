"""What a user can get wrong: exit code 2, one line that says it, and nothing written or overwritten."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from conftest import houses, pictures
from pushforward.cli import main


def contents(folder):
    """Every file below ``folder`` with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(said, *words):
    assert said.code == 2, said
    assert said.out == ""
    last = said.lines[-1]
    assert last.startswith("pushforward: "), said
    assert sum(line.startswith("pushforward: ") for line in said.lines) == 1
    for word in words:
        assert word.lower() in last.lower(), f"{word!r} is not in {last!r}"


# ---------------------------------------------------------------------------------------------------------------- data


def misspelt(folder):
    houses().to_csv(folder / "sales.csv")
    return "sale.csv"


def empty(folder):
    (folder / "bad.csv").write_text("")
    return "bad.csv"


def header_only(folder):
    (folder / "bad.csv").write_text("a,b\n")
    return "bad.csv"


def ragged(folder):
    (folder / "bad.csv").write_text("a,b\n1,2\n3,4\n5,6,7\n8,9\n")
    return "bad.csv"


def infinite(folder):
    frame = houses()
    frame.loc[3, "price"] = np.inf
    frame.to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


def all_missing(folder):
    houses().assign(nothing=np.nan).to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


def two_rows(folder):
    houses(2).to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


def only_constants(folder):
    pd.DataFrame({"a": [1] * 50, "b": ["x"] * 50}).to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


def corrupt_image(folder):
    pictures(folder / "bad")
    (folder / "bad" / "p03.png").write_bytes((folder / "bad" / "p03.png").read_bytes()[:50])
    return "bad"


def mixed_sizes(folder):
    pictures(folder / "bad")
    Pillow.new("L", (9, 5)).save(folder / "bad" / "wide.png")
    return "bad"


def empty_folder(folder):
    (folder / "bad").mkdir()
    return "bad"


def array(values):
    def write(folder):
        np.save(folder / "bad.npy", values, allow_pickle=True)
        return "bad.npy"

    return write


def not_an_array(folder):
    (folder / "bad.npy").write_bytes(b"this is no array at all")
    return "bad.npy"


def binary_text(folder):
    (folder / "bad.txt").write_bytes(bytes(range(128, 256)) * 20)
    return "bad.txt"


def strange_ending(folder):
    (folder / "bad.xyz").write_text("1,2\n")
    return "bad.xyz"


HOLES = np.random.default_rng(0).normal(size=(40, 2))
HOLES[7, 1] = np.nan
BOUNDLESS = np.where(np.isnan(HOLES), np.inf, HOLES)

BAD_DATA = {
    "missing file": (lambda folder: "nothing.csv", ["nothing.csv", "no file"]),
    "missing file, near": (
        lambda folder: houses().to_csv(folder / "sales.csv") or "sale.csv",
        ["sale.csv", "did you mean 'sales.csv'"],
    ),
    "unknown name": (lambda folder: "moon", ["'moon'", "did you mean 'moons'"]),
    "empty file": (empty, ["bad.csv", "empty"]),
    "header only": (header_only, ["bad.csv", "no rows"]),
    "ragged row": (ragged, ["bad.csv", "4"]),
    "infinities": (infinite, ["price", "inf"]),
    "two rows": (two_rows, ["2 rows"]),
    "all-missing column": (all_missing, ["'nothing'", "--drop nothing"]),
    "only constants": (only_constants, ["nothing to learn"]),
    "corrupt image": (corrupt_image, ["p03.png"]),
    "images of two sizes": (mixed_sizes, ["wide.png", "resize"]),
    "empty folder": (empty_folder, ["bad", "no images"]),
    "wrong rank": (array(np.zeros((3, 2, 2, 2, 2))), ["bad.npy", "(3, 2, 2, 2, 2)"]),
    "a single number": (array(np.array(3.0)), ["bad.npy", "()"]),
    "object array": (array(np.array([{"a": 1}, None], dtype=object)), ["bad.npy", "object"]),
    "text array": (array(np.array(["a", "b"] * 20)), ["bad.npy"]),
    "NaN array": (array(HOLES), ["bad.npy", "row 8"]),
    "infinite array": (array(BOUNDLESS), ["bad.npy", "row 8"]),
    "no array": (not_an_array, ["bad.npy"]),
    "binary text": (binary_text, ["bad.txt", "utf-8"]),
    "unknown ending": (strange_ending, ["'.xyz'", ".csv"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(cli, tmp_path, case):
    write, words = BAD_DATA[case]
    data = write(tmp_path)
    before = contents(tmp_path)
    said = cli("fit", data, "vae", "--steps", "1", "--quiet", "--out", "r")
    refused(said, *words)
    assert len(said.lines) == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "r").exists()
    if case not in ("two rows", "NaN array"):
        refused(cli("inspect", data), *words)


def test_an_all_missing_column_can_be_dropped(cli, tmp_path):
    all_missing(tmp_path)
    assert cli("fit", "bad.csv", "gmm", "--components", "2", "--no-report", "--drop", "nothing").code == 0


def test_a_text_file_among_images_is_noted(cli, tmp_path):
    folder = pictures(tmp_path / "mixed")
    (folder / "README.txt").write_text("drawn by hand")
    said = cli("fit", "mixed", "independent", "--no-report")
    assert said.code == 0
    assert any("README.txt" in line for line in said.lines if line.startswith("note:"))


# new data for a run


def words_for_numbers(folder):
    houses().assign(price="dear").to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


def without_a_column(folder):
    houses().drop(columns="rooms").to_csv(folder / "bad.csv", index=False)
    return "bad.csv"


BAD_NEW_DATA = {
    "text where numbers were": (words_for_numbers, ["price", "dear"]),
    "a column less": (without_a_column, ["rooms"]),
    "empty": (empty, ["bad.csv", "empty"]),
    "ragged": (ragged, ["bad.csv"]),
    "another kind": (array(np.zeros((4, 3))), ["expected a table", "price"]),
    "nothing": (lambda folder: "nothing.csv", ["nothing.csv"]),
}


@pytest.mark.parametrize("case", BAD_NEW_DATA)
def test_bad_new_data(cli, made, tmp_path, case):
    write, words = BAD_NEW_DATA[case]
    data = write(tmp_path)
    before = contents(tmp_path)
    said = cli("score", made / "houses", data, "--out", "s.csv")
    refused(said, *words)
    assert len(said.lines) == 1
    assert contents(tmp_path) == before


# -------------------------------------------------------------------------------------------------------------- usage

USAGE = {
    "no such command": (["fitt", "moons"], ["'fitt'", "did you mean 'fit'"]),
    "no such command at all": (["qqqq"], ["'qqqq'", "choose from", "sample"]),
    "unknown option": (["fit", "moons", "gmm", "--component", "3"], ["--component", "did you mean '--components'"]),
    "unknown option of another": (["sample", "r", "--guidence", "3"], ["--guidence", "did you mean '--guidance'"]),
    "a prefix": (["fit", "moons", "nice", "--step", "3"], ["did you mean '--steps'", "pushforward fit --help"]),
    "one dash": (["fit", "moons", "nice", "-steps", "3"], ["did you mean '--steps'"]),
    "option of another family": (["fit", "moons", "nice", "--components", "3"], ["no option '--components'"]),
    "no value": (["fit", "moons", "gmm", "--steps"], ["--steps needs a value"]),
    "not a number": (["fit", "moons", "gmm", "--steps", "many"], ["--steps", "whole number", "'many'"]),
    "not whole": (["fit", "moons", "gmm", "--components", "2.5"], ["--components", "whole number"]),
    "not a width": (["fit", "moons", "nice", "--hidden", "8", "x"], ["--hidden", "'x'"]),
    "no such choice": (["fit", "moons", "gmm", "--precision", "half"], ["--precision", "auto, float32, medium, bf16"]),
    "no family": (["fit", "moons"], ["needs FAMILY", "pushforward models"]),
    "no arguments": (["fit"], ["needs DATA and FAMILY"]),
    "swallowed": (["fit", "--condition", "label", "digits", "nice"], ["needs DATA and FAMILY", "before --condition"]),
    "besides": (["sample", "r", "more"], ["'more'"]),
    "unknown family": (["fit", "moons", "gnm"], ["'gnm'", "did you mean 'gmm'"]),
    "unknown family to compare": (["compare", "moons", "nice", "vea"], ["did you mean 'vae'"]),
    "steps and minutes": (["fit", "moons", "nice", "--steps", "3", "--minutes", "1"], ["--steps or --minutes"]),
    "compare steps and minutes": (["compare", "moons", "nice", "--steps", "3", "--minutes", "1"], ["--steps or --minutes"]),
    "no steps": (["fit", "moons", "nice", "--steps", "0"], ["steps must be at least 1"]),
    "no time": (["fit", "moons", "nice", "--minutes", "-1"], ["minutes must be above 0"]),
    "batch": (["fit", "digits", "nice", "--batch-size", "5000", "--steps", "1"], ["batch_size 5000", "larger than"]),
    "components": (["fit", "moons", "gmm", "--components", "0"], ["components must be at least 1"]),
    "target": (["fit", "HOUSES", "classifier", "--target", "cty"], ["'cty'", "did you mean 'city'"]),
    "no target": (["fit", "HOUSES", "classifier"], ["target"]),
    "condition": (["fit", "HOUSES", "nice", "--condition", "sity"], ["'sity'", "did you mean 'city'"]),
    "condition to none": (["fit", "HOUSES", "gmm", "--condition", "city"], ["gmm takes no conditions", "nice"]),
    "a target too many": (["fit", "HOUSES", "nice", "--target", "city"], ["predicts no target"]),
    "kind of data": (["fit", "VERSE", "gmm"], ["gmm learns", "tokens", "vae", "more (pushforward models)"]),
    "types": (["inspect", "HOUSES", "--types", "price"], ["name=value", "'price'"]),
    "unknown type": (["inspect", "HOUSES", "--types", "price=float"], ["float"]),
    "drop": (["inspect", "HOUSES", "--drop", "prize"], ["did you mean 'price'"]),
    "no run": (["sample", "nowhere"], ["nowhere", "no run folder"]),
    "no samples": (["sample", "RUN", "-n", "0"], ["at least 1"]),
    "sampling option": (["sample", "RUN", "--temperature", "2"], ["'temperature'"]),
    "condition value": (["sample", "GIVEN", "--condition", "city"], ["name=value"]),
    "condition name": (["sample", "GIVEN", "--condition", "sity=Oslo"], ["did you mean 'city'"]),
    "condition level": (["sample", "GIVEN", "--condition", "city=Olso", "rooms=2"], ["Olso"]),
    "half a condition": (["sample", "GIVEN", "--condition", "city=Oslo"], ["rooms"]),
    "no conditions here": (["sample", "RUN", "--condition", "city=Oslo"], ["without conditions"]),
    "ending": (["sample", "RUN", "--out", "x.docx"], ["'.docx'", ".csv", ".parquet"]),
    "no ending": (["sample", "RUN", "--out", "x"], ["no ending", ".csv"]),
    "ending for another kind": (["sample", "DIGITS", "--out", "x.csv"], ["'.csv'", ".png", "folder"]),
    "cannot score": (["score", "WGAN", "POINTS"], ["wgan-gp cannot score", "nice", "vae"]),
    "cannot complete": (["complete", "WGAN", "POINTS"], ["wgan-gp cannot complete", "gmm"]),
    "cannot predict": (["predict", "RUN", "HOUSES"], ["gmm cannot predict", "classifier"]),
    "cannot sample": (["sample", "CLASSIFIER"], ["classifier cannot sample"]),
    "a word for a number": (["complete", "FLOW", "POINTS", "--options", "steps=many"], ["steps is a number", "'many'"]),
    "a broken number": (["score", "FLOW", "POINTS", "--options", "steps=2.5"], ["steps is a whole number", "2.5"]),
    "scoring option": (["score", "RUN", "HOUSES", "--options", "steps=3"], ["no option 'steps'", "it has none"]),
    "encoding option": (["encode", "RUN", "HOUSES", "--options", "3"], ["--options", "steps=50"]),
    "completing option": (["complete", "RUN", "HOUSES", "--options", "steps=3"], ["no option 'steps'", "it has none"]),
    "images without a mask": (["complete", "DIGITS", "digits"], ["image data show no gaps", "observed"]),
    "mask": (["complete", "RUN", "HOUSES", "--observed", "nothing.npy"], ["nothing.npy"]),
    "samples": (["score", "RUN", "HOUSES", "--samples", "0"], ["samples must be at least 1"]),
    "device": (["sample", "RUN", "--device", "abacus"], ["abacus"]),
    "report": (["report", "nowhere"], ["nowhere"]),
    "report ending": (["report", "RUN", "--out", "r.pdf"], [".html"]),
    "shell": (["completion", "tcsh"], ["bash, zsh, fish"]),
    "seeds": (["compare", "moons", "gmm", "--seeds", "0"], ["seeds must be at least 1"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(cli, made, tmp_path, case):
    words, expected = USAGE[case]
    names = {"HOUSES": "houses.csv", "VERSE": "verse.txt", "POINTS": "points.npy", "RUN": "houses", "GIVEN": "given"}
    names |= {"DIGITS": "digits", "WGAN": "wgan", "FLOW": "flow", "CLASSIFIER": "classifier"}
    said = cli(*(made / names[word] if word in names else word for word in words), *(["--quiet"] if words[0] == "fit" else []))
    refused(said, *expected)
    assert len(said.lines) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------------------------ what is there


def test_nothing_is_overwritten_without_force(cli, made, tmp_path):
    for name in ("a.csv", "a.npy"):
        (tmp_path / name).write_bytes(b"precious")
        for words in (["sample", made / "points"], ["score", made / "points", made / "points.npy"]):
            if words[0] == "sample" or name == "a.csv":
                refused(cli(*words, "--out", name), "exists already", "--force")
                assert (tmp_path / name).read_bytes() == b"precious"
    assert cli("sample", made / "points", "--out", "a.csv", "--force").code == 0
    assert (tmp_path / "a.csv").read_bytes() != b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.npy"]


def test_folders_are_not_overwritten_without_force(cli, made, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("precious")
    before = contents(tmp_path)
    refused(cli("fit", made / "points.npy", "gmm", "--out", "r", "--quiet"), "not empty", "--force")
    refused(cli("sample", made / "digits", "--out", "r/"), "not empty", "--force")
    # a folder of that name would be read instead of the bundled set
    for verb in ("fit", "compare"):
        refused(cli(verb, "moons", "gmm", "--out", "moons", "--force", "--quiet"), "same name", "runs/moons")
    refused(cli("compare", made / "points.npy", "gmm", "--out", "r", "--quiet"), "not empty", "--force")
    refused(cli("sample", made / "points", "--out", "r"), "no ending")
    assert contents(tmp_path) == before


def test_a_report_is_not_overwritten_without_force(cli, made, tmp_path):
    (tmp_path / "page.html").write_text("precious")
    refused(cli("report", made / "points", "--out", "page.html"), "exists already")
    assert (tmp_path / "page.html").read_text() == "precious"


def test_out_below_a_file(cli, made, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(cli("sample", made / "points", "--out", "file/x.csv"), "could not be written")
    refused(cli("fit", made / "points.npy", "gmm", "--quiet", "--out", "file"), "is a file")


# --------------------------------------------------------------------------------------------------------------- runs


def truncated(run):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(run):
    (run / "model.safetensors").write_bytes(b"")


def without_weights(run):
    (run / "model.safetensors").unlink()


def without_recipe(run):
    (run / "recipe.json").unlink()


def half_a_recipe(run):
    text = (run / "recipe.json").read_text()
    (run / "recipe.json").write_text(text[: len(text) // 2])


def edited(change):
    def edit(run):
        recipe = json.loads((run / "recipe.json").read_text())
        change(recipe)
        (run / "recipe.json").write_text(json.dumps(recipe))

    return edit


class Harm:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def a_pickle(run):
    (run / "model.safetensors").write_bytes(pickle.dumps(Harm()))


def a_torch_file(run):
    import torch

    torch.save({"a": torch.zeros(3)}, run / "model.safetensors")


BAD_RUNS = {
    "truncated": (truncated, ["model.safetensors", "damaged"]),
    "emptied": (emptied, ["model.safetensors", "damaged"]),
    "without weights": (without_weights, ["not finished", "--resume"]),
    "without a recipe": (without_recipe, ["recipe.json", "missing"]),
    "half a recipe": (half_a_recipe, ["recipe.json", "damaged"]),
    "other shapes": (edited(lambda recipe: recipe["options"].update(components=7)), ["model.safetensors", "does not fit"]),
    "newer": (edited(lambda recipe: recipe.update(version=99)), ["version 99", "upgrade"]),
    "unknown family": (edited(lambda recipe: recipe.update(family="gnm")), ["gnm"]),
    "unknown option": (edited(lambda recipe: recipe["options"].update(colour="red")), ["colour"]),
    "no schema": (edited(lambda recipe: recipe.pop("schema")), ["recipe.json", "schema"]),
    "strange schema": (edited(lambda recipe: recipe["schema"].update(example={"kind": "smell"})), ["schema"]),
    "a list": (lambda run: (run / "recipe.json").write_text("[]"), ["recipe.json"]),
    "a pickle": (a_pickle, ["pickle", "never read"]),
    "a torch file": (a_torch_file, ["pickle", "never read"]),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_runs(cli, made, tmp_path, case):
    damage, words = BAD_RUNS[case]
    shutil.copytree(made / "points", tmp_path / "r")
    damage(tmp_path / "r")
    before = contents(tmp_path)
    said = cli("sample", "r", "--out", "new.csv")
    refused(said, *words)
    assert len(said.lines) == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "harmed").exists()


# --------------------------------------------------------------------------------------------------------------- disk


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "")])
def test_a_disk_that_refuses(cli, made, tmp_path, monkeypatch, code, word):
    (tmp_path / "old.csv").write_text("precious")

    def refuse(*args, **rest):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.replace", refuse)
    refused(cli("sample", made / "points", "--out", "old.csv", "--force"), "old.csv", "could not be written", word)
    assert contents(tmp_path) == {Path("old.csv"): b"precious"}
    refused(cli("fit", made / "points.npy", "gmm", "--quiet", "--out", "r"), "could not be written", word)
    assert not list(tmp_path.rglob("*.part*"))


def test_a_disk_that_fills_while_writing(cli, made, tmp_path, monkeypatch):
    def refuse(self, *args, **rest):
        Path(args[0]).write_text("half a fi")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", refuse)
    refused(cli("sample", made / "points", "--out", "new.csv"), "disk is full")
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_place_where_nothing_can_be_written(cli, made):
    refused(cli("sample", made / "points", "--out", "/proc/nowhere/new.csv"), "/proc/nowhere/new.csv", "could not be written")
    refused(cli("fit", made / "points.npy", "gmm", "--quiet", "--out", "/proc/nowhere/run"), "could not be written")


# --------------------------------------------------------------------------------------------------------------- bugs


def test_a_bug_is_one_line_and_a_traceback_on_demand(cli, made, monkeypatch, capsys):
    def broken(*args, **rest):
        raise ZeroDivisionError("seven\nis too much")

    monkeypatch.setattr("pushforward.fitting.fitted.load", broken)
    said = cli("sample", made / "points")
    assert said.code == 1
    assert said.lines == [
        "pushforward: internal error: ZeroDivisionError: seven is too much; "
        "run again with PUSHFORWARD_DEBUG=1 for the traceback"
    ]
    monkeypatch.setenv("PUSHFORWARD_DEBUG", "1")
    assert main(["sample", str(made / "points")]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["sample", "--nonsense"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_while_evaluating_keeps_the_model(cli, made, tmp_path, monkeypatch):
    def interrupted(*args, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("pushforward.fitting.evaluate.write_evaluation", interrupted)
    said = cli("fit", made / "points.npy", "gmm", "--components", "2", "--out", "r", "--quiet")
    assert (said.code, said.out) == (130, "")
    assert said.lines == ["pushforward: stopped while evaluating; the model is in r, trained to the end"]
    assert cli("sample", "r", "-n", "2").code == 0


def test_ctrl_c_outside_training(cli, made, monkeypatch):
    def interrupted(*args, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("pushforward.fitting.fitted.load", interrupted)
    said = cli("sample", made / "points")
    assert (said.code, said.out, said.lines) == (130, "", ["pushforward: stopped"])
