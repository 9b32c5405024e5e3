"""Pictures of signals and of sets of points for the report: contact sheets in axes that all examples share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image as Pillow

from pushforward.fitting.pictures import address, cut, drawing, short, stroke, ticks, words

_CHANNELS = 4  # of a signal that are shown, one below the other
_COLUMNS = 160  # of a panel; where there are more samples, the range of those in each is drawn
_SPUN, _TIPPED = math.radians(35), math.radians(22)  # how points in space are turned before they are looked at
_SHOWN = 2048  # points of a set


# ------------------------------------------------------------------------------------------------------------- signals


def waves(
    rows: Sequence[np.ndarray],
    across: int,
    extent: Sequence[float],
    colour: str,
    labels: Sequence[str] = (),
    seconds: float | None = None,
) -> Markup:
    """Signals (n, C, L) for each row of a sheet, ``across`` a row, as lines over time from low to high of ``extent``.

    ``labels`` are names of the rows, ``seconds`` is how long they are, None where nothing but the number of samples is known.
    """
    channels = min(_CHANNELS, next(row for row in rows if len(row)).shape[1])
    length = next(row for row in rows if len(row)).shape[2]
    left, gap, wide, high = 130.0 if labels else 40.0, 12.0, 240.0, {1: 56.0 if labels else 74.0, 2: 52.0}.get(channels, 40.0)
    width, panel = left + across * (wide + gap) - gap + 8, channels * high
    low, top = extent
    parts: list[Markup] = []
    starts = [left + j * (wide + gap) for j in range(min(across, max(len(row) for row in rows)))]
    for i, row in enumerate(rows):
        y = i * (panel + gap) + 4
        if labels:
            parts.append(words(left - 48, y + panel / 2 + 4, cut(labels[i], 12), anchor="end", kind="label"))
        for c in range(channels):
            middle = y + c * high
            for t in (t for t in ticks(low, top, 3) if c == 0 or t == 0):
                parts.append(words(left - 6, middle + _up(t, low, top, high) + 3.5, short(t), anchor="end"))
            zero = middle + _up(min(max(0.0, low), top), low, top, high)
            parts += [stroke(x, zero, x + wide, zero, "grid") for x in starts[: len(row)]]
        for x, signal in zip(starts, row, strict=False):
            lines = [_wave(signal[c], low, top, wide, high, c * high, colour) for c in range(channels)]
            # An inner svg clips what runs out of the panel.
            frame = Markup('<rect width="{:g}" height="{:g}" class="frame"/>').format(wide, panel)
            parts.append(
                Markup('<svg x="{:g}" y="{:g}" width="{:g}" height="{:g}" overflow="hidden">{}{}</svg>').format(
                    x, y, wide, panel, Markup("").join(lines), frame
                )
            )
    bottom = len(rows) * (panel + gap) - gap + 4
    end = f"{seconds:.3g} s" if seconds is not None else f"{length} samples"
    for x in starts:
        parts += [words(x, bottom + 14, "0", anchor="start"), words(x + wide, bottom + 14, end, anchor="end")]
    return drawing(width, bottom + 20, parts, "signals over time", "plot")


def _up(value: Any, low: float, top: float, height: float) -> Any:
    return (top - value) / (top - low) * height


def _wave(x: np.ndarray, low: float, top: float, wide: float, high: float, down: float, colour: str) -> Markup:
    """One channel: a line, or the range of the samples in each column where there are too many for one."""
    x = np.nan_to_num(np.asarray(x, dtype=float), nan=0.0, posinf=top, neginf=low)
    span = 8 * (top - low)  # far outside, where it is clipped
    x = np.clip(x, low - span, top + span)
    if len(x) <= 2 * _COLUMNS:
        at, ys = (np.arange(len(x)) + 0.5) / len(x) * wide, down + _up(x, low, top, high)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(at, ys, strict=True))
        return Markup('<polyline class="curve" style="stroke-width:1.1" points="{}" stroke="{}"/>').format(points, colour)
    edges = np.linspace(0, len(x), _COLUMNS + 1).astype(int)
    most, least = np.maximum.reduceat(x, edges[:-1]), np.minimum.reduceat(x, edges[:-1])
    at = (np.arange(_COLUMNS) + 0.5) / _COLUMNS * wide
    upper, lower = (down + _up(v, low, top, high) for v in (most, least))
    outline = [*zip(at, upper - 0.4, strict=True), *zip(at[::-1], lower[::-1] + 0.4, strict=True)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in outline)
    return Markup('<polygon points="{}" fill="{}"/>').format(points, colour)


# -------------------------------------------------------------------------------------------------------------- points


def clouds(rows: Sequence[np.ndarray], across: int, extent: Sequence[float], colour: str, *, size: int = 160) -> str:
    """Sets of points (n, P, d) for each row of a sheet, ``across`` a row, in the cube (low, high, low, high, …) of ``extent``.

    Points in space are seen from the side and a little from above, without perspective, near ones darker; of more than three
    dimensions the first three are shown.
    """
    count = min(across, max(len(row) for row in rows))
    width, height = count * size, len(rows) * size
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    rgb = to_rgb(colour)
    for i, row in enumerate(rows):
        for j, points in enumerate(row[:count]):
            x, y, near = _seen(np.asarray(points, dtype=float)[:_SHOWN], extent)
            inside = (np.abs(x) <= 1) & (np.abs(y) <= 1)
            order = np.flatnonzero(inside)[np.argsort(near[inside], kind="stable")]
            shade = np.column_stack([np.tile(rgb, (len(order), 1)), 0.3 + 0.65 * near[order]])
            area = float(np.clip(2200 / max(len(points), 1), 2.0, 22.0)) * (size / 160) ** 2
            half = size / 2 - 4
            at = (j + 0.5) * size + half * x[order], (i + 0.5) * size - half * y[order]
            axes.scatter(*at, s=area, c=shade, linewidths=0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    return address(Pillow.fromarray(pixels).quantize(64, method=Pillow.Quantize.FASTOCTREE))


def _seen(points: np.ndarray, extent: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, d) as x and y in [−1, 1] where they are inside the cube, and how near they are, from 0 to 1."""
    points = points[np.isfinite(points).all(1)]
    ends = np.asarray(extent).reshape(-1, 2)
    unit = (points - ends.mean(1)) / (ends[:, 1] - ends[:, 0]) * 2
    if unit.shape[1] < 3:
        flat = np.concatenate([unit, np.zeros((len(unit), 1))], 1)
        return flat[:, 0], flat[:, 1], np.ones(len(unit))
    x, y, z = unit[:, :3].T
    # z is up; an axis turned out of the picture reaches beyond the square: corners of the cube are lost
    right, away = math.cos(_SPUN) * x - math.sin(_SPUN) * y, math.sin(_SPUN) * x + math.cos(_SPUN) * y
    up, away = math.cos(_TIPPED) * z + math.sin(_TIPPED) * away, math.cos(_TIPPED) * away - math.sin(_TIPPED) * z
    return right / 1.05, up / 1.05, np.clip(0.5 - away / 2, 0, 1)
