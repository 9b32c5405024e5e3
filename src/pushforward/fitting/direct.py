"""Fitting by additive statistics: EM and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import TrainingDiverged
from pushforward.core.model import Batch, FitsDirectly
from pushforward.core.random import Draws, mix
from pushforward.fitting.history import Record
from pushforward.fitting.loop import Loop, place, to_batch, watching_for_ctrl_c
from pushforward.fitting.validation import validation_loss
from pushforward.models.em import EM, Seen

_EM = 0xE34  # stream of the seed
_NUMBERS = 2**20  # in a block of rows
_KEPT = 2**30  # bytes of coordinates that are kept from one iteration to the next


class DirectFit(Loop):
    """Additive statistics over all rows, an update, and again until the likelihood stands still."""

    before = -math.inf
    seen: list[Seen] | None = None  # what EM needs of this process's rows, once it has been made

    def state(self) -> dict[str, Any]:
        return super().state() | {"before": self.before if math.isfinite(self.before) else None}

    def adopt(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        super().adopt(tensors, state)
        self.before = state["before"] if state["before"] is not None else -math.inf

    def go(self) -> None:
        model = self.model
        assert isinstance(model, FitsDirectly)
        model.to(self.device)
        rows = self.job.train.sample(20_000, self.training.seed)
        seed = mix(self.training.seed, _EM)
        with torch.no_grad():
            model.start(place(rows.x, self.device), Draws(seed, 0, len(rows.x), device=self.device))
            self.begin()
            with self.job.progress as progress, watching_for_ctrl_c() as pressed:
                while not self.stopped and self.done() < 1:
                    likelihood = model.update(self._sums(seed))
                    self.step += 1
                    value = validation_loss(model, self.job.validation, self.training.seed, self.device)
                    if not math.isfinite(likelihood) or not math.isfinite(value):
                        raise TrainingDiverged(f"the likelihood was not finite at iteration {self.step}: use fewer components")
                    record = Record(
                        step=self.step,
                        epoch=self.step,
                        seconds=self.seconds(),
                        train=-likelihood,
                        validation=value,
                        terms={"components": float(model.used)} if isinstance(model, EM) else {},
                    )
                    tired = self.judge(value, lambda: {n: t.clone() for n, t in model.state_dict().items()})
                    still = abs(likelihood - self.before) < 1e-5 * (1 + abs(likelihood))
                    self.before = likelihood
                    self.stopped = self.processes.any(self.tell(record) or tired or still)
                    progress.update(self.done(), train=-likelihood, validation=value)
                    self.save(now=self.stopped)
                    if self.processes.any(pressed()) and not self.stopped:
                        self.stop_here()
            self.save(now=True)
        model.load_state_dict(self.best_state)
        model.eval()

    def _sums(self, seed: int) -> dict[str, Tensor]:
        """Statistics of all rows, this process's share of them added to the others'."""
        totals: dict[str, Tensor] = {}
        for stats in self._each(seed):
            for name, value in stats.items():
                totals[name] = totals[name] + value if name in totals else value
        return {name: self.processes.sum(value) for name, value in totals.items()}

    def _each(self, seed: int) -> Iterator[dict[str, Tensor]]:
        """Statistics of each block of rows. What no iteration changes is made once, where there is room for it."""
        model = self.model
        assert isinstance(model, FitsDirectly)
        if not isinstance(model, EM):
            yield from map(model.stats, self._batches(seed))
        elif 8 * len(self.job.train) * model.schema.example.size > _KEPT:
            yield from (model.e_step(model.digest(batch)) for batch in self._batches(seed))
        else:
            self.seen = self.seen or [model.digest(batch) for batch in self._batches(seed)]
            yield from map(model.e_step, self.seen)

    def _batches(self, seed: int) -> Iterator[Batch]:
        """This process's share of the rows, block by block."""
        n, world, rank = len(self.job.train), self.processes.world, self.processes.rank
        last = n * (rank + 1) // world
        rows = max(512, min(65_536, _NUMBERS // self.model.schema.example.size))
        for start in range(n * rank // world, last, rows):
            stop = min(start + rows, last)
            draws = Draws(seed, start, stop, device=self.device)
            yield to_batch(self.job.train.rows(slice(start, stop)), self.model.schema, draws, self.device)
