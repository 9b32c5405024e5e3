"""Small things the fitting tests share: data of a few rows, families of one test, and runs in processes that may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.catalog import Family
from pushforward.core.model import Batch, Model, Scores
from pushforward.core.schema import Schema, Vector
from pushforward.data.dataset import Data, TensorStore
from pushforward.fitting.distributed import Processes
from pushforward.fitting.loop import Job
from pushforward.fitting.options import Training


def points(n: int = 300, d: int = 3, seed: int = 0) -> np.ndarray:
    """Correlated and skewed numbers, none of them of unit scale."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    z[:, 0] = np.exp(0.5 * z[:, 0])
    return z * np.geomspace(0.1, 10, d) + np.arange(d)


def vectors(x: np.ndarray) -> Data:
    """An array as Data."""
    return Data.of(Schema(Vector(x.shape[1])), TensorStore(torch.from_numpy(x)))


@dataclass(frozen=True)
class NoOptions:
    """A family without options of its own."""


def own_family(make: Callable[[Schema], Model], **rest: Any) -> Family:
    """A family of one test: a user's own model."""

    class Own(Family):
        def _parts(self) -> tuple[type, Callable[..., Model]]:
            return NoOptions, lambda schema, config: make(schema)

    values: dict[str, Any] = {
        "name": "own",
        "title": "a user's own",
        "source": "",
        "place": "",
        "verbs": ("score",),
        "density": "exact",
        "kinds": ("vector",),
        "training": MappingProxyType({"steps": 20}),
    }
    return Own(**(values | rest))


class Line(Model, Scores):
    """A Gaussian with a learned mean, and a matrix and a bias of a linear map; ``touch`` may change the loss of a batch."""

    density_kind = "exact"

    def __init__(self, schema: Schema, touch: Callable[[Line, Batch, Tensor], Tensor] | None = None) -> None:
        super().__init__(schema)
        d = schema.example.size
        self.matrix = torch.nn.Parameter(torch.eye(d) + 0.1)
        self.bias = torch.nn.Parameter(torch.zeros(d))
        self.touch = touch

    def log_prob(self, x: Tensor, condition: Any = None, draws: Any = None) -> Tensor:
        z = x.float() @ self.matrix.T + self.bias
        return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * float(np.log(2 * np.pi)) + self.matrix.det().abs().log()

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        loss = -self.log_prob(batch.x)
        return {"loss": self.touch(self, batch, loss) if self.touch is not None else loss}


def job(model: Model, data: Data, validation: Data | None = None, **training: Any) -> Job:
    """A job on one CPU process."""
    options = Training(**({"batch_size": 32, "steps": 20, "device": "cpu", "precision": "float32"} | training))
    options = options.with_defaults({})
    return Job(model, data, validation or data, options, Processes("cpu"))


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    found = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "examples_per_second")} for line in found]


_NURSERY = """
import json, os, signal, sys, time
import torch, torch._dynamo
torch.set_num_threads(1)
import pushforward as pf
import pushforward.fitting.fit, pushforward.fitting.trainer, pushforward.metrics.distances, pushforward.kernels.stack
import pushforward.catalog.flows, pushforward.catalog.variational, pushforward.catalog.adversarial, pushforward.catalog.mixtures
pf.open_data("digits"), pf.open_data("moons")

def dying(real, left):
    def call(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    return call

def go(order):
    if order.get("calls"):
        left = [order["calls"]]
        for name in ("replace", "fsync", "mkdir"):
            setattr(os, name, dying(getattr(os, name), left))
    options = order["fit"]
    if order.get("interrupt"):
        def press(record):
            if record.step >= order["interrupt"]:
                os.kill(os.getpid(), signal.SIGINT)
        options["callback"] = press
    try:
        pf.fit(**options)
    except pf.PushforwardError as error:
        return type(error).__name__ + ": " + str(error)
    return ""

for text in sys.stdin:
    order = json.loads(text)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            os.write(write, go(order).encode())
            os._exit(0)
        except BaseException:
            import traceback
            os.write(write, traceback.format_exc().encode())
            os._exit(1)
    os.close(write)
    if order.get("seconds"):
        time.sleep(order["seconds"])
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    killed = os.WIFSIGNALED(status)
    code = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    print(json.dumps({"code": code, "said": said, "seconds": time.monotonic() - began}), flush=True)
"""


class Nursery:
    """A process that has imported everything and forks one child for each fit, so that killing many costs little."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def fit(self, options: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        """The exit code (−9 where it was killed) and the error of one fit. ``how``: seconds, calls or interrupt."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"fit": dict(options), **how}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def environment(**more: str) -> dict[str, str]:
    """This process's environment on one thread and without a launcher's variables."""
    drop = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in drop}
    return kept | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | more
