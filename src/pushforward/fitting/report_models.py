"""What a report says of models: the leaderboard, how each learned, and the densities of vectors of two numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pushforward.core.schema import Vector
from pushforward.fitting import pictures
from pushforward.fitting.diagnosis import diagnose
from pushforward.fitting.pictures import Series, short
from pushforward.fitting.report_values import decimals, duration, number
from pushforward.fitting.runs import Run

# What a model costs is the last columns of the leaderboard, wherever it is written.
COSTS = {
    "parameters": ("parameters", lambda value: f"{value:,.0f}"),
    "seconds": ("training", duration),
    "samples_per_second": ("samples/s", number),
}
# The kinds of density, best known first: badge, title of the group, explanation.
DENSITIES = {
    "exact": ("exact", "exact density", "the likelihood itself, by a change of variables or a sum"),
    "ode": (
        "ODE",
        "density by an ODE",
        "exact up to the tolerance of the solver; with a random trace estimate, up to its standard error",
    ),
    "lower_bound": (
        "bound",
        "lower bound of the density",
        "the model guarantees at least this likelihood; its true value may be better, so a bound may understate it",
    ),
}


_ITS_OWN = ("c2st_column", "calibration_ranks", "frechet")  # metrics whose note is about this run alone


def _badge(kind: Any) -> dict[str, str] | None:
    if kind in DENSITIES:
        text, _, about = DENSITIES[kind]
        return {"kind": kind, "text": text, "title": about}
    return {"kind": "other", "text": str(kind), "title": ""} if kind else None


def leaderboard(runs: Sequence[Run]) -> dict[str, Any]:
    """Head, groups of rows by the kind of density, and the notes below the table."""
    columns: dict[str, dict[str, Any]] = {}
    compared: dict[tuple[str, Any], list[float]] = {}
    for m in (m for run in runs for m in run.metrics if m["name"] not in COSTS):
        columns.setdefault(m["name"], {"label": m.get("label") or m["name"], "better": m.get("better")})
        if m.get("value") is not None and math.isfinite(m["value"]):
            compared.setdefault((m["name"], m.get("kind")), []).append(m["value"])
    costs = [(*shown, [_cost(run, name) for run in runs]) for name, shown in COSTS.items()]
    costs = [c for c in costs if any(value is not None for value in c[2])]
    groups: dict[str, list[dict[str, Any]]] = {}
    for i, run in enumerate(runs):
        known = run.known
        row = {
            "label": run.label,
            "colour": run.colour,
            "about": known.title if known else "",
            "source": known.source if known else "",
            "baseline": bool(known and known.baseline),
            "error": run.error,
            "cells": [_measured(run, name, column["better"], compared) for name, column in columns.items()],
            "extras": [show(values[i]) if values[i] is not None else "" for _, show, values in costs],
        }
        density = next((m["kind"] for m in run.metrics if m.get("kind")), "none")
        groups.setdefault("failed" if run.error else str(density), []).append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: row["cells"][0]["sort"] if row["cells"] else 0)
    last = {"none": "no density" if len(groups) > 1 else "", "failed": "failed"}
    titles = {k: title for k, (_, title, _) in DENSITIES.items()}
    titles |= {k: k for k in groups if k not in (*titles, *last)} | last
    kinds = [k for k in DENSITIES if any(m.get("kind") == k for r in runs for m in r.metrics)]
    cells = [c for rows in groups.values() for row in rows for c in row["cells"]]
    return {
        "head": [*columns.values(), *({"label": name, "better": None} for name, _, _ in costs)],
        "groups": [{"title": title, "rows": groups[k]} for k, title in titles.items() if k in groups],
        "titled": len(groups) > 1,
        "wide": 1 + len(columns) + len(costs),
        "kinds": [_badge(k) for k in kinds],
        "mixed": len(kinds) > 1,
        "bold": any(c["best"] for c in cells),
        "errors": any(c["error"] for c in cells),
        "notes": _notes(runs, columns),
    }


def _notes(runs: Sequence[Run], columns: dict[str, dict[str, Any]]) -> list[str]:
    """What was noted of each note's metrics; which runs it holds for, where others were measured otherwise. Of several runs
    what is noted of one run's figure is left to the figure's own title."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    shown = [name for name in columns if len(runs) == 1 or name not in _ITS_OWN]
    for run in runs:
        for m in run.metrics:
            if m.get("note") and m["name"] in shown:
                labels, names = found.setdefault(m["note"], ([], []))
                labels.append(columns[m["name"]]["label"])
                names.append(run.label)
    lines = []
    for note, (labels, names) in found.items():
        measured = {r.label for r in runs for m in r.metrics if m["name"] in columns and columns[m["name"]]["label"] in labels}
        whose = list(dict.fromkeys(names))
        of = f" ({', '.join(whose)})" if set(whose) != measured else ""
        lines.append(f"{', '.join(dict.fromkeys(labels))}: {note}{of}")
    return lines


def _cost(run: Run, name: str) -> float | None:
    found = run.recipe.get(name, next((m.get("value") for m in run.metrics if m["name"] == name), None))
    return found if isinstance(found, (int, float)) else None


def _measured(run: Run, name: str, better: Any, compared: dict[tuple[str, Any], list[float]]) -> dict[str, Any]:
    """One metric of one run as a cell; it is best among values of its own kind only."""
    m = next((m for m in run.metrics if m["name"] == name), None)
    if m is None:
        return {"text": "", "error": "", "best": False, "badge": None, "title": "", "sort": math.inf}
    value, error = m.get("value"), m.get("standard_error")
    rivals = compared.get((name, m.get("kind")), [])
    choose = {"lower": min, "higher": max}.get(str(better))
    about = [f"{m['n']:,} rows" if isinstance(m.get("n"), int) else "", str(m.get("note") or "")]
    return {
        "text": number(value, error),
        "error": number(error, error) if decimals(error) is not None else "",
        "best": choose is not None and len(rivals) > 1 and value == choose(rivals),
        "badge": _badge(m.get("kind")),
        "title": " · ".join(a for a in about if a),
        "sort": math.inf if value is None or not math.isfinite(value) else -value if better == "higher" else value,
    }


def learning(run: Run) -> dict[str, Any]:
    """Curves, diagnosis and events of one run."""
    measure = next((str(r["criterion"]) for r in run.records if r.get("criterion", "loss") != "loss"), "")
    distance = {"sliced_wasserstein": "sliced Wasserstein"}.get(measure, measure.replace("_", " "))
    lines = {}
    for name, colour in (("train", pictures.REAL), ("validation", run.colour)):
        points = [(r["step"], r[name]) for r in run.records if r.get(name) is not None]
        if points:
            xs, ys = np.array(points, dtype=float).T
            lines[name] = Series(name, ys, xs, colour)
    marks = [e["step"] for e in run.events if isinstance(e.get("step"), (int, float))]
    # A distance and a loss have no axis in common.
    plots = [(distance, ["validation"]), ("loss", ["train"])] if measure else [("loss", ["train", "validation"])]
    drawn = []
    for y_label, names in plots:
        shown = [lines[name] for name in names if name in lines]
        if shown:
            label = f"{run.label}: {' and '.join(s.name for s in shown)} against steps"
            height = 134.0 if measure else 240.0
            drawn.append(pictures.curves(shown, label=label, x_label="step", y_label=y_label, marks=marks, height=height))
    events = [
        {"step": e.get("step"), "event": str(e["event"]), "message": str(e.get("message") or "")} for e in run.events[:20]
    ]
    return {"run": run, "diagnosis": diagnose(run.records), "pictures": drawn, "distance": distance, "events": events}


def plane(runs: Sequence[Run], source: Run) -> dict[str, Any] | None:
    """Vectors of two numbers: real rows, then samples and density of each model, all in the same axes."""
    if source.schema is None or source.preview is None or not isinstance(source.schema.example, Vector):
        return None
    if source.schema.example.size != 2 or not any(r.samples is not None or r.density for r in runs):
        return None
    real = source.preview.x.astype(float)
    grids = [r.density for r in runs if r.density]
    if grids:
        extent = [float(end([end(g[axis]) for g in grids])) for axis in "xy" for end in (np.min, np.max)]
    else:
        extent = [*pictures.bulk(real[:, 0], 0.15), *pictures.bulk(real[:, 1], 0.15)]
    finite = [v for g in grids if len(v := g["values"][np.isfinite(g["values"])])]
    high = max((float(v.max()) for v in finite), default=0.0)
    low = max(min((float(v.min()) for v in finite), default=high - 1), high - 12)
    size = 500 if len(runs) <= 4 else 360

    def points(x: np.ndarray, colour: str, label: str) -> Any:
        return pictures.framed(pictures.scatter([(x[:, 0], x[:, 1], colour)], extent, size=size), extent, label=label)

    rows = []
    for run in runs:
        if run.samples is None and not run.density:
            continue
        offered = run.known is not None and "score" in run.known.verbs
        why = "No density was stored." if offered else f"{run.family} offers no density."
        row: dict[str, Any] = {"run": run, "samples": None, "density": None, "badge": None, "why": why}
        if run.samples is not None:
            row["samples"] = points(run.samples.x.astype(float), run.colour, f"samples of {run.label}")
        if run.density:
            picture = pictures.field(_on_square(run.density, extent), low, high)
            row["density"] = pictures.framed(picture, extent, label=f"log density of {run.label}")
            row["badge"] = _badge(run.density["kind"])
        rows.append(row)
    scale = {"low": short(round(low, 2)), "high": short(round(high, 2)), "css": pictures.gradient()} if grids else None
    return {"real": points(real, pictures.REAL, "real data"), "rows": rows, "scale": scale}


def _on_square(grid: dict[str, Any], extent: Sequence[float]) -> np.ndarray:
    """A density on the square that all share; beyond its own grid it goes on as at the edge."""
    side = np.linspace(0, 1, min(200, max(len(grid["x"]), len(grid["y"]))))
    at_x = np.searchsorted(grid["x"], extent[0] + side * (extent[1] - extent[0])).clip(0, len(grid["x"]) - 1)
    at_y = np.searchsorted(grid["y"], extent[2] + side * (extent[3] - extent[2])).clip(0, len(grid["y"]) - 1)
    return grid["values"][np.ix_(at_y, at_x)]
