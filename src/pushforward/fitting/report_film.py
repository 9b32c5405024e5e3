"""What a report shows in the order of time: samples as a model learned, and the way from noise to data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pushforward.core.schema import Image, Kind, Points, Signal, Vector
from pushforward.data.images import to_display
from pushforward.fitting import pictures, shapes
from pushforward.fitting.report_data import extent_of
from pushforward.fitting.runs import Codes, Run

# Pixels of the images of one section, so that a comparison of ten runs stays light.
_PIXELS = 250_000


def forming(runs: Sequence[Run], source: Run) -> list[dict[str, Any]]:
    """The snapshots of each run that kept several: {run, frames, least}."""
    shown = [run for run in runs if len(run.snapshots) > 1]
    largest = _largest(sum(len(x) for run in shown for _, x in run.snapshots))
    found = []
    for run in shown:
        assert run.schema is not None
        kind, extent = run.schema.example, _ends(run, source, [x for _, x in run.snapshots])
        across = 4 if isinstance(kind, Image) and max(kind.height, kind.width) <= 48 else 2
        frames = [{"caption": f"step {step:,}", **_frame(run, x, across, extent, largest)} for step, x in run.snapshots]
        least = "300px" if isinstance(kind, Signal) else "200px" if len(frames) < 5 else "140px"
        found.append({"run": run, "frames": frames, "least": least})
    return found


def ways(runs: Sequence[Run], source: Run) -> list[dict[str, Any]]:
    """The way from noise to data of each run that kept one: {run, frames, most}, ``most`` the width of a frame."""
    shown = [run for run in runs if run.way is not None]
    largest = _largest(sum(math.prod(run.way.shape[:2]) for run in shown if run.way is not None))
    found = []
    for run in shown:
        assert run.schema is not None
        assert run.way is not None
        kind, last = run.schema.example, run.way.shape[1] - 1
        extent = _ends(run, source, list(run.way.swapaxes(0, 1)))
        names = {0: "noise", last: "samples"}
        frames = [{"caption": names.get(i, ""), **_frame(run, run.way[:, i], 1, extent, largest)} for i in range(last + 1)]
        most = {"image": "60px", "points": "110px"}.get(kind.name, "1fr")
        found.append({"run": run, "frames": frames, "most": most})
    return found


def _largest(count: int) -> int:
    """The longest side of images of which so many are shown."""
    return max(16, min(96, math.isqrt(_PIXELS // max(1, count))))


def _ends(run: Run, source: Run, frames: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The ends of the axes, which follow the real data, or the last frame where there are none."""
    assert run.schema is not None
    kind = run.schema.example
    if isinstance(kind, Image):
        return ()
    real = source.preview if source.preview is not None and len(source.preview) else Codes(frames[-1], {})
    if isinstance(kind, Vector):
        return (*pictures.bulk(real.x[:, 0].astype(float), 0.15), *pictures.bulk(real.x[:, 1].astype(float), 0.15))
    return extent_of(kind, real)


def _frame(run: Run, x: np.ndarray, across: int, extent: Sequence[float], largest: int) -> dict[str, Any]:
    """One picture of the samples ``x``, ``across`` a row: {picture or drawing, small}."""
    assert run.schema is not None
    kind: Kind = run.schema.example
    rows = [x[i : i + across] for i in range(0, len(x), across)]
    if isinstance(kind, Image):
        shown = [to_display(kind, torch.from_numpy(np.ascontiguousarray(row))) for row in rows]
        small = max(kind.height, kind.width) <= largest
        return {"picture": pictures.sheet(shown, across, largest=largest), "drawing": "", "small": small}
    if isinstance(kind, Signal):
        seconds = kind.length / kind.rate if kind.rate else None
        picture = shapes.waves(rows, across, extent, run.colour, seconds=seconds)
        return {"picture": "", "drawing": picture, "small": False}
    if isinstance(kind, Points):
        return {"picture": shapes.clouds(rows, across, extent, run.colour, size=110), "drawing": "", "small": False}
    groups = [(x[:, 0].astype(float), x[:, 1].astype(float), run.colour)]
    return {"picture": pictures.scatter(groups, extent, size=260), "drawing": "", "small": False}
