"""What happened while a model was trained, kept in memory and in metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pushforward.fitting.files import whole


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, none where there is no file; a line in whose middle the run was killed is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


@dataclass(frozen=True)
class Record:
    """One validation. ``train`` and ``validation`` are mean losses, or ``criterion`` says what validation is instead."""

    step: int
    epoch: float = 0.0
    seconds: float = 0.0
    train: float | None = None
    validation: float | None = None
    learning_rate: float | None = None
    examples_per_second: float | None = None
    criterion: str = "loss"
    terms: dict[str, float] = field(default_factory=dict)


class History:
    """Records in order; with a ``run`` folder each one is a line of metrics.jsonl as soon as it is there.

    All processes keep them, the one that may ``write`` writes them.
    """

    def __init__(self, run: Path | None = None, write: bool = True) -> None:
        self.records: list[Record] = []
        self.raw: dict[str, Tensor] = {}
        self.lines: list[dict[str, Any]] = []
        self.path = run / "metrics.jsonl" if run is not None else None
        self.write = write

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._write(asdict(record))

    def event(self, kind: str, step: int, message: str) -> None:
        """Something worth telling, such as a rollback."""
        self._write({"event": kind, "step": step, "message": message})

    def _write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if self.path is not None and self.write:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")

    def last(self, name: str) -> float | None:
        """The newest value of a field."""
        return getattr(self.records[-1], name) if self.records else None

    def rewind(self, count: int) -> None:
        """Take up the first ``count`` lines of an interrupted run and drop those after them."""
        if self.path is None or not self.path.exists():
            return
        kept = read_lines(self.path)[:count]
        if self.write:
            with whole(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.lines = kept
        self.records = [Record(**line) for line in kept if "event" not in line]
