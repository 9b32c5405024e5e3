"""The one trainer: gradients in turns, or additive statistics; every random number a function of (seed, step).

Batch b of a run is rows b·B … (b+1)·B − 1 of the endless sequence of epochs, each shuffled by (seed, epoch); its noise
belongs to its rows (core/random). Nothing depends on how rows are dealt to processes, nor on where a run was
interrupted: a resumed run ends with the same bits, and several processes train as one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pushforward.core.errors import RecipeError, TrainingDiverged
from pushforward.core.model import Batch, FitsDirectly, Turn
from pushforward.core.random import Draws, mix
from pushforward.fitting.direct import DirectFit
from pushforward.fitting.history import History, Record
from pushforward.fitting.loop import Job, Loop, to_batch, under, watching_for_ctrl_c
from pushforward.fitting.snapshots import Snapshots
from pushforward.fitting.validation import VALIDATE, sample_distance, validation_loss

_ORDER, _NOISE = 0x0DE4, 0x401E  # streams of the seed
_ROLLBACKS = 5
_LOOKING = 0.1  # of a budget in minutes goes into validation, at most
_LOOKS, _TIMED, _FEWEST = (
    4,
    64,
    128,
)  # validations that this is to allow; rows by which their time is told; rows of each at least


def train(job: Job) -> History:
    """Fit ``job.model`` in place; it ends with the averaged weights of the best validation.

    Raises TrainingDiverged and Interrupted.
    """
    history = History(job.run, job.processes.main)
    with job.processes.products():
        if isinstance(job.model, FitsDirectly):
            DirectFit(job, history).go()
        elif any(True for _ in job.model.parameters()):
            GradientFit(job, history).go()
        else:
            history.rewind(0)
            history.add(
                Record(step=0, validation=validation_loss(job.model, job.validation, job.training.seed, job.processes.device))
            )
    return history


class GradientFit(Loop):
    """Optimiser steps in turns (Loshchilov & Hutter 2017, arXiv:1711.05101, for the decoupled decay)."""

    def __init__(self, job: Job, history: History) -> None:
        super().__init__(job, history)
        model, training, world = self.model, self.training, self.processes.world
        assert training.batch_size is not None
        if training.batch_size % world:
            raise RecipeError(
                f"batch_size {training.batch_size} cannot be shared by {world} processes: use a multiple of {world}"
            )
        self.local = training.batch_size // world
        if training.compile:
            model.compile_parts()
        self.wrapped = self.processes.prepare(model)
        self.named = list(model.named_parameters())
        self.parameters: list[Tensor] = [p for _, p in self.named]
        self.average = [p.detach().clone() for p in self.parameters] if training.average else []
        self.optimisers = {turn.name: self._optimiser(turn) for turn in model.turns}
        self.batches = 0
        self.slower = 1.0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._loss_sum = torch.zeros((), device=self.device)
        self._terms: dict[str, Tensor] = {}
        self._loss_count = 0
        self._mark = (0, time.monotonic())
        self._validated, self._looking = 0, 0.0
        self._held = VALIDATE if training.minutes is None else 0  # rows of a validation; 0: to be found out
        self.snapshots = Snapshots(job)
        self.good: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def _optimiser(self, turn: Turn) -> torch.optim.AdamW:
        """AdamW on the turn's parameters; biases, norms, embeddings' vectors and scales are not decayed."""
        named = list(self.model.turn_parameters(turn))
        decayed = [p for _, p in named if p.dim() > 1]
        plain = [p for _, p in named if p.dim() <= 1]
        assert self.training.learning_rate is not None
        rate = self.training.learning_rate * turn.learning_rate_scale
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.training.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        fused = self.device.type in ("cpu", "cuda")
        optimiser = torch.optim.AdamW(groups, lr=rate, betas=turn.betas, eps=1e-8, fused=fused)
        for group in optimiser.param_groups:
            group["peak"] = rate
        return optimiser

    # data

    def next_batch(self) -> Batch:
        """This process's rows of the next batch."""
        size = self.training.batch_size
        assert size is not None
        first = self.batches * size + self.processes.rank * self.local
        index = self._places(first)
        offset = self.processes.rank * self.local
        draws = Draws(mix(self.training.seed, _NOISE, self.batches), offset, offset + self.local, size, self.device)
        self.batches += 1
        return to_batch(self.job.train.to_train_on(index, draws), self.model.schema, draws, self.device)

    def _places(self, first: int) -> np.ndarray:
        """Rows at the places from ``first`` on of the shuffled epochs laid end to end."""
        rows = len(self.job.train)
        (epoch, start), last = divmod(first, rows), (first + self.local - 1) // rows
        if epoch == last:
            return self._shuffled(epoch)[start : start + self.local]
        # the order of the last epoch comes last, since it is the one that is kept
        parts = [self._shuffled(e)[start if e == epoch else 0 :] for e in range(epoch, last + 1)]
        return np.concatenate(parts)[: self.local]

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.training.seed, _ORDER, epoch)).permutation(len(self.job.train))
            self._epoch = epoch
        return self._order

    # steps

    def go(self) -> None:
        self.begin()
        self.snapshots.rewind(self.step)
        total = self.training.steps
        every = max(1, (total or 0) // self.training.validate)
        self.model.train()
        self.good = self._whole()
        with self.job.progress as progress, watching_for_ctrl_c() as pressed:
            done = self.done()  # asked once a round, by every process: with a clock it is a sum over them
            while not self.stopped and done < 1:
                self._round(done)
                self.step += 1
                done = self.done()
                due = self.step % every == 0 if total else self._due(done)
                if due or done >= 1:
                    before, self.stopped = done, self.processes.any(self._validate(done))
                    done = self.done()
                    self._looking += done - before
                    self.save(now=True)
                else:
                    self.save()
                if progress.due():
                    progress.update(done, train=self._train_loss(), validation=self.history.last("validation"), **self._rate())
                # asking the others costs a round trip, for which the host would wait on a GPU
                asks = self.processes.world == 1 or self.device.type == "cpu" or self.step % 16 == 0
                if asks and self.processes.any(pressed()):
                    self.stop_here()
        self._finish()

    def _due(self, done: float) -> bool:
        """By the clock: whether it is time to validate, and no more than a share of it went into that so far."""
        return done * self.training.validate >= self._validated + 1 and self._looking <= _LOOKING * done

    def _round(self, done: float) -> None:
        warm = min(1.0, done / self.training.warmup) if self.training.warmup and done < self.training.warmup else 1.0
        if self.training.steps and warm < 1:
            warm = max(warm, 1 / max(1.0, self.training.warmup * self.training.steps))
        pace = self.slower * max(warm, 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        self.model.before_round(done)
        told: dict[str, Tensor] = {}
        for turn in self.model.turns:
            optimiser = self.optimisers[turn.name]
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * pace
            for _ in range(turn.repeats):
                terms = self._step(turn, optimiser)
            told |= terms
        self._loss_sum += told["loss"]
        for name, value in told.items():
            self._terms[name] = self._terms.get(name, 0) + value
        self._loss_count += 1
        if self.average:
            decay = min(self.training.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def _step(self, turn: Turn, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        optimiser.zero_grad(set_to_none=True)
        share = 1 / self.training.accumulate
        for part in range(self.training.accumulate):
            batch = self.next_batch()
            with self.processes.accumulating(self.wrapped, part + 1 < self.training.accumulate):
                with self.processes.autocast():
                    terms = self.wrapped(batch, turn.name)
                    loss = terms["loss"].mean()
                (loss * share if self.training.accumulate > 1 else loss).backward()
        if self.training.clip:
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.training.clip)
        optimiser.step()
        self.model.after_step(turn.name)
        others = {name: value.detach().float().mean() for name, value in terms.items() if name != "loss"}
        return {"loss": loss.detach().float(), **others}

    def _train_loss(self) -> float | None:
        return float(self._loss_sum) / self._loss_count if self._loss_count else self.history.last("train")

    def _rate(self) -> dict[str, float | None]:
        batches, since = self._mark
        if self.batches == batches:
            return {"examples/s": self.history.last("examples_per_second")}
        size = self.training.batch_size or 0
        return {"examples/s": (self.batches - batches) * size / max(1e-9, time.monotonic() - since)}

    # validation, best, rollback

    def _validate(self, done: float) -> bool:
        self._validated = int(done * self.training.validate)
        loss = self.processes.sum(self._loss_sum.clone()) / self.processes.world / max(1, self._loss_count)
        if not math.isfinite(float(loss)):
            self._roll_back()
            return False
        terms = {name: self.processes.sum(total) / self.processes.world for name, total in self._terms.items()}
        rate = self._rate()["examples/s"]
        with self.averaged():
            if self.model.comparable:
                criterion, value = "loss", self._held_loss()
            else:
                criterion = "sliced_wasserstein"
                value = sample_distance(self.model, self.job.validation, self.training.seed, self.device)
        if not math.isfinite(value):
            self._roll_back()
            return False
        record = Record(
            step=self.step,
            epoch=self.batches * (self.training.batch_size or 0) / len(self.job.train),
            seconds=self.seconds(),
            train=float(loss),
            validation=value,
            learning_rate=next(iter(self.optimisers.values())).param_groups[0]["lr"],
            examples_per_second=rate,
            criterion=criterion,
            terms={name: float(total) / self._loss_count for name, total in terms.items() if name != "loss"},
        )
        enough = self.judge(value, self._averages)
        self._show(1.0 if enough else done)
        self._loss_sum.zero_()
        self._terms, self._loss_count = {}, 0
        self._mark = (self.batches, time.monotonic())
        self.good = self._whole()
        return self.tell(record) or enough

    def _show(self, done: float) -> None:
        """A snapshot, if it is time."""
        if self.snapshots.due(done, self.seconds()):
            with self.averaged():
                self.snapshots.take(self.step, done)

    def _held_loss(self) -> float:
        look = partial(
            validation_loss, self.model, self.job.validation, self.training.seed, self.device, self.processes.autocast
        )
        if not self._held:
            self._held = self._affordable(look)
        return look(self._held)

    def _affordable(self, look: Callable[[int], float]) -> int:
        """How many rows to look at, so that a budget in minutes is spent on training: every validation looks at the same."""
        assert self.training.minutes is not None
        look(2)  # a first pass may load kernels
        began = time.monotonic()
        look(_TIMED)
        took = self.processes.mean(time.monotonic() - began)
        rows = _TIMED * 60 * self.training.minutes * _LOOKING / _LOOKS / max(took, 1e-6)
        return int(min(max(rows, _FEWEST), VALIDATE))

    def _averages(self) -> dict[str, Tensor]:
        """The whole state with averaged parameters."""
        state = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        if self.average:
            state |= {n: a.clone() for (n, _), a in zip(self.named, self.average, strict=True)}
        return state

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights."""
        if not self.average:
            yield
            return
        kept = [p.data for p in self.parameters]
        for p, a in zip(self.parameters, self.average, strict=True):
            p.data = a
        try:
            yield
        finally:
            for p, raw in zip(self.parameters, kept, strict=True):
                p.data = raw

    def _whole(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {n: t.detach().clone() for n, t in self.tensors().items()}, {"step": self.step, **self.state()}

    def _roll_back(self) -> None:
        """Back to the last good state with half the learning rate and other batches."""
        assert self.good is not None
        found = self.step
        count, batches, best = self.rollbacks + 1, self.batches, (self.best, self.best_state, self.stale)
        spent = self.seconds()
        self.adopt({n: t.clone() for n, t in self.good[0].items()}, dict(self.good[1]))
        self.spent, self._began = spent, time.monotonic()
        self.rollbacks, self.batches, self.slower = count, batches, 0.5**count
        self.best, self.best_state, self.stale = best
        self._loss_sum.zero_()
        self._terms, self._loss_count = {}, 0
        message = f"the loss was not finite at step {found}: rolled back to step {self.step}, learning rate halved"
        self.history.event("rollback", found, message)
        self.job.progress.say(message)
        if count > _ROLLBACKS:
            raise TrainingDiverged(
                f"the loss was not finite {count} times, at last at step {found}: use a smaller learning_rate, "
                "and look for extreme values in the data (pushforward inspect)"
            )

    def _finish(self) -> None:
        """The raw weights are kept beside; the model ends with the best averages."""
        self.history.raw = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        self.model.load_state_dict(self.best_state or self._averages())
        self.model.eval()

    # checkpoints

    def tensors(self) -> dict[str, Tensor]:
        tensors = super().tensors()
        if self.average:
            tensors |= {f"average/{n}": a for (n, _), a in zip(self.named, self.average, strict=True)}
        for turn in self.model.turns:
            moments = self.optimisers[turn.name].state
            for name, parameter in self.model.turn_parameters(turn):
                for key, value in moments.get(parameter, {}).items():
                    tensors[f"optimiser/{turn.name}/{name}/{key}"] = value
        for name, total in self._terms.items():
            tensors[f"terms/{name}"] = total
        return tensors | {"loss_sum": self._loss_sum}

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "batches": self.batches,
            "slower": self.slower,
            "loss_count": self._loss_count,
            "validated": self._validated,
            "held": self._held,
        }

    def adopt(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        super().adopt(tensors, state)
        self.batches, self.slower = state["batches"], state["slower"]
        self._loss_count, self._validated, self._held = state["loss_count"], state["validated"], state["held"]
        self._loss_sum.copy_(tensors["loss_sum"])
        self._terms = {n: t.to(self.device) for n, t in under(tensors, "terms").items()}
        averages = under(tensors, "average")
        for (name, _), average in zip(self.named, self.average, strict=bool(self.average)):
            average.copy_(averages[name])
        for turn in self.model.turns:
            optimiser = self.optimisers[turn.name]
            moments = under(tensors, f"optimiser/{turn.name}")
            optimiser.state.clear()
            for name, parameter in self.model.turn_parameters(turn):
                mine = {k[len(name) + 1 :]: v.to(self.device) for k, v in moments.items() if k.rpartition("/")[0] == name}
                if mine:
                    optimiser.state[parameter] = mine
        self._mark = (self.batches, time.monotonic())
