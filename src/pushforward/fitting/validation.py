"""What a model is judged by while it trains: numbers that can be compared from one validation to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from pushforward.core.gather import alone
from pushforward.core.model import Model, Samples
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Table, Vector
from pushforward.data.dataset import Data
from pushforward.fitting.loop import to_batch

_HELD = 0xE1D  # stream of the seed
VALIDATE = 2048  # rows of the validation set that are looked at, at most
_CHUNK = 512


@torch.no_grad()
def validation_loss(
    model: Model,
    data: Data,
    seed: int,
    device: torch.device,
    autocast: Callable[[], Any] = contextlib.nullcontext,
    rows: int = VALIDATE,
) -> float:
    """Mean loss of the last turn on up to ``rows`` rows with the same noise and stratified times every time."""
    turn, held = model.turns[-1].name, mix(seed, _HELD)
    count = min(len(data), rows)
    total = 0.0
    was = model.training
    model.eval()
    with alone():
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            draws = Draws(held, start, stop, count, device)
            batch = to_batch(data.rows(slice(start, stop)), model.schema, draws, device)
            with autocast():
                total += float(model(batch, turn)["loss"].sum())
    model.train(was)
    return total / count


@torch.no_grad()
def sample_distance(model: Model, data: Data, seed: int, device: torch.device) -> float:
    """Sliced Wasserstein distance between samples and validation rows, in standard deviations of the latter.

    Pixels, places of a signal and coordinates of points share one: by its own a pixel that is hardly ever lit would count for
    more than all the others.
    """
    from pushforward.metrics.distances import sliced_wasserstein

    assert isinstance(model, Samples)
    count = min(len(data), 1024)
    draws = Draws(mix(seed, _HELD), 0, count, count, device)
    batch = to_batch(data.rows(slice(0, count)), model.schema, draws, device)
    was = model.training
    model.eval()
    fake = model.sample(count, dict(batch.condition) or None, draws)
    model.train(was)
    real = batch.x.flatten(1).double().cpu()
    mean, square = real.nanmean(0).nan_to_num(), (real - real.nanmean(0)).square().nanmean(0).nan_to_num()
    std = (square if isinstance(model.schema.example, (Table, Vector)) else square.mean()).sqrt().clamp(min=1e-3)
    near, far = (((x.flatten(1).double().cpu() - mean) / std).nan_to_num(0, 10, -10) for x in (real, fake))
    return float(sliced_wasserstein(near, far, projections=64, seed=seed).value)
