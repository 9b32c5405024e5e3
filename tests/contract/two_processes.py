"""What one of two gloo processes does: each model's gradients on its half of the batch, averaged as in training."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pushforward.core.model import Batch, FitsDirectly, Model
from pushforward.core.random import Draws


@dataclass(frozen=True)
class Seed:
    """What draws of a joint batch are made from."""

    seed: int


Job = tuple[str, Model, Batch]


def gradients(model: nn.Module, batch: Batch, turn: str) -> dict[str, Tensor]:
    """The mean loss and its gradients, by parameter name."""
    inner: Any = getattr(model, "module", model)
    model.zero_grad(set_to_none=True)
    loss = model(batch, turn)["loss"].mean()
    loss.backward()
    own = {n for t in inner.turns if t.name == turn for n, _ in inner.turn_parameters(t)}
    found = {n: p.grad.clone() for n, p in inner.named_parameters() if n in own and p.grad is not None and p.grad.any()}
    return {**found, "loss": loss.detach()}


def results(job: Job, rank: int, world: int) -> dict[str, Tensor]:
    """What process ``rank`` of ``world`` finds for a job."""
    turn, model, batch = job
    local = len(batch.x) // world
    rows = slice(rank * local, (rank + 1) * local)
    mine = replace(
        batch,
        x=batch.x[rows],
        # as fitting/trainer.py: rows keep their place in the batch of all processes
        draws=Draws(batch.draws.seed, rank * local, (rank + 1) * local, len(batch.x)),
        condition={n: v[rows] for n, v in batch.condition.items()},
        target=None if batch.target is None else batch.target[rows],
    )
    if isinstance(model, FitsDirectly):
        stats = model.stats(mine)
        if world > 1:
            for value in stats.values():
                dist.all_reduce(value)
        model.update(stats)
        return {n: t.clone() for n, t in model.state_dict().items()}
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    found = gradients(wrapped, mine, turn)
    if world > 1:
        dist.all_reduce(found["loss"])
        found["loss"] /= world
    return found


def main(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    jobs = torch.load(Path(folder) / "jobs.pt", weights_only=False)
    torch.save([results(job, rank, 2) for job in jobs], Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
