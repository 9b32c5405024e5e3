"""Two gloo processes train the model that one process trains: the same batches, the same noise, the same gradients."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import environment, lines, points

import pushforward as pf
from pushforward.fitting.distributed import world
from pushforward.fitting.trainer import GradientFit

_SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_distributed import go
go(sys.argv[2], json.loads(sys.argv[3]))
"""


def go(out: str, cases: dict) -> None:
    """Fit every case and keep the gradients of each turn's first step; a line of JSON for one that fails."""
    rank = world()[0]
    first: dict[str, torch.Tensor] = {}
    real = GradientFit._step

    def step(self, turn, optimiser):
        terms = real(self, turn, optimiser)
        if not any(name.startswith(f"{turn.name}/") for name in first):
            # the gradients are still there after the step, and they are not clipped
            first.update(
                {f"{turn.name}/{n}": p.grad.clone() for n, p in self.model.turn_parameters(turn) if p.grad is not None}
            )
        return terms

    GradientFit._step = step
    try:
        for name, case in cases.items():
            first.clear()
            try:
                pf.fit(f"{out}/data.npy", out=f"{out}/{name}", device="cpu", quiet=True, report=False, **case)
            except pf.PushforwardError as error:
                print(json.dumps({"rank": rank, "case": name, "error": f"{type(error).__name__}: {error}"}), flush=True)
                continue
            if rank == 0:
                save_file(first, f"{out}/{name}/gradients.safetensors")
    finally:
        GradientFit._step = real


SMALL = {"batch_size": 32, "clip": 0, "validate": 4, "precision": "float32"}
CASES = {
    "nice": {"family_name": "nice", "hidden": [16], "transforms": 3, "steps": 12, **SMALL},
    "vae": {"family_name": "vae", "hidden": [16], "latent": 3, "steps": 6, "accumulate": 2, **SMALL},
    "wgan-gp": {"family_name": "wgan-gp", "hidden": [16], "latent": 4, "critic_steps": 2, "steps": 8, **SMALL},
    "simclr": {"family_name": "simclr", "size": 8, "projection": 4, "steps": 5, **SMALL},
    "gmm": {"family_name": "gmm", "components": 4, "steps": 8},
    "clock": {"family_name": "nice", "hidden": [8], "transforms": 2, "minutes": 0.01, "batch_size": 32},
    "resumed": {"family_name": "nice", "hidden": [16], "transforms": 3, "steps": 12, "resume": True, **SMALL},
}
ODD = {"odd": {"family_name": "nice", "steps": 2, "batch_size": 33}}


def launch(out: Path, cases: dict, processes: int = 2, interrupt: Path | None = None) -> list[dict]:
    """What the processes printed, one dict a line. The last one gets a Ctrl-C once the file ``interrupt`` is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(processes):
        # as torchrun and accelerate launch tell their processes
        more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        more |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), str(out), json.dumps(cases)]
        started.append(
            subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = []
    try:
        began = time.monotonic()
        while interrupt is not None and not interrupt.exists() and time.monotonic() - began < 120:
            time.sleep(0.1)
        if interrupt is not None:
            started[-1].send_signal(signal.SIGINT)
        for process in started:
            stdout, stderr = process.communicate(timeout=240)
            assert process.returncode == 0, stderr[-3000:]
            said += [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of one process and of two."""
    root = tmp_path_factory.mktemp("distributed")
    for name in ("one", "two"):
        (root / name).mkdir()
        np.save(root / name / "data.npy", points(400, 4))
    go(str(root / "one"), {name: case for name, case in CASES.items() if name not in ("clock", "resumed")})
    # the last case goes on with a run that one process began
    go(str(root / "two"), {"resumed": CASES["resumed"]})
    for file in ("model.safetensors", "raw.safetensors"):
        (root / "two" / "resumed" / file).unlink()
    said = launch(root / "two", CASES | ODD)
    return root / "one", root / "two", said


@pytest.mark.parametrize("name", ["nice", "vae", "wgan-gp", "simclr"])
def test_first_gradients_are_equal(runs, name):
    one, two = (load_file(root / name / "gradients.safetensors") for root in runs[:2])
    assert one.keys() == two.keys()
    assert any(float(g.abs().max()) > 1e-3 for g in one.values())
    largest = max(float(g.abs().max()) for g in one.values())
    for parameter, gradient in one.items():
        assert torch.allclose(two[parameter], gradient, rtol=1e-4, atol=1e-4 * largest), parameter


@pytest.mark.parametrize("name", ["nice", "vae", "wgan-gp", "simclr", "gmm"])
def test_two_processes_train_as_one(runs, name):
    for file in ("model.safetensors", "raw.safetensors"):
        one, two = runs[0] / name / file, runs[1] / name / file
        assert one.exists() == two.exists()
        if one.exists():
            a, b = load_file(one), load_file(two)
            assert a.keys() == b.keys()
            for key in a:
                assert torch.allclose(b[key], a[key], rtol=1e-5, atol=1e-5), (file, key)


@pytest.mark.parametrize("name", ["nice", "vae", "wgan-gp", "simclr", "gmm"])
def test_two_processes_write_the_records_of_one(runs, name):
    one, two = lines(runs[0] / name), lines(runs[1] / name)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert b["epoch"] == a["epoch"]
        assert b["train"] == pytest.approx(a["train"], rel=1e-4, abs=1e-4)
        assert b["validation"] == pytest.approx(a["validation"], rel=1e-4, abs=1e-4)
        assert b["terms"] == pytest.approx(a["terms"], rel=1e-3, abs=1e-3)


def test_processes_agree_when_the_clock_says_stop(runs):
    recipe = json.loads((runs[1] / "clock" / "recipe.json").read_text())
    assert recipe["steps"] >= 1
    assert lines(runs[1] / "clock")[-1]["step"] == recipe["steps"]


def test_two_processes_finish_a_run_that_was_trained_already(runs):
    for file in ("model.safetensors", "raw.safetensors"):
        assert (runs[1] / "resumed" / file).read_bytes() == (runs[0] / "nice" / file).read_bytes()


def test_a_batch_that_cannot_be_shared(runs):
    assert [s["case"] for s in runs[2]] == ["odd", "odd"]
    assert all("RecipeError: batch_size 33 cannot be shared by 2 processes" in s["error"] for s in runs[2])


def test_a_ctrl_c_in_one_process_stops_all_at_the_same_step(tmp_path):
    """A process that stopped alone would leave the others waiting for its gradients for ever."""
    np.save(tmp_path / "data.npy", points(400, 4))
    case = {"family_name": "nice", "hidden": [8], "steps": 10**6, "validate": 10**6, "batch_size": 32, "patience": 0}
    # the first line is written after a step of all of them
    said = launch(tmp_path, {"stopped": case}, interrupt=tmp_path / "stopped" / "metrics.jsonl")
    found = [s["error"] for s in said]
    assert len(found) == 2
    assert all(error.startswith("Interrupted: stopped at step") for error in found)
    assert found[0] == found[1]
