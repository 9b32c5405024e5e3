"""Ctrl-C in the middle of training, and going on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

FIT = [
    sys.executable,
    "-m",
    "pushforward",
    "fit",
    "digits",
    "nice",
    "--steps",
    "100000",
    "--hidden",
    "8",
    "--validate",
    "10000",
]


def stopped(folder, words, ready):
    """Start, wait until ``ready()``, press Ctrl-C, and return exit code, standard output and error."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*FIT, *words], cwd=folder, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        until = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "training did not begin"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    run = tmp_path / "runs" / "digits-nice"

    def records():
        path = run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []

    code, out, err = stopped(tmp_path, [], lambda: bool(records()))
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("pushforward: stopped at step ")
    assert last.endswith(f"pushforward fit {' '.join(FIT[4:])} --out runs/digits-nice --resume")
    first = [path.name for path in (run / "checkpoints").iterdir()]
    assert len(first) == 1
    reached = int(first[0].split("-")[1])

    code, _, err = stopped(tmp_path, ["--resume"], lambda: bool(records()) and records()[-1]["step"] > reached)
    assert code == 130
    assert err.splitlines()[-1].startswith("pushforward: stopped at step ")
    (second,) = [path.name for path in (run / "checkpoints").iterdir()]
    assert int(second.split("-")[1]) > reached
    steps = [record["step"] for record in records() if "step" in record and "event" not in record]
    assert steps == sorted(set(steps))
