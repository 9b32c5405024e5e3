"""Two processes train as one: their averaged gradients are those of one process on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from two_processes import Seed

CASES: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("flow-matching", "vector", True, {"coupling": "ot"}),
    ("flow-matching", "plane", False, {"coupling": "sinkhorn"}),
    ("masked-diffusion", "table", True, {}),
    ("nice", "vector", True, {}),
    ("vae", "table", True, {}),
    ("rectified-flow", "vector", True, {}),
    ("rectified-flow", "image", False, {}),
    ("made", "tokens", True, {}),
    ("made", "tokens", True, {"orders": 0}),
    ("nade", "binary", True, {}),
    ("gpt", "tokens", True, {}),
    ("pixelcnn", "image", True, {}),
    ("hvae", "vector", True, {}),
    ("gumbel-vae", "table", True, {}),
    ("vq-vae", "vector", True, {}),
    ("gan", "table", True, {}),
    ("gmm", "table", False, {}),
    ("bernoulli-mixture", "table", False, {}),
    ("hmm", "tokens", False, {}),
    ("wgan-gp", "vector", True, {}),
    ("wgan-gp", "image", False, {}),
    ("simclr", "vector", False, {}),
    ("simclr", "image", False, {}),
    ("classifier", "table", False, {}),
]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_train_as_one(tiny: Any, tmp_path: Path) -> None:
    jobs: list[two_processes.Job] = []
    for name, kind, conditions, options in CASES:
        model = tiny.model(name, kind, conditions=conditions, condition_drop=0.5, **options).double().train()
        for turn in model.turns:
            batch = tiny.batch(model.schema, kind, 12)
            # generators do not travel: each process makes those of its rows
            jobs.append((turn.name, model, replace(batch, draws=Seed(batch.draws.seed))))
    torch.save(jobs, tmp_path / "jobs.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = Path(two_processes.__file__)
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(rank)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in both:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for (turn, model, batch), mine, other in zip(jobs, first, second, strict=True):
        where = f"{type(model).__name__} on {model.schema.example.name}, turn {turn}"
        alone = two_processes.results((turn, model, batch), 0, 1)
        assert len(alone) > 1
        assert alone.keys() == mine.keys() == other.keys(), where
        for n, value in alone.items():
            assert torch.equal(mine[n], other[n]), f"{where}: the processes disagree on {n}"
            torch.testing.assert_close(mine[n], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=n, w=where: f"{w}, {n}: {m}")
