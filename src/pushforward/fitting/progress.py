"""What a user sees of a long task: a live bar with time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any

_SILENT: ContextVar[bool] = ContextVar("silent", default=False)  # whether a task around this one is quiet


class Progress:
    """A task from 0 to 1. ``update(done, **figures)`` may be called as often as one likes; drawing is throttled.

    Nothing is shown before ``after`` seconds, so quick tasks stay silent; ``quiet`` shows nothing at all, nor do tasks within.
    """

    def __init__(self, title: str, *, quiet: bool = False, after: float = 2.0, every: float = 10.0) -> None:
        self.title, self.quiet, self.after, self.every = title, quiet, after, every
        self._start = time.monotonic()
        self._last = self._start
        self._bar: Any = None
        self._task: Any = None
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self.quiet = self.quiet or _SILENT.get()
        self._outside = _SILENT.set(self.quiet)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _SILENT.reset(self._outside)
        if self._bar is not None:
            self._bar.stop()

    def due(self) -> bool:
        """Whether an update now would be drawn: ask before computing figures that cost something."""
        now = time.monotonic()
        gap = 0.2 if self._live else self.every
        return not self.quiet and now - self._start >= self.after and now - self._last >= gap

    def update(self, done: float, **figures: float | None) -> None:
        """``done`` in [0, 1]; ``figures`` are shown with their names."""
        if not self.due():
            return
        self._last = time.monotonic()
        text = "  ".join(f"{name} {_short(value)}" for name, value in figures.items() if value is not None)
        if self._live:
            self._draw(done, text)
        else:
            spent = self._last - self._start
            left = spent / done - spent if done > 0 else float("nan")
            print(f"{self.title}: {100 * done:.0f} %, {left:.0f} s left  {text}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def _draw(self, done: float, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self._bar = Bar(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.title, total=1.0, text="")
            self._bar.start()
        self._bar.update(self._task, completed=done, text=text)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"
