"""Samples of the same noise while a model is trained, so that one sees them form: RUN/snapshots/step-000123.npz."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pushforward.core.errors import PushforwardError
from pushforward.core.gather import alone
from pushforward.core.model import Samples
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Image, Kind, Points, Signal, Vector
from pushforward.fitting.files import write_arrays

if TYPE_CHECKING:
    from pushforward.fitting.loop import Job

_FORMING = 0xF0A3  # stream of the seed
_SHARE = 0.03  # of the time spent so far that all of them together may take


def pictured(kind: Kind) -> int:
    """How many samples make a picture of this kind; 0 where there is none."""
    if isinstance(kind, Vector):
        return 200 if kind.size == 2 else 0
    return 8 if isinstance(kind, Image) else 4 if isinstance(kind, (Signal, Points)) else 0


def stored(run: Path) -> list[tuple[int, Path]]:
    """Steps and files of the snapshots of a run, in order."""
    named = ((re.fullmatch(r"step-(\d+)\.npz", path.name), path) for path in (run / "snapshots").glob("step-*.npz"))
    return sorted((int(name[1]), path) for name, path in named if name)


class Snapshots:
    """Those of one training run: the first at the first validation, the last at the end, the others evenly between.

    Each file holds the codes x, how much of the budget was used, and how long all samples up to it took to draw.
    """

    def __init__(self, job: Job) -> None:
        model = job.model
        self.job, self.count = job, job.training.snapshots
        self.n = pictured(model.schema.example)
        self.on = self.count > 0 and self.n > 0 and isinstance(model, Samples) and job.run is not None and job.processes.main
        self.taken, self.spent, self.last = 0, 0.0, 0.0

    def rewind(self, step: int) -> None:
        """Drop those after ``step``, at which an interrupted run goes on, and count those before."""
        if not self.on:
            return
        assert self.job.run is not None
        for part in (self.job.run / "snapshots").glob(".step-*.part.npz"):
            part.unlink(missing_ok=True)  # of a process that was killed
        for at, path in stored(self.job.run):
            if at > step:
                path.unlink(missing_ok=True)
                continue
            try:
                with np.load(path, allow_pickle=False) as held:
                    done, spent = float(held["done"]), float(held["seconds"])
            except Exception:  # damaged: training can do without
                path.unlink()
                continue
            self.taken = self._passed(done)
            self.last, self.spent = spent - self.spent, spent

    def _passed(self, done: float) -> int:
        """How many should be there when ``done`` of the budget is used; one alone is of the end."""
        return 1 + int(done * (self.count - 1)) if self.count > 1 else int(done)

    def due(self, done: float, seconds: float) -> bool:
        """Whether it is time for one, and there is time after ``seconds`` of training."""
        cheap = not self.spent or self.spent + self.last <= _SHARE * seconds
        return self.on and self._passed(done) > self.taken and cheap

    @torch.no_grad()
    def take(self, step: int, done: float) -> None:
        """Draw the samples with the model as it is now and keep them."""
        # here, since a report only wants to know which files there are
        from pushforward.fitting.distributed import reproducible
        from pushforward.fitting.loop import to_batch

        model, job = self.job.model, self.job
        assert isinstance(model, Samples)
        assert job.run is not None
        seed, rows = job.training.seed, job.validation
        began, was = time.monotonic(), model.training
        self.taken = self._passed(done)
        # the same rows each time, so that each picture keeps its condition
        order = np.random.default_rng((seed, _FORMING)).permutation(len(rows))
        draws = Draws(mix(seed, _FORMING), 0, self.n, self.n, job.processes.device)
        model.eval()
        try:
            with alone(), reproducible(mix(seed, _FORMING)):
                batch = to_batch(rows.rows(np.resize(order, self.n)), model.schema, draws.fork(1), draws.device)
                x = model.sample(self.n, dict(batch.condition) or None, draws).cpu()
        except (PushforwardError, RuntimeError):
            return  # a model that cannot be drawn from yet may still be trained
        finally:
            model.train(was)
            self.last = time.monotonic() - began
            self.spent += self.last
        codes = x.to(torch.uint8 if isinstance(model.schema.example, Image) else torch.float32).numpy()
        about = {"done": np.array(done), "seconds": np.array(self.spent)}
        write_arrays(job.run / "snapshots" / f"step-{step:06d}.npz", {"x": codes, **about})
