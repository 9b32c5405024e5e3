"""What a report draws of tables and vectors, real rows against samples: each column, pairs of columns, correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pushforward.core.schema import Column, ColumnKind, Table, Vector
from pushforward.fitting import pictures
from pushforward.fitting.pictures import Series, short
from pushforward.fitting.report_values import day, level, text_of
from pushforward.fitting.runs import Run, all_columns, column_codes

MOST_COLUMNS = 12
MOST_PAIRED = 5
MOST_LEVELS = 8

# The codes of one column for each run.
Samples = Sequence[tuple[Run, np.ndarray]]


def tabular(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Histograms, pair plots and correlations of tables and vectors."""
    schema, preview = source.schema, source.preview
    if schema is None or preview is None or not isinstance(schema.example, (Table, Vector)) or not len(preview):
        return None
    every = all_columns(schema)
    real = {c.name: codes for c in every[:MOST_COLUMNS] if (codes := column_codes(schema, preview, c.name)) is not None}
    shown = [c for c in every[:MOST_COLUMNS] if c.name in real]
    held: list[tuple[Run, dict[str, np.ndarray]]] = []
    for run in runs:
        if run.samples is not None and run.schema is not None and len(run.samples):
            codes_of = {c.name: column_codes(run.schema, run.samples, c.name) for c in shown}
            held.append((run, {name: codes for name, codes in codes_of.items() if codes is not None}))
    notes = [f"The first {MOST_COLUMNS} of {len(every)} columns are shown."] if len(every) > MOST_COLUMNS else []
    columns = [_marginal(c, real[c.name], [(run, own[c.name]) for run, own in held if c.name in own]) for c in shown]
    found = {"runs": [run for run, _ in held], "columns": columns, "pairs": [], "correlations": [], "notes": notes}
    if schema.example.shape == (2,):
        return found  # the plane shows the pair
    complete = [(run, own) for run, own in held if len(own) == len(shown)]
    wide = sorted(shown, key=lambda c: c.discrete)[:MOST_PAIRED]
    paired = [c for c in shown if c in wide]
    if len(paired) > 1 and complete:
        size = 240 if len(complete) <= 4 else 160
        found["pairs"] = [_pairs(paired, real, run, own, size) for run, own in complete]
        if len(shown) > len(paired):
            notes.append(f"Pairs are shown of {len(paired)} columns: {', '.join(c.name for c in paired)}.")
    numeric = [c.name for c in shown if not c.discrete]
    if len(numeric) > 1:
        found["correlations"] = _correlations(numeric, real, complete)
    return found


# ------------------------------------------------------------------------------------------------------------ one column


def _marginal(column: Column, real: np.ndarray, samples: Samples) -> dict[str, Any]:
    """One column, real against every model: {name, picture, notes}."""
    label = f"{column.name}: real data" + (f" and samples of {', '.join(r.label for r, _ in samples)}" if samples else "")
    if column.discrete:
        return {"name": column.name, "picture": _bars(column, real, samples, label), "notes": []}
    notes = _missing(real, samples)
    finite = real[np.isfinite(real)]
    if not len(finite):
        return {"name": column.name, "picture": None, "notes": [*notes, "the real rows shown hold no number"]}
    edges = _edges(column, finite)

    def heights(codes: np.ndarray) -> np.ndarray:
        return np.histogram(codes[np.isfinite(codes)], edges)[0] / max(int((~np.isnan(codes)).sum()), 1)

    series = [Series(r.label, heights(codes), colour=r.colour) for r, codes in samples]
    show = day if column.kind is ColumnKind.DATE else short
    picture = pictures.histogram(edges, heights(real), series, label=label, show=show)
    return {"name": column.name, "picture": picture, "notes": [*notes, *_outside(finite, samples)]}


def _bars(column: Column, real: np.ndarray, samples: Samples, label: str) -> Any:
    least = 2 if column.kind is ColumnKind.BOOLEAN else 0
    gap = max(len(column.categories), least)
    gaps = any(np.isnan(codes).any() for codes in (real, *(s for _, s in samples)))
    levels = max(column.levels, least, 1, gap + 1 if gaps else 0)
    shares, *others = (_shares(np.where(np.isnan(codes), gap, codes), levels) for codes in (real, *(s for _, s in samples)))
    kept = np.argsort(-shares, kind="stable")[:MOST_LEVELS] if levels > MOST_LEVELS else np.arange(levels)
    names = [level(column, int(i)) for i in kept]
    if levels > len(kept):
        names.append(f"{levels - len(kept)} others")
        shares, *others = (np.append(s[kept], max(0.0, s.sum() - s[kept].sum())) for s in (shares, *others))
    series = [Series(r.label, y, colour=r.colour) for (r, _), y in zip(samples, others, strict=True)]
    return pictures.bars(names, shares, series, label=label)


def _shares(codes: np.ndarray, count: int) -> np.ndarray:
    found = codes[np.isfinite(codes) & (codes >= 0) & (codes < count)].astype(int)
    return np.bincount(found, minlength=count) / max(len(codes), 1)


def _missing(real: np.ndarray, samples: Samples) -> list[str]:
    """How much is missing, where anything is."""
    gaps = [float(np.isnan(codes).mean()) for _, codes in samples]
    if not np.isnan(real).any() and not any(gaps):
        return []
    said = [f"{r.label} {share:.1%}" for (r, _), share in zip(samples, gaps, strict=True)]
    if len(said) > 3:
        said = [f"models {min(gaps):.1%} to {max(gaps):.1%}"]
    return [", ".join([f"missing: real {np.isnan(real).mean():.1%}", *said])]


def _outside(finite: np.ndarray, samples: Samples) -> list[str]:
    """Which models leave the range of the real rows, the worst first."""
    found: list[tuple[float, str]] = []
    for run, codes in samples:
        present = codes[~np.isnan(codes)]
        share = float(((present < finite.min()) | (present > finite.max())).mean()) if len(present) else 0.0
        if share > 0.01:
            found.append((share, f"{run.label} {share:.1%}"))
    if not found:
        return []
    worst = [said for _, said in sorted(found, reverse=True)]
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    return ["outside the range of the real rows: " + ", ".join(worst[:3]) + more]


def _edges(column: Column, real: np.ndarray) -> np.ndarray:
    """Shared bins: on the grid of the column where it has few steps, else thirty over the bulk of the real data."""
    low, high = (float(v) for v in np.quantile(real, [0.005, 0.995]))
    step = column.resolution or (1.0 if column.kind is ColumnKind.INTEGER else None)
    if step and (high - low) / step <= 40:
        first = round(low / step)
        return (first - 0.5 + np.arange(round(high / step) - first + 2)) * step
    if not high > low:
        low, high = low - 0.5 * (1 + abs(low)), high + 0.5 * (1 + abs(low))
    pad = 0.03 * (high - low)
    if not step:
        return np.linspace(low - pad, high + pad, 31)
    # Bins of whole steps, so that none holds one value more than its neighbour.
    width = max(1, math.ceil((high - low) / step / 30)) * step
    count = math.ceil((high - low + step) / width)
    return (round(low / step) - 0.5) * step + width * np.arange(count + 1)


# --------------------------------------------------------------------------------------------------------- many columns


def _pairs(
    columns: Sequence[Column], real: Mapping[str, np.ndarray], run: Run, own: Mapping[str, np.ndarray], size: int
) -> dict[str, Any]:
    """A square of scatter plots: samples below the diagonal, the real data in the same axes above it."""
    rng = np.random.default_rng(0)
    extents, grains = {}, {}
    for column in columns:
        codes = real[column.name]
        low, high = (-0.6, max(np.nanmax(codes, initial=0), 1) + 0.6) if column.discrete else pictures.bulk(codes)
        step = 1.0 if column.discrete else column.resolution or 0.0
        # What lies on a coarse grid is spread within its cells, so that points do not hide each other.
        extents[column.name] = (low, high)
        grains[column.name] = step if column.discrete or (high - low) < 40 * step else 0.0

    def spread(name: str, codes: np.ndarray) -> np.ndarray:
        return codes + rng.uniform(-0.35, 0.35, len(codes)) * grains[name]

    def cell(x: str, y: str, held: Mapping[str, np.ndarray], colour: str, label: str) -> dict[str, Any]:
        points = (spread(x, held[x]), spread(y, held[y]), colour)
        picture = pictures.scatter([points], (*extents[x], *extents[y]), size=size)
        return {"picture": picture, "label": f"{label}: {y} against {x}"}

    def diagonal(column: Column) -> dict[str, Any]:
        codes = real[column.name][np.isfinite(real[column.name])]
        shown = len(codes) and not column.discrete
        limits = f"{text_of(column, codes.min())} to {text_of(column, codes.max())}" if shown else ""
        return {"picture": None, "name": column.name, "range": limits}

    names = [c.name for c in columns]
    grid = []
    for i, down in enumerate(columns):
        below = [cell(name, down.name, own, run.colour, run.label) for name in names[:i]]
        above = [cell(down.name, name, real, pictures.REAL, "real data") for name in names[i + 1 :]]
        grid.append([*below, diagonal(down), *above])
    return {"run": run, "grid": grid}


def _correlations(
    names: Sequence[str], real: Mapping[str, np.ndarray], samples: Sequence[tuple[Run, Mapping[str, np.ndarray]]]
) -> list[dict[str, Any]]:
    """Correlation matrices, real data first; each model with the pair that is furthest from real."""
    truth = _matrix(names, real)
    drawn = pictures.correlation(names, truth, label="correlations of the real data")
    found = [{"label": "real", "picture": drawn, "note": ""}]
    for run, own in samples:
        learned = _matrix(names, own)
        gaps, note = np.abs(learned - truth), ""
        if np.isfinite(gaps).any():
            i, j = divmod(int(np.nanargmax(gaps)), len(names))
            now, wanted = (short(round(float(m[i, j]), 2)) for m in (learned, truth))
            note = f"furthest from real: {names[i]} × {names[j]}, {now} instead of {wanted}"
        drawn = pictures.correlation(names, learned, label=f"correlations of samples of {run.label}")
        found.append({"label": run.label, "picture": drawn, "note": note})
    return found


def _matrix(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    held = pd.DataFrame({i: np.where(np.isfinite(columns[n]), columns[n], np.nan) for i, n in enumerate(names)})
    return held.corr(min_periods=3).to_numpy(dtype=float)
