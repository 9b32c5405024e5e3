"""``pushforward fit``."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional

from pushforward.catalog import FAMILIES, Family, family
from pushforward.cli.arguments import (
    Column,
    Columns,
    Command,
    Data,
    Flag,
    Quiet,
    Reading,
    UsageError,
    clothed,
    described,
    field_docs,
    option,
    options,
    positional,
    walk,
)
from pushforward.core.errors import Interrupted
from pushforward.fitting.options import Training

if TYPE_CHECKING:
    from pushforward.data.dataset import Data as Opened
    from pushforward.fitting.fitted import Fitted

TrainingOptions: Any = clothed(Training, "Training", "How long and how to train.", field_docs(Training))


@dataclass(frozen=True, kw_only=True)
class Fit(Command):
    """Learn a distribution from DATA and keep it in a run folder.

    Name a FAMILY before --help to see its own options: pushforward fit DATA gmm --help
    """

    data: Data
    """A table, an array, a text, a folder of images, recordings or texts, or a name such as digits or moons."""
    family: Annotated[Positional[str], positional("FAMILY")]
    """What to learn it with: a name from pushforward models."""
    target: Column = None
    """The column a predictor predicts."""
    condition: Columns = ()
    """Columns c of p(x | c), which sample --condition then sets; of images also grey, small:2 and visible, made of x."""
    source: Annotated[str | None, option("DATA")] = None
    """What the family transport carries to DATA: examples like those."""
    out: Annotated[str | None, option("RUN", "out")] = None
    """Folder of the run (default: runs/DATA-FAMILY, numbered when taken)."""
    resume: Flag = False
    """Go on from the newest checkpoint of an interrupted run."""
    force: Flag = False
    """Overwrite a run that is there."""
    no_report: Flag = False
    """Do not evaluate the model and write report.html."""
    quiet: Quiet = False
    """Say nothing but errors."""
    json: Flag = False
    """Print the run's path, recipe and evaluation as JSON."""
    reading: Annotated[Reading, OmitArgPrefixes] = field(default_factory=Reading)
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)

    @classmethod
    def shaped(cls, argv: Sequence[str]) -> type[Command]:
        """With the options of the family that ``argv`` names."""
        places = walk(options(cls), argv).places
        named = next((word for word in places[1:] if word in FAMILIES), places[1] if len(places) > 1 else None)
        return cls if named is None else _with_options(cls, family(named))

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.fitting.files import apart
        from pushforward.fitting.fit import fit_data, open_for, training_from

        fam = family(self.family)
        training = training_from(dataclasses.asdict(self.training))
        if training.steps is not None and training.minutes is not None:
            raise UsageError("give --steps or --minutes, not both")
        config = fam.configure(self._own(fam))
        run = self._place(fam)
        apart(self.data, self.out)
        data = open_for(self.data, fam, target=self.target, condition=self.condition or None, **self.reading.options())
        if not self.quiet:
            _announce(data, fam, run)
        how: dict[str, Any] = {"resume": self.resume, "force": self.force, "report": not self.no_report, "quiet": self.quiet}
        try:
            fitted = fit_data(data, fam, config, training, source=self.source, out=run, **how)
        except Interrupted as error:
            raise Interrupted(_with_command(str(error), argv, run)) from None
        except KeyboardInterrupt:
            if not (run / "model.safetensors").exists():
                raise
            raise Interrupted(f"stopped while evaluating; the model is in {run}, trained to the end") from None
        if self.json:
            _print_json(run, fitted)
            return 0
        if not self.quiet:
            _conclude(self.data, run, fitted, data, self.reading.kind)
        if not sys.stdout.isatty():
            print(run)
        return 0

    def _own(self, fam: Family) -> dict[str, Any]:
        """The family's own options, by their names there."""
        given = getattr(self, _group(fam), None)
        if given is None:
            return {}
        back = {shown: name for name, shown in _renamed(fam.options).items()}
        return {back.get(f.name, f.name): getattr(given, f.name) for f in fields(given)}

    def _place(self, fam: Family) -> Path:
        if self.out is not None:
            return Path(self.out).expanduser()
        word = re.sub(r"[^\w.-]+", "-", Path(self.data.rstrip("/\\")).stem).strip("-.") or "data"
        first = Path("runs") / f"{word}-{fam.name}"
        found, n = first, 2
        while found.exists() and not (self.resume or self.force):
            found = first.with_name(f"{first.name}-{n}")
            n += 1
        return found


def _group(fam: Family) -> str:
    """The name of the family's options among the command's fields."""
    return fam.name.replace("-", "_")


def _renamed(config: type) -> dict[str, str]:
    """Other names for a family's options that the command has already."""
    taken = {o.name for o in options(Fit)}
    return {f.name: f"model_{f.name}" for f in fields(config) if f.name in taken}


def _with_options(cls: type[Fit], fam: Family) -> type[Command]:
    config = fam.options
    if not fields(config):
        return cls
    own: Any = clothed(config, fam.name, f"{fam.title[:1].upper()}{fam.title[1:]}.", described(config), _renamed(config))
    group = (_group(fam), Annotated[own, OmitArgPrefixes], field(default_factory=own))
    made: type[Command] = dataclasses.make_dataclass(
        "Fit", [group], bases=(cls,), frozen=True, kw_only=True, namespace={"__doc__": cls.__doc__}
    )
    return made


# ------------------------------------------------------------------------------------------------------------- saying


def _announce(data: Opened, fam: Family, run: Path) -> None:
    from pushforward.cli.terminal import say
    from pushforward.data.describe import summary

    found = summary(data)
    say(f"{data.name}: {len(data):,} rows, {found['example']}")
    for note in data.notes:
        say(f"note: {note}")
    say(f"fit {fam.name}, kept in {run}")


def _with_command(message: str, argv: Sequence[str], run: Path) -> str:
    """The message of an interruption with the very command that goes on."""
    head, found, _ = message.partition("go on with: ")
    if not found:
        return message
    words = [word for word in argv if word not in ("--resume", "--force")]
    if not any(word.split("=")[0] in ("--out", "-o") for word in words):
        words += ["--out", str(run)]
    return f"{head}{found}pushforward fit {shlex.join(words)} --resume"


def evaluation(run: Path) -> dict[str, Any] | None:
    """What was measured, None where nothing was."""
    from pushforward.fitting.files import read_json

    path = run / "evaluation.json"
    return read_json(path) if path.exists() else None


def _print_json(run: Path, fitted: Fitted) -> None:
    from pushforward.cli.output import print_json

    recipe = fitted.recipe
    wanted = ("family", "options", "training", "data", "parameters", "steps", "seconds", "versions")
    found = {name: recipe[name] for name in wanted if name in recipe}
    print_json({"run": str(run), "recipe": found, "evaluation": evaluation(run)})


_MAIN = ("nats", "bits_per_dim", "accuracy", "log_loss", "c2st", "linear_probe", "knn", "active_units", "critic")


def _conclude(data: str, run: Path, fitted: Fitted, opened: Opened, read_as: str | None) -> None:
    from pushforward.cli.output import DENSITIES, figure
    from pushforward.cli.terminal import say

    recipe = fitted.recipe
    lines = [("run", f"{run}   ({recipe['steps']:,} steps, {recipe['seconds']:.1f} s, {recipe['parameters']:,} parameters)")]
    found = evaluation(run)
    metrics = {m["name"]: m for m in found["metrics"]} if found else {}
    for name in _MAIN:
        if name in metrics and not (name == "bits_per_dim" and fitted.schema.example.name != "image"):
            m = metrics[name]
            tail = f"  {DENSITIES.get(m['kind'], m['kind'])}" if m.get("kind") and name == "nats" else ""
            tail += f"  ({m['note']})" if m.get("note") else ""
            lines.append((m["label"], figure(m["value"], m["standard_error"]) + tail))
    if not metrics and fitted.history:
        last = fitted.history[-1]
        if last.get("validation") is not None:
            lines.append((f"validation {last['criterion']}", figure(last["validation"])))
    if (run / "report.html").exists():
        lines.append(("report", str(run / "report.html")))
    width = max(len(head) for head, _ in lines)
    say()
    for head, text in lines:
        say(f"{head:<{width}}  {text}")
    say("\nnext")
    for command in _next(data, run, fitted, opened, read_as):
        say(f"  {command}")


def _next(data: str, run: Path, fitted: Fitted, opened: Opened, read_as: str | None) -> list[str]:
    """Three commands that work with this run."""
    from pushforward.cli.output import kind_of

    verbs, kind, name = fitted.family.verbs, fitted.schema.example.name, shlex.quote(str(run))
    source = shlex.quote(data)
    endings = {"table": ".csv", "array": ".csv", "image": ".png", "text": ".txt", "sound": "/"}
    ending = endings.get(kind_of(fitted.schema), ".npz")
    gaps = bool(opened.schema.extra.get("missing"))
    found = []
    if "sample" in verbs:
        found.append(f"pushforward sample {name} -n 64 --out new{ending}")
    if "predict" in verbs:
        found.append(f"pushforward predict {name} {source} --probabilities")
    if "complete" in verbs and gaps:
        found.append(f"pushforward complete {name} {source} --out filled.csv")
    if "score" in verbs:
        found.append(f"pushforward score {name} {source}")
    if "encode" in verbs:
        found.append(f"pushforward encode {name} {source} --out codes.npy")
    other = next(f for f in ("nice", "vae", "gmm") if f != fitted.family.name)
    rivals, how = [fitted.family.name, other], f" --kind {read_as}" if read_as else ""
    if not fitted.family.target and kind in FAMILIES[other].kinds:
        found.append(f"pushforward compare {source} {' '.join(rivals)}{how} --minutes 1")
    found.append(f"pushforward report {name}")
    found.append("pushforward models")
    return found[:3]
