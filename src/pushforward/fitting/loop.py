"""What every way of fitting shares: the job, the clock, the records, the checkpoints, the best state, Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.derived import with_derived
from pushforward.core.errors import Interrupted
from pushforward.core.model import Batch, Model
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.data.dataset import Data, Rows
from pushforward.fitting import checkpoint
from pushforward.fitting.distributed import Processes
from pushforward.fitting.history import History, Record
from pushforward.fitting.options import Training
from pushforward.fitting.progress import Progress

Callback = Callable[[Record], Any]


_MUCH = 1.25  # times the least distance between samples and data so far: farther is worse, nearer may be chance


@dataclass
class Job:
    """What is trained on what."""

    model: Model
    train: Data
    validation: Data
    training: Training
    processes: Processes
    run: Path | None = None
    resume: bool = False
    callback: Callback | None = None
    progress: Progress = field(default_factory=lambda: Progress("fit", quiet=True))
    how_to_go_on: str = "resume=True"


def to_batch(rows: Rows, schema: Schema, draws: Draws, device: torch.device) -> Batch:
    """Rows of data as a batch on ``device``."""
    columns = {name: place(values, device) for name, values in rows.columns.items()}
    x = place(rows.x, device)
    condition = with_derived(schema.conditions, x, columns, draws)
    target = columns.get(schema.target.name) if schema.target is not None else None
    return Batch(x, draws, condition, target)


def place(codes: Tensor, device: torch.device) -> Tensor:
    """Codes on ``device``; where it knows no float64 (MPS), as float32."""
    if device.type == "mps" and codes.dtype == torch.float64:
        codes = codes.float()
    return codes.to(device, non_blocking=True)


@contextmanager
def watching_for_ctrl_c() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; a second one interrupts at once."""
    pressed = False

    def handle(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


class Loop:
    """What both ways of fitting share: the clock, the records, the checkpoints, the best state."""

    def __init__(self, job: Job, history: History) -> None:
        self.job, self.history, self.model = job, history, job.model
        self.training, self.processes = job.training, job.processes
        self.device = job.processes.device
        self.step, self.spent, self.best, self.stale, self.rollbacks = 0, 0.0, math.inf, 0, 0
        self.best_state: dict[str, Tensor] = {}
        self.stopped = False  # by patience or the callback
        self._began = time.monotonic()
        self._saved, self._kept = time.monotonic(), (-1, 0)

    def seconds(self) -> float:
        """Time trained, earlier sittings included."""
        return self.spent + time.monotonic() - self._began

    def begin(self) -> None:
        """The clock starts; an earlier sitting is gone on with."""
        self.restore()
        self._began = self._saved = time.monotonic()

    def done(self) -> float:
        """Share of the budget that is used, in [0, 1]; below 1 before the first step."""
        if self.training.minutes is None:
            return self.step / max(1, self.training.steps or 1)
        # all processes must agree on when to stop
        share = self.processes.mean(self.seconds() / (60 * self.training.minutes))
        return min(1.0 if self.step else 0.0, share)

    def tensors(self) -> dict[str, Tensor]:
        """Everything tensor-like that a checkpoint needs."""
        return {f"model/{n}": t for n, t in self.model.state_dict().items()} | {
            f"best/{n}": t for n, t in self.best_state.items()
        }

    def state(self) -> dict[str, Any]:
        """Everything else."""
        return {
            "seconds": self.seconds(),
            "best": self.best if math.isfinite(self.best) else None,
            "stale": self.stale,
            "rollbacks": self.rollbacks,
            "stopped": self.stopped,
            "lines": len(self.history.lines),
        }

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        path = checkpoint.latest(self.job.run) if self.job.run is not None and self.job.resume else None
        if path is None:
            # what was written before the first checkpoint comes again
            self.history.rewind(0)
            return
        tensors, state = checkpoint.load(path)
        self.adopt(tensors, state)
        self.history.rewind(state["lines"])
        self._kept = self.step, self.rollbacks

    def adopt(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take over what ``tensors`` and ``state`` gave to a checkpoint."""
        self.step, self.spent = state["step"], state["seconds"]
        self.best = state["best"] if state["best"] is not None else math.inf
        self.stale, self.rollbacks, self.stopped = state["stale"], state["rollbacks"], state["stopped"]
        self.model.load_state_dict(under(tensors, "model"))
        self.best_state = {n: t.to(self.device) for n, t in under(tensors, "best").items()}

    def save(self, now: bool = False) -> None:
        """A checkpoint, if it is time."""
        if self.job.run is None or not (now or time.monotonic() - self._saved >= self.training.save_every):
            return
        if self.processes.main and self._kept != (self.step, self.rollbacks):
            checkpoint.save(self.job.run, self.step, self.tensors(), self.state())
        self._saved, self._kept = time.monotonic(), (self.step, self.rollbacks)

    def stop_here(self) -> None:
        """Ctrl-C: save and say how to go on."""
        self.save(now=True)
        self.processes.barrier()  # a launcher ends the others as soon as one has left, and one of them is saving
        where = f"step {self.step}"
        if self.job.run is None:
            raise Interrupted(f"stopped at {where}; nothing was kept, since no run folder was given (out=)")
        raise Interrupted(f"stopped at {where}, saved in {self.job.run}; go on with: {self.job.how_to_go_on}")

    def judge(self, value: float, state: Callable[[], dict[str, Tensor]]) -> bool:
        """Keep the best state; true when patience has run out.

        A distance between samples is that of a few, and says nothing of a GAN's modes: the later state is kept unless it is
        much farther from the data than the best was.
        """
        better = value < self.best - 1e-9 * abs(value)
        if better or (not self.model.comparable and value <= _MUCH * self.best):
            self.best_state = state()
        if better:
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        return self.model.comparable and 0 < self.training.patience <= self.stale

    def tell(self, record: Record) -> bool:
        """Write the record and ask the callback; true when it wants to stop."""
        self.history.add(record)
        return self.job.callback is not None and self.job.callback(record) is False


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``/, without it."""
    return {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + "/")}
