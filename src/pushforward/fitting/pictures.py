"""Pictures for the report: lines and bars as inline SVG in the page's own colours, points and fields as PNG in data addresses.

A picture of pixels holds no text: names belong to the user, in any script, so the page or the SVG around it writes them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image as Pillow

PALETTE = ("#2f7fd6", "#e08a00", "#12a07a", "#c9589b", "#d2541b", "#8a7be0", "#4aaee0", "#8c8c3a", "#b0606a", "#5f9ea0")
REAL = "#8b9099"
FIELD = "viridis"


@dataclass(frozen=True)
class Series:
    """A named line or set of bars. ``colour`` is any CSS colour."""

    name: str
    y: np.ndarray
    x: np.ndarray | None = None
    colour: str = REAL
    dashed: bool = False


def short(value: float) -> str:
    """A number as an axis shows it."""
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 and value == round(value) else f"{value:.4g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


# ----------------------------------------------------------------------------------------------------------------- SVG


def drawing(width: float, height: float, parts: Iterable[Any], label: str, kind: str) -> Markup:
    """A picture of the class ``kind``, with ``label`` for those who cannot see it."""
    return Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, label, Markup("").join(parts)
    )


def words(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "tick") -> Markup:
    """Text that begins, ends or has its middle at (x, y)."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, text)


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of the class ``kind``."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _rect(x: float, y: float, width: float, height: float, fill: str, title: str = "", rest: str = "") -> Markup:
    tip = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"{}>{}</rect>').format(
        x, y, max(width, 0), max(height, 0), fill, Markup(rest), tip
    )


def cut(text: str, most: int) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers within [low, high]; ``whole`` ones where the axis has no others."""
    found = MaxNLocator(most, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [0.0 if abs(t) < slack else float(t) for t in found if low - slack <= t <= high + slack]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    return [f * 10.0**k for k in decades for f in factors if low <= f * 10.0**k <= high]


def _window(series: Sequence[Series]) -> tuple[float, float]:
    """The range of y worth showing: a first loss that is far above all later ones runs out of the picture."""
    late = [s.y[len(s.y) // 10 :] for s in series]
    shown = np.concatenate([y[np.isfinite(y)] for y in late]) if late else np.zeros(0)
    if not len(shown):
        return 0.0, 1.0
    low, high = float(shown.min()), float(shown.max())
    every = np.concatenate([s.y[np.isfinite(s.y)] for s in series])
    if every.max() - low < 3 * (high - low):
        high = float(every.max())
    if high - low <= 1e-12 * abs(high):
        low, high = low - 0.5, high + 0.5
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def bulk(values: np.ndarray, margin: float = 0.08) -> tuple[float, float]:
    """The range of nearly all of the values, with a margin."""
    held = values[np.isfinite(values)]
    if not len(held):
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(held, [0.002, 0.998]))
    pad = margin * (high - low) if high > low else 0.5 * (1 + abs(low))
    return low - pad, high + pad


def curves(
    series: Sequence[Series], *, label: str, x_label: str, y_label: str, marks: Sequence[float] = (), height: float = 240.0
) -> Markup:
    """Lines over steps, logarithmic where these span two decades. ``marks`` are steps at which something happened."""
    width, left, right, top, bottom = 440.0, 52.0, 18.0, 24.0, 36.0
    inner_w, inner_h = width - left - right, height - top - bottom
    steps = np.concatenate([np.asarray(s.x, dtype=float) for s in series if s.x is not None] or [np.zeros(1)])
    first, last = float(steps.min()), float(steps.max())
    positive = steps[steps > 0]
    log = len(positive) > 0 and last / float(positive.min()) >= 100
    if log:
        first = float(positive.min())
    last = last if last > first else first + 1
    low, high = _window(series)

    def at_x(x: Any) -> Any:
        share = (
            np.log(np.maximum(x, first) / first) / math.log(last / first) if log else (np.asarray(x) - first) / (last - first)
        )
        return share * inner_w

    def at_y(y: Any) -> Any:
        return (1 - (np.asarray(y) - low) / (high - low)) * inner_h

    parts: list[Markup] = []
    for t in ticks(low, high, 5 if height > 200 else 3):
        y = top + float(at_y(t))
        parts += [stroke(left, y, width - right, y, "grid"), words(left - 6, y + 3.5, short(t), anchor="end")]
    for t in _log_ticks(first, last) if log else ticks(first, last, 6, whole=True):
        x = left + float(at_x(t))
        parts += [stroke(x, height - bottom, x, height - bottom + 4, "axis"), words(x, height - bottom + 16, short(t))]
    parts.append(stroke(left, height - bottom, width - right, height - bottom, "axis"))
    parts.append(words(left + inner_w / 2, height - 4, x_label + (" (logarithmic)" if log else ""), kind="label"))
    parts.append(words(4, 12, y_label, anchor="start", kind="label"))
    lines = [stroke(float(at_x(m)), 0, float(at_x(m)), inner_h, "mark") for m in marks if first <= m <= last]
    for s in series:
        keep = np.isfinite(s.y)
        xs, ys = at_x(np.asarray(s.x, dtype=float)[keep]), np.clip(at_y(s.y[keep]), -9999, 9999)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        dash = Markup(' stroke-dasharray="5 4"') if s.dashed else ""
        lines.append(
            Markup('<polyline class="curve" points="{}" stroke="{}"{}><title>{}</title></polyline>').format(
                points, s.colour, dash, s.name
            )
        )
        if len(xs) <= 12:
            lines += [
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.4" fill="{}"/>').format(*p, s.colour)
                for p in zip(xs, ys, strict=True)
            ]
    # An inner svg clips what runs out of the frame, without an id that other pictures on the page could also have.
    parts.append(
        Markup('<svg x="{:g}" y="{:g}" width="{:g}" height="{:g}" overflow="hidden">{}</svg>').format(
            left, top, inner_w, inner_h, Markup("").join(lines)
        )
    )
    end = width - right
    for s in reversed(series):
        parts.append(words(end, 12, s.name, anchor="end", kind="label"))
        end -= 6.2 * len(s.name) + 8
        dash = Markup(' stroke-dasharray="5 4"') if s.dashed else ""
        parts.append(
            Markup('<line x1="{:.1f}" y1="8.5" x2="{:.1f}" y2="8.5" class="curve" stroke="{}"{}/>').format(
                end - 18, end, s.colour, dash
            )
        )
        end -= 30
    return drawing(width, height, parts, label, "plot")


def histogram(
    edges: np.ndarray, real: np.ndarray | None, samples: Sequence[Series], *, label: str, show: Callable[[float], str] = short
) -> Markup:
    """Shares per bin: the real data as a filled shape, each set of samples as an outline."""
    width, height, bottom, top = 230.0, 116.0, 20.0, 6.0
    inner_h = height - bottom - top
    heights = [*([real] if real is not None else []), *(s.y for s in samples)]
    peak = max([float(h.max()) for h in heights if len(h)] + [1e-12])
    # One narrow spike of a failed model must not flatten all the rest.
    if real is not None and real.max() > 0:
        peak = min(peak, 3 * float(real.max()))
    xs = (edges - edges[0]) / (edges[-1] - edges[0]) * width

    def outline(y: np.ndarray) -> str:
        ups = height - bottom - np.minimum(y / peak, 1.0) * inner_h
        steps = [f"M0 {height - bottom:g}"]
        steps += [f"V{u:.1f}H{x:.1f}" for u, x in zip(ups, xs[1:], strict=True)]
        return "".join(steps) + f"V{height - bottom:g}"

    parts: list[Markup] = []
    if real is not None:
        parts.append(Markup('<path class="real" d="{}Z"><title>real</title></path>').format(outline(real)))
    for s in samples:
        parts.append(
            Markup('<path class="outline" d="{}" stroke="{}"><title>{}</title></path>').format(outline(s.y), s.colour, s.name)
        )
    parts.append(stroke(0, height - bottom, width, height - bottom, "axis"))
    low, high = float(edges[0]), float(edges[-1])
    middles = (edges[:-1] + edges[1:]) / 2
    places = ticks(low, high, 3, whole=bool(np.allclose(middles, np.rint(middles))))
    if show is not short or len(places) < 2:
        places = [low, high]
    for t in places:
        x = (t - low) / (high - low) * width
        anchor = "start" if x < 24 else "end" if x > width - 24 else "middle"
        parts.append(words(x, height - 5, show(t), anchor=anchor))
    return drawing(width, height, parts, label, "plot")


def bars(labels: Sequence[str], real: np.ndarray | None, samples: Sequence[Series], *, label: str) -> Markup:
    """Shares of categories: a bar each for up to three sets of samples, a dot on the real bar for each of more."""
    width, left, right = 230.0, 84.0, 46.0
    inner = width - left - right
    thin = len(samples) <= 3
    band = 13.0 + (6.0 * len(samples) if thin else 4.0)
    peak = max([float(np.max(h, initial=0)) for h in ([real] if real is not None else []) + [s.y for s in samples]] + [1e-12])
    parts: list[Markup] = []
    for i, name in enumerate(labels):
        y = i * band + 2
        parts.append(Markup("<g><title>{}</title>{}</g>").format(name, words(left - 6, y + 9, cut(name, 12), anchor="end")))
        if real is not None:
            parts.append(_rect(left, y, real[i] / peak * inner, 10, "var(--real)", f"real {real[i]:.1%}", ' opacity=".55"'))
            end = max([float(real[i]), *(0.0 if thin else float(s.y[i]) for s in samples)]) / peak * inner
            parts.append(words(left + end + (4 if thin else 8), y + 9, f"{real[i]:.1%}", anchor="start"))
        for j, s in enumerate(samples):
            x, tip = s.y[i] / peak * inner, f"{s.name} {s.y[i]:.1%}"
            if thin:
                parts.append(_rect(left, y + 11 + 6 * j, x, 5, s.colour, tip))
            else:
                parts.append(
                    Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.2" fill="{}"><title>{}</title></circle>').format(
                        left + x, y + 5, s.colour, tip
                    )
                )
    return drawing(width, len(labels) * band + 4, parts, label, "plot")


def correlation(names: Sequence[str], matrix: np.ndarray, *, label: str) -> Markup:
    """A square of squares: blue where two columns rise together, orange where one falls, as strong as the correlation."""
    n, left, cell = len(names), 84.0, 176.0 / len(names)
    parts: list[Markup] = []
    for i, row in enumerate(names):
        y = i * cell
        parts.append(
            Markup("<g><title>{}</title>{}</g>").format(row, words(left - 6, y + cell / 2 + 3.5, cut(row, 12), anchor="end"))
        )
        for j, column in enumerate(names):
            r = float(matrix[i, j])
            if math.isfinite(r):
                fill = f"rgba({'47,127,214' if r > 0 else '224,122,0'},{min(abs(r), 1):.2f})"
                parts.append(_rect(left + j * cell, y, cell - 1, cell - 1, fill, f"{row} × {column}: {r:.2f}"))
    parts.append(Markup('<rect x="{:g}" y="0" width="175.5" height="175.5" class="frame"/>').format(left))
    return drawing(left + 177, 177, parts, f"{label}, {n} columns", "plot")


def framed(picture: str, extent: Sequence[float], *, label: str) -> Markup:
    """A square picture of pixels inside axes with numbers; ``extent`` is (left, right, bottom, top)."""
    left, top, side = 34.0, 4.0, 250.0
    x0, x1, y0, y1 = extent
    parts = [
        Markup('<image x="{:g}" y="{:g}" width="{:g}" height="{:g}" href="{}" preserveAspectRatio="none"/>').format(
            left, top, side, side, picture
        ),
        Markup('<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" class="frame"/>').format(left, top, side, side),
    ]
    for t in ticks(x0, x1):
        x = left + (t - x0) / (x1 - x0) * side
        parts += [stroke(x, top + side, x, top + side + 4, "axis"), words(x, top + side + 16, short(t))]
    for t in ticks(y0, y1):
        y = top + (y1 - t) / (y1 - y0) * side
        parts += [stroke(left - 4, y, left, y, "axis"), words(left - 6, y + 3.5, short(t), anchor="end")]
    return drawing(left + side + 10, top + side + 22, parts, label, "plot")


# -------------------------------------------------------------------------------------------------------------- pixels


def address(image: Pillow.Image) -> str:
    """An image as a data address."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scatter(groups: Sequence[tuple[np.ndarray, np.ndarray, str]], extent: Sequence[float], *, size: int = 500) -> str:
    """Points (x, y, colour) in a transparent square of ``size`` pixels; the first group lies below."""
    figure = Figure(figsize=(size / 100, size / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    for x, y, colour in groups:
        keep = np.isfinite(x) & np.isfinite(y)
        alpha = float(np.clip(300 / max(int(keep.sum()), 1), 0.5, 0.85))
        area = (size / 500) ** 1.3 * (11 if len(x) > 300 else 18)
        axes.scatter(x[keep], y[keep], s=area, c=colour, alpha=alpha, linewidths=0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    return address(Pillow.fromarray(pixels).quantize(64, method=Pillow.Quantize.FASTOCTREE))


def save_panels(frames: Sequence[np.ndarray], path: Path) -> None:
    """Points (N, 2) of each frame side by side in the same axes, as a PNG."""
    # a figure can be 65,535 pixels wide
    side, every = min(2.6, 600 / len(frames)), np.concatenate(frames)
    figure = Figure(figsize=(side * len(frames) + 0.3, side + 0.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, points in zip(figure.subplots(1, len(frames), sharex=True, sharey=True, squeeze=False)[0], frames, strict=True):
        alpha = float(np.clip(300 / max(len(points), 1), 0.5, 0.85))
        axes.scatter(points[:, 0], points[:, 1], s=6 if len(points) > 300 else 10, c=PALETTE[0], alpha=alpha, linewidths=0)
        axes.set_xlim(bulk(every[:, 0]))
        axes.set_ylim(bulk(every[:, 1]))
        axes.tick_params(labelsize=8)
    figure.savefig(path, format="png")


def field(values: np.ndarray, low: float, high: float) -> str:
    """Values (H, W), the first row at the bottom, as colours from ``low`` to ``high``; what is not a number is the lowest."""
    share = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    image = Pillow.fromarray(np.rint(np.clip(share[::-1], 0, 1) * 63).astype(np.uint8), mode="P")
    image.putpalette((colormaps[FIELD](np.linspace(0, 1, 64))[:, :3] * 255).round().astype(np.uint8).tobytes())
    return address(image)


def gradient(steps: int = 9) -> str:
    """The colours of ``field`` as a CSS gradient."""
    colours = (colormaps[FIELD](np.linspace(0, 1, steps))[:, :3] * 255).round().astype(int)
    return "linear-gradient(to right," + ",".join(f"rgb({r},{g},{b})" for r, g, b in colours) + ")"


def sheet(rows: Sequence[np.ndarray], across: int, *, largest: int = 96, pad: int = 1) -> str:
    """A contact sheet of ``across`` images a row, uint8 (n, H, W) or (n, H, W, C) for each row, with clear gaps."""
    filled = next(r for r in rows if len(r))
    height, width = filled.shape[1:3]
    scale = min(1.0, largest / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    pad = max(pad, round(min(h, w) / 24))
    grey = filled.ndim == 3
    blank = Pillow.new("LA" if grey else "RGBA", (across * (w + pad) - pad, len(rows) * (h + pad) - pad))
    for i, row in enumerate(rows):
        for j, pixels in enumerate(row[:across]):
            image = Pillow.fromarray(np.ascontiguousarray(pixels))
            if scale < 1:
                image = image.resize((w, h), Pillow.Resampling.LANCZOS)
            blank.paste(image.convert(blank.mode), (j * (w + pad), i * (h + pad)))
    return address(blank)
