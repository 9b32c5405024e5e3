"""What learning curves say, in one sentence with advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Diagnosis:
    """What learning curves say: ``kind`` is overfitting, underfitting, converged, unstable, diverged or short."""

    kind: str
    sentence: str


def _falling(steps: np.ndarray, values: np.ndarray) -> bool:
    """Whether the last third still falls: by a visible share of the whole fall, and by more than its noise."""
    late = steps >= steps[0] + (steps[-1] - steps[0]) * 2 / 3
    if late.sum() < 3:
        late[-3:] = True
    x, y = steps[late], values[late]
    slope, offset = np.polyfit(x, y, 1)
    fall = -slope * (x[-1] - x[0])
    error = np.std(y - slope * x - offset, ddof=min(2, len(y) - 1)) * math.sqrt(12 / len(y))
    early = float(np.median(values[: max(1, len(values) // 5)]))
    whole_fall = max(early - float(values.min()), 1e-9 * (1 + abs(early)))
    return bool(fall > 0.05 * whole_fall and fall > 2 * error)


def _risen(values: np.ndarray) -> tuple[int, float]:
    """Where the (smoothed) values are lowest, and by how much they have risen since; 0 where that is noise."""
    half = 2 if len(values) >= 12 else 1
    smooth = np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
    best = int(smooth.argmin())
    after = values[best + 1 :]
    if len(after) < 3 or best > 0.85 * len(values):
        return best, 0.0
    rise = float(after[-max(3, len(after) // 3) :].mean() - smooth[best])
    # The lowest of many noisy values is low by chance: by about as much as neighbours differ.
    noise = float(np.median(np.abs(np.diff(values[len(values) // 4 :]))))
    span = max(float(np.median(values[: max(1, len(values) // 5)]) - smooth[best]), 1e-9 * (1 + abs(smooth[best])))
    return best, rise if rise > 2 * noise and rise > 0.05 * span else 0.0


def diagnose(metrics: Sequence[Mapping[str, Any]]) -> Diagnosis:
    """What the records of metrics.jsonl say about training, in one sentence with advice."""
    records = [m for m in metrics if "event" not in m and m.get("step") is not None]
    train = [(m["step"], m["train"]) for m in records if m.get("train") is not None]
    valid = [(m["step"], m["validation"]) for m in records if m.get("validation") is not None]
    for series in (train, valid):
        if series and not math.isfinite(series[-1][1]):
            return Diagnosis(
                "diverged",
                f"Diverged: the loss is not finite at step {series[-1][0]:,}; lower the learning rate, clip more, "
                "or look for extreme values in the data.",
            )
    distance = any(m.get("criterion", "loss") != "loss" for m in records)
    train = [p for p in train if math.isfinite(p[1])]
    valid = [p for p in valid if math.isfinite(p[1])]
    judged = valid or train
    passes = [v for _, v in judged]
    direct = bool(records) and all("learning_rate" in m and m["learning_rate"] is None for m in records)
    # Fitted by statistics (EM, moments), not by gradients: it ends when a pass changes nothing.
    if direct and len(passes) > 1 and abs(passes[-1] - passes[-2]) <= 1e-3 * (abs(passes[-1]) + abs(passes[0] - passes[-1])):
        return Diagnosis("converged", f"Converged: fitted directly, and the last of {len(passes)} passes changed nothing.")
    if direct and len(passes) == 1:
        return Diagnosis("converged", "Converged: fitted directly, in one pass over the data.")
    if len(judged) < 5 or (not distance and len(train) < 5):
        if not judged:
            return Diagnosis("short", "There is no learning curve: the family is fitted directly, or training wrote nothing.")
        return Diagnosis("short", f"Too short to say: {len(judged)} of 5 measurements; train longer or validate more often.")
    steps, values = (np.array(a, dtype=float) for a in zip(*judged, strict=True))
    best, rise = _risen(values)
    if distance:
        if rise:
            return Diagnosis(
                "unstable",
                f"The distance to the data was lowest at step {steps[best]:,.0f} and rose afterwards: "
                "stop earlier, or lower the learning rate.",
            )
        if _falling(steps, values):
            return Diagnosis("underfitting", "The distance to the data was still falling at the end: train longer.")
        return Diagnosis("converged", "Converged: the distance to the data no longer changes.")
    train_steps, train_values = (np.array(a, dtype=float) for a in zip(*train, strict=True))
    if rise and valid:
        learned = np.interp(steps, train_steps, train_values)
        late = max(3, (len(values) - best) // 3)
        gap = float((values - learned)[-late:].mean() - (values - learned)[max(0, best - 1) : best + 2].mean())
        if gap > 0.5 * rise:
            return Diagnosis(
                "overfitting",
                f"Overfitting: validation was best at step {steps[best]:,.0f} and rose afterwards while training did not; "
                "stop earlier, get more data, use stronger weight decay or a smaller net.",
            )
    if rise:
        return Diagnosis(
            "unstable",
            f"Unstable: the loss was lowest at step {steps[best]:,.0f} and rose afterwards, on the training rows too; "
            "lower the learning rate.",
        )
    if _falling(steps, values) and _falling(train_steps, train_values):
        both = "training and validation were" if valid else "the training loss was"
        return Diagnosis("underfitting", f"Not finished: {both} still falling at the end; train longer.")
    if not valid:
        return Diagnosis("converged", "Converged on the training rows; there is no validation to tell overfitting.")
    return Diagnosis("converged", "Converged: validation no longer changes and has not risen.")
