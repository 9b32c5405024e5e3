"""What the trainer costs beside a loop written by hand on the same net.

The hand-written loop does what anyone would write: AdamW (fused) with two groups, clipping, a cosine schedule, a moving average
of the weights, batches drawn from a tensor in memory and noise from torch's global generator. The bare loop leaves out the
average. Both sides end with the same validation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from harness import Entry, compare, main
from torch import Tensor, nn

from pushforward.catalog.flows import NiceOptions, nice
from pushforward.catalog.variational import VaeOptions, vae
from pushforward.core.model import Batch, Model
from pushforward.core.schema import Schema, Vector
from pushforward.data.dataset import Data, TensorStore
from pushforward.fitting.distributed import Processes
from pushforward.fitting.loop import Job
from pushforward.fitting.options import Training
from pushforward.fitting.trainer import train
from pushforward.fitting.validation import validation_loss

ROWS, DIMS, BATCH = 20_000, 16, 512


class Noise:
    """The numbers a hand-written loss draws."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def normal(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(self.rows, *tail, dtype=dtype)

    def uniform(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(self.rows, *tail, dtype=dtype)


def by_hand(model: Model, x: Tensor, held: Data, steps: int, average: bool) -> None:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    parameters = decayed + plain
    averages = [p.detach().clone() for p in parameters] if average else []
    model.train()
    order, at = torch.randperm(len(x)), 0
    for _ in range(steps):
        if at + BATCH > len(x):
            order, at = torch.randperm(len(x)), 0
        rows = x[order[at : at + BATCH]]
        at += BATCH
        optimiser.zero_grad()
        loss = model(Batch(rows, Noise(len(rows))), "model")["loss"].mean()  # type: ignore[arg-type]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if average:
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 0.001)
    validation_loss(model, held, 0, torch.device("cpu"))


def nets() -> dict[str, tuple[int, Callable[[Schema], Model]]]:
    """Steps that take a second or two, and the model."""
    return {
        "nice, 16 numbers": (80, lambda schema: nice(schema, NiceOptions())),
        "nice, 16 numbers, tiny nets": (800, lambda schema: nice(schema, NiceOptions(hidden=(32,), transforms=4))),
        "vae, 16 numbers": (160, lambda schema: vae(schema, VaeOptions())),
    }


def run(quick: bool = False) -> list[Entry]:
    rounds = 3 if quick else 7
    torch.manual_seed(0)
    x = torch.randn(ROWS, DIMS, dtype=torch.float64) @ torch.randn(DIMS, DIMS, dtype=torch.float64)
    schema = Schema(Vector(DIMS))
    data = Data.of(schema, TensorStore(x))
    held = Data.of(schema, TensorStore(x[:512].clone()))
    processes = Processes("cpu")
    entries: list[Entry] = []
    for name, (steps, build) in nets().items():
        steps = steps // 4 if quick else steps
        training = Training(steps=steps, batch_size=BATCH, validate=1, device="cpu", precision="float32").with_defaults({})
        start = build(schema)
        start.prepare(x)

        def ours(start: Any = start, training: Training = training) -> Callable[[], object]:
            job = Job(copy.deepcopy(start), data, held, training, processes)
            return lambda: train(job)

        def peer(average: bool, start: Any = start, steps: int = steps) -> Callable[[], object]:
            model = copy.deepcopy(start)
            return lambda: by_hand(model, x, held, steps, average)

        entries.append(compare(name, "a loop by hand", ours, lambda p=peer: p(True), rounds=rounds, target=1.05))
        entries.append(compare(name, "a bare loop (no averages)", ours, lambda p=peer: p(False), rounds=rounds))
    return entries


if __name__ == "__main__":
    main(run, __doc__ or "")
