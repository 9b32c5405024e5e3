"""Examples as numbers between which distances mean something.

Numbers are standardised by a reference, categories one-hot, missing values an indicator, pixels in [−1, 1], samples of a signal
standardised together, and of sets of points what their order does not change (``outline``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pushforward.core.schema import Column, Image, Kind, Part, Points, Schema, Signal, Table, Tokens, Vector
from pushforward.data.dataset import Rows

_DIRECTIONS = 24  # in which sets of points are seen from the side
_CELLS = 16  # averages of sorted places in each


def features(schema: Schema, x: Tensor, reference: Tensor) -> np.ndarray:
    """Codes as numbers between which distances mean something, (N, F); scales are those of the codes ``reference``."""
    kind = schema.example
    if isinstance(kind, Image):
        return (x.flatten(1).double() * (2 / max(1, kind.levels - 1)) - 1).numpy()
    if isinstance(kind, Tokens):
        return torch.nn.functional.one_hot(x, len(kind.vocabulary)).flatten(1).double().numpy()
    if isinstance(kind, (Signal, Points)):
        seen = alike(kind, x, reference)
        return (seen.flatten(1) if isinstance(kind, Signal) else outline(seen)).numpy()
    columns = kind.learned if isinstance(kind, Table) else [None] * kind.size
    parts = []
    for i, column in enumerate(columns):
        value, ref = x[:, i].double(), reference[:, i].double()
        if column is not None and column.discrete:
            # one-hot vectors of different categories are as far apart as numbers one deviation apart
            parts.append(torch.nn.functional.one_hot(value.long(), column.levels).double() / math.sqrt(2))
            continue
        mean = ref.nanmean().nan_to_num()
        std = (ref - mean).square().nanmean().sqrt().nan_to_num().clamp(min=1e-9)
        # a wild sample is wrong enough at ten deviations; further out it would drown all else
        parts.append(((value - mean) / std).nan_to_num(0.0, 10.0, -10.0).clamp(-10, 10)[:, None])
        if column is not None and column.missing:
            parts.append(value.isnan().double()[:, None])
    return torch.cat(parts, 1).numpy()


def alike(kind: Kind, x: Tensor, reference: Tensor) -> Tensor:
    """Signals with one mean and deviation for all samples of a channel, by those of ``reference``; points with one mean for
    each coordinate and one deviation for all, which keeps their shapes."""
    ref, shared = reference.double(), (0, 2) if isinstance(kind, Signal) else (0, 1)
    mean = ref.mean(shared, keepdim=True)
    std = (ref - mean).square().mean((0, 2) if isinstance(kind, Signal) else (0, 1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    return ((x.double() - mean) / std).nan_to_num(0.0, 10.0, -10.0).clamp(-10, 10)


def outline(x: Tensor) -> Tensor:
    """Sets of points (B, P, d) as numbers (B, F) that do not depend on the order of the points.

    The points are projected on fixed directions, the axes first, and sorted on each; the sorted places are averaged in up to 16
    cells. The distance between two rows, over √F, is then about the sliced Wasserstein distance between the two sets.
    """
    count, dims = x.shape[1:]
    rng = np.random.default_rng(0)
    turns = [np.eye(dims)] + [np.linalg.qr(rng.normal(size=(dims, dims)))[0] for _ in range(_DIRECTIONS // dims - 1)]
    directions = torch.from_numpy(np.concatenate(turns[: 1 if dims == 1 else None], 1))
    places = (x.double() @ directions).sort(1).values.transpose(1, 2)  # (B, directions, P)
    return torch.nn.functional.adaptive_avg_pool1d(places, min(count, _CELLS)).flatten(1)


def told(schema: Schema, rows: Rows, real: Rows) -> Iterator[np.ndarray]:
    """Features of the conditions: of numbers, categories and vectors. Texts and pictures would drown the example."""
    columns = tuple(c for c in schema.conditions if isinstance(c, Column))
    if columns:
        codes, ref = (torch.stack([r.columns[c.name].double() for c in columns], 1) for r in (rows, real))
        yield features(Schema(Table(columns)), codes, ref)
    for c in schema.conditions:
        if isinstance(c, Part) and isinstance(c.kind, Vector):
            yield features(Schema(c.kind), rows.columns[c.name], real.columns[c.name])
