"""The figures of a model: plain values that evaluation makes, a leaderboard compares and a report shows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One figure. ``better`` is lower, higher or None; ``kind`` the kind of density, if any; ``n`` the rows it is from."""

    name: str
    label: str
    value: float
    standard_error: float | None = None
    better: str | None = None
    kind: str | None = None
    n: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model."""

    family: str
    metrics: tuple[Metric, ...]

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; non-finite values as null."""
        metrics = [
            {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(m).items()}
            for m in self.metrics
        ]
        return {"family": self.family, "metrics": metrics}
