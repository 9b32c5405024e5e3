"""``pushforward compare`` and ``pushforward report``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from pushforward.cli.arguments import (
    Column,
    Columns,
    Command,
    Data,
    Flag,
    Out,
    Quiet,
    Reading,
    UsageError,
    option,
    positional,
)
from pushforward.cli.fit import TrainingOptions
from pushforward.core.errors import Interrupted, PushforwardError


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Families side by side: the same rows, the same split, the same budget; measured on rows none of them saw.

    Prints the leaderboard; the folder holds leaderboard.csv, report.html and a run for each family.
    """

    data: Data
    """A table, an array, a text, a folder of images, recordings or texts, or a name such as digits or moons."""
    families: Annotated[Positional[tuple[str, ...]], positional("FAMILY …")]
    """Names from pushforward models; all: every one that learns such data."""
    seeds: Annotated[int, option("K")] = 1
    """Repeat with so many seeds of the training; errors are then over seeds."""
    target: Column = None
    """The column that predictors among the families predict."""
    condition: Columns = ()
    """Columns that families with conditions are conditioned on."""
    out: Annotated[str | None, option("FOLDER", "out")] = None
    """Folder to write (default: runs/DATA-compare, numbered when taken)."""
    force: Flag = False
    """Overwrite what is there."""
    quiet: Quiet = False
    """No progress."""
    json: Flag = False
    """Print every figure as JSON."""
    reading: Annotated[Reading, OmitArgPrefixes] = field(default_factory=Reading)
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.catalog import chosen

        chosen(self.families)
        if self.training.steps is not None and self.training.minutes is not None:
            raise UsageError("give --steps or --minutes, not both")
        from pushforward.cli.output import print_json
        from pushforward.cli.terminal import console, say
        from pushforward.fitting.compare import compare

        out = self._place()
        try:
            found = compare(
                self.data,
                self.families,
                seeds=self.seeds,
                target=self.target,
                condition=self.condition or None,
                out=out,
                force=self.force,
                quiet=self.quiet,
                **self.reading.options(),
                **dataclasses.asdict(self.training),
            )
        except Interrupted as error:
            raise Interrupted(f"{str(error).split('; go on')[0]}; what was finished is in {out}") from None
        if self.json:
            print_json({**found.to_json(), "out": str(out), "report": str(out / "report.html")})
            return 0
        console().print(found.table())
        for result in found.failed:
            say(f"{result.family} failed: {result.error}")
        say(f"report: {out / 'report.html'}")
        return 0

    def _place(self) -> Path:
        if self.out is not None:
            return Path(self.out).expanduser()
        word = re.sub(r"[^\w.-]+", "-", Path(self.data.rstrip("/\\")).stem).strip("-.") or "data"
        first = Path("runs") / f"{word}-compare"
        found, n = first, 2
        while found.exists() and not self.force:
            found = first.with_name(f"{first.name}-{n}")
            n += 1
        return found


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """One HTML page about a run, or about several runs of the same data side by side.

    A folder that compare wrote stands for the runs in it.
    """

    runs: Annotated[Positional[tuple[str, ...]], positional("RUN …")]
    """Folders that fit or compare wrote."""
    out: Out = None
    """The page (default: report.html in the run, or here for several runs)."""
    title: Annotated[str | None, option("TEXT")] = None
    """Heading of the page."""
    force: Flag = False
    """Overwrite a page that is there."""

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.cli.output import refuse_existing
        from pushforward.cli.terminal import say
        from pushforward.fitting.report import write_report

        given = [Path(run).expanduser() for run in self.runs]
        runs = [run for folder in given for run in _runs_in(folder)]
        if self.out is not None:
            out = Path(self.out).expanduser()
            if out.suffix.lower() not in (".html", ".htm"):
                raise UsageError(f"--out {self.out}: a report is written as .html")
            refuse_existing(out, self.force)
        elif len(given) == 1:
            out = given[0] / "report.html"  # made from the run alone: making it again loses nothing
        else:
            out = Path("report.html")
            refuse_existing(out, self.force)
        write_report(runs, out, title=self.title)
        say(f"report: {out}")
        return 0


def _runs_in(folder: Path) -> list[Path]:
    """The run itself, or the runs in a folder that compare wrote."""
    if not folder.is_dir():
        raise PushforwardError(f"there is no run folder '{folder}': give the folder that fit wrote (--out)")
    if (folder / "recipe.json").exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/recipe.json"))
    if not found:
        raise PushforwardError(f"{folder} holds no run: give the folder that fit wrote (--out)")
    return found
