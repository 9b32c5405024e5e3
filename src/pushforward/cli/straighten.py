"""``pushforward straighten``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pushforward.cli.arguments import Command, Device, Flag, Quiet, Real, Run, Seed, UsageError, Whole, option

_TRAINING = ("minutes", "steps", "batch_size", "learning_rate", "seed", "device")


@dataclass(frozen=True, kw_only=True)
class Straighten(Command):
    """Teach a rectified flow that needs a step or two what a run of a diffusion or flow model knows, and keep it as a new run.

    Prints how far the paths of the flow are from straight, and the cost of transport along them, before and after: mean squares
    a coordinate, where the data have variance 1.
    """

    run: Run
    """The folder that fit wrote."""
    out: Annotated[str | None, option("RUN", "out")] = None
    """Folder of the new run (default: RUN-METHOD, numbered when taken)."""
    method: Annotated[Literal["reflow", "consistency"], option()] = "reflow"
    """reflow: straight paths between pairs that the model's flow connects; a flow again, with a density. consistency: one jump
    from noise to data; only to be sampled."""
    rounds: Annotated[int, option("N")] = 1
    """How many times to reflow; --minutes and --steps are those of each."""
    pairs: Annotated[int, option("N")] = 20_000
    """Pairs, or where no --data are given samples, that are learned from."""
    data: Annotated[str | None, option("DATA")] = None
    """The rows it was fitted on: what consistency learns from, and conditions of pairs are drawn from; a reflowed run
    is then evaluated too."""
    minutes: Real = None
    """Time to train; the learning rate follows the clock."""
    steps: Whole = None
    """Steps to train (default 5000)."""
    batch_size: Whole = None
    """Examples a step."""
    learning_rate: Real = None
    """Peak learning rate."""
    seed: Seed = 0
    """Of pairs and training."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a run that is there."""
    quiet: Quiet = False
    """Say nothing but errors."""
    json: Flag = False
    """Print the run's path and the figures as JSON."""

    def do(self, argv: Sequence[str]) -> int:
        if self.steps is not None and self.minutes is not None:
            raise UsageError("give --steps or --minutes, not both")
        from pushforward.fitting.fitted import load
        from pushforward.fitting.straighten import straighten

        source, run = Path(self.run).expanduser(), self._place()
        if run.resolve() == source.resolve():
            raise UsageError(f"{run} is the run that is straightened: choose another --out")
        training = {name: getattr(self, name) for name in _TRAINING if getattr(self, name) is not None}
        how: dict[str, Any] = {"rounds": self.rounds, "pairs": self.pairs, "method": self.method, "quiet": self.quiet}
        found = straighten(load(source), self.data, out=run, force=self.force, **how, **training)
        recipe = found.recipe
        if self.json:
            from pushforward.cli.output import print_json

            print_json({"run": str(run), "source": str(source), "steps": recipe["steps"], **recipe["straightened"]})
            return 0
        if not self.quiet:
            _conclude(run, recipe)
        if not sys.stdout.isatty():
            print(run)
        return 0

    def _place(self) -> Path:
        if self.out is not None:
            return Path(self.out).expanduser()
        source = Path(self.run).expanduser()
        first = source.with_name(f"{source.name}-{self.method}")
        found, n = first, 2
        while found.exists() and not self.force:
            found = first.with_name(f"{first.name}-{n}")
            n += 1
        return found


def _conclude(run: Path, recipe: dict[str, Any]) -> None:
    from pushforward.cli.output import figure
    from pushforward.cli.terminal import say

    done, options = recipe["straightened"], recipe["options"]

    def shown(when: str, name: str) -> str:
        value, error = done[when][name], done[when][f"{name}_error"]
        return "one jump" if value is None else figure(value, error)

    rows = [("", "before", "after")]
    rows += [
        (title, shown("before", name), shown("after", name))
        for title, name in (("straightness (0 is straight)", "straightness"), ("transport cost", "cost"))
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    say()
    for head, before, after in rows:
        say(f"{head:<{widths[0]}}  {before:<{widths[1]}}  {after}")
    steps = options["sampling_steps"]
    way = f"by {options['sampler']} in {steps} step" if "sampler" in options else f"in {steps} jump"
    say(f"\n{run}: sampled {way}{'s' if steps > 1 else ''} unless told otherwise")
