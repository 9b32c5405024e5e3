"""Schedules by name, those that need nothing said of them: name → ``make()``."""

from __future__ import annotations

from collections.abc import Callable

from pushforward.paths.schedule import EDM, VE, VP, Angle, Cosine, Polynomial, Rectified, Schedule, SubVP
from pushforward.paths.table import Table

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "rectified": Rectified,
    "polynomial": Polynomial,
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "cosine": Cosine,
    "angle": Angle,
    "linear-beta": Table.linear,
    "cosine-beta": Table.cosine,
}
