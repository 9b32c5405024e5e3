"""pushforward: learn a distribution from data, then sample it, score it, encode it, complete it, steer it.

    import pushforward as pf
    model = pf.fit("sales.parquet", "nice", minutes=2)
    model.sample(1000); model.log_prob(frame); model.complete(frame_with_gaps)

Importing this costs next to nothing: what is used is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pushforward.core.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    PushforwardError,
    RecipeError,
    TrainingDiverged,
    Unsupported,
)

if TYPE_CHECKING:
    from pushforward.data.sources import open_data
    from pushforward.fitting.compare import compare
    from pushforward.fitting.density import fit_to_density
    from pushforward.fitting.evaluate import evaluate
    from pushforward.fitting.fit import fit
    from pushforward.fitting.fitted import Fitted, load
    from pushforward.fitting.report import write_report
    from pushforward.fitting.straighten import straighten

__version__ = "0.1.0"

_PLACES = {
    "fit": "fitting.fit",
    "fit_to_density": "fitting.density",
    "load": "fitting.fitted",
    "Fitted": "fitting.fitted",
    "compare": "fitting.compare",
    "evaluate": "fitting.evaluate",
    "write_report": "fitting.report",
    "straighten": "fitting.straighten",
    "open_data": "data.sources",
}

__all__ = [
    "CheckpointError",
    "DataError",
    "Fitted",
    "Interrupted",
    "PushforwardError",
    "RecipeError",
    "TrainingDiverged",
    "Unsupported",
    "compare",
    "evaluate",
    "fit",
    "fit_to_density",
    "load",
    "open_data",
    "straighten",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pushforward' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pushforward.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
