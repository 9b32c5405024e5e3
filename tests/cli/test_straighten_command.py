"""``pushforward straighten``: a run from a run, what it says, and what it refuses."""

import json

import numpy as np
import pytest

from pushforward.cli import main

QUICK = ("--pairs", "60", "--steps", "2", "--batch-size", "16")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A run of a tiny rectified flow, and its data."""
    place = tmp_path_factory.mktemp("flow")
    np.save(place / "points.npy", np.random.default_rng(1).normal(size=(120, 2)))
    words = ["fit", place / "points.npy", "rectified-flow", "--out", place / "flow", "--steps", "2", "--hidden", "8"]
    assert main([str(w) for w in [*words, "--tolerance", "0.01", "--no-report", "--quiet"]]) == 0
    return place


def test_straighten_writes_a_run_and_says_how_straight_it_is(cli, flow, tmp_path):
    said = cli("straighten", flow / "flow", *QUICK, "-o", "straight")
    assert (said.code, said.out) == (0, "straight\n")
    for words in ("before", "after", "straightness", "transport cost", "±", "sampled by euler in 4 steps"):
        assert words in said.err, words
    recipe = json.loads((tmp_path / "straight" / "recipe.json").read_text())
    assert recipe["straightened"]["pairs"] == 60
    assert cli("sample", "straight", "-n", "3").code == 0
    assert cli("score", "straight", flow / "points.npy").code == 0


def test_a_consistency_model_says_how_it_is_sampled(cli, flow):
    said = cli("straighten", flow / "flow", *QUICK, "--method", "consistency", "-o", "jumps")
    assert (said.code, said.out) == (0, "jumps\n")
    assert "sampled in 1 jump unless told otherwise" in said.err
    assert cli("sample", "jumps", "-n", "3").code == 0
    refused = cli("score", "jumps", flow / "points.npy")
    assert refused.code == 2
    assert "consistency cannot score" in refused.err


def test_straighten_as_json_with_data_and_consistency(cli, flow, tmp_path):
    words = ("--method", "consistency", "--data", flow / "points.npy", "--json", "--quiet", "--seed", "3")
    said = cli("straighten", flow / "flow", *QUICK, *words, "--out", tmp_path / "r")
    assert not said.err
    assert said.json["method"] == "consistency"
    assert said.json["from"]["family"] == "rectified-flow"
    assert said.json["source"] == str(flow / "flow")
    assert set(said.json["before"]) == set(said.json["after"])
    assert said.json["after"]["straightness"] is None
    assert said.json["after"]["cost"] > 0
    assert json.loads((tmp_path / "r" / "recipe.json").read_text())["seed"] == 3
    assert not (tmp_path / "r" / "evaluation.json").exists()


def test_straighten_names_runs_by_number(cli, flow):
    for expected in ("flow-reflow", "flow-reflow-2"):
        assert cli("straighten", flow / "flow", *QUICK, "--quiet").out == f"{flow / expected}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("RUN", "--steps", "3", "--minutes", "1"), "--steps or --minutes"),
        (("nowhere",), "no run folder"),
        (("OTHER",), "gmm has no flow to straighten; ddpm"),
        (("RUN", "--out", "RUN", "--force"), "is the run that is straightened"),
        (("RUN", "--out", "OTHER"), "exists and is not empty: choose another --out, or overwrite it with --force"),
        (("RUN", "--rounds", "0"), "rounds must be at least 1"),
        (("RUN", "--method", "rectify"), "reflow, consistency"),
        (("RUN", "--method", "consistency", "--rounds", "2"), "one round"),
        (("RUN", "--data", "nothing.npy"), "nothing.npy"),
    ],
)
def test_straighten_refuses_in_one_line(cli, flow, made, words, says):
    places = {"RUN": flow / "flow", "OTHER": made / "points"}
    said = cli("straighten", *(places.get(word, word) for word in words))
    assert (said.code, said.out) == (2, "")
    assert len(said.lines) == 1
    assert says in said.lines[0]
