"""The error family. A message says what was found, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PushforwardError(Exception):
    """Base of every error a user can cause and mend; the command line prints it as one line, exit code 2."""


class DataError(PushforwardError):
    """The data cannot be read or do not fit the schema."""


class Unsupported(PushforwardError):
    """The family does not offer what was asked."""


class RecipeError(PushforwardError):
    """A family name, an option or a recipe that cannot be built."""


class CheckpointError(PushforwardError):
    """A run folder that is missing, damaged, edited, unsafe or from a newer version."""


class TrainingDiverged(PushforwardError):
    """The loss stayed non-finite after rolling back to the last good state."""


class Interrupted(PushforwardError):
    """Training was stopped by Ctrl-C after its state was saved; exit code 130."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A hint that names the nearest option and, where there is none near, all of them."""
    options = list(options)
    near = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return "choose from: " + ", ".join(options)
