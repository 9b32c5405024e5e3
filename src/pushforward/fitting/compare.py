"""Families side by side: the same data, the same split, the same budget, one leaderboard."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.catalog import EVERY, FAMILIES, chosen
from pushforward.core.errors import DataError, Interrupted, PushforwardError, RecipeError
from pushforward.data.sources import open_data
from pushforward.fitting.evaluate import evaluate, write_evaluation
from pushforward.fitting.figures import Evaluation
from pushforward.fitting.files import apart, whole, write_json, writing_failed
from pushforward.fitting.fit import fit_data, open_for, training_from
from pushforward.fitting.options import split_options
from pushforward.fitting.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as RichTable

_SHORT = {
    "nats": "−log p",
    "bits_per_dim": "bits/dim",
    "sliced_wasserstein": "sliced W",
    "c2st": "C2ST",
    "memorisation": "NN ratio",
    "linear_probe": "probe",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "samples_per_second": "samples/s",
    "seconds": "seconds",
}
_WITH_ERROR = ("nats", "c2st", "accuracy")


@dataclass(frozen=True)
class Result:
    """One family with one seed: its evaluation, or the line that says why there is none."""

    family: str
    seed: int
    evaluation: Evaluation | None = None
    error: str = ""
    run: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """Results in the order asked for. Densities of different kinds are shown with their kind, never ranked as one."""

    data: str
    budget: str
    results: tuple[Result, ...]
    out: Path | None = None

    @property
    def failed(self) -> list[Result]:
        """The families that failed, with their errors."""
        return [r for r in self.results if r.evaluation is None]

    @property
    def report(self) -> Path | None:
        """The page that shows it all."""
        return self.out / "report.html" if self.out is not None else None

    @property
    def leaderboard(self) -> pd.DataFrame:
        """A row a family: values and ``…_error`` columns, averaged over seeds, and the kind of density. Sorted by −log p
        within each kind; families without a density follow."""
        import pandas as pd

        rows = [self._row(name) for name in dict.fromkeys(r.family for r in self.results)]
        frame = pd.DataFrame(rows)
        order = {"exact": 0, "ode": 1, "lower_bound": 2}
        frame["_kind"] = [order.get(k, 3) for k in frame["density"]]
        keys = ["_kind", *(["nats"] if "nats" in frame else [])]
        return frame.sort_values(keys, kind="stable").drop(columns="_kind").reset_index(drop=True)

    def _row(self, name: str) -> dict[str, Any]:
        mine = [r for r in self.results if r.family == name]
        good = [r.evaluation for r in mine if r.evaluation is not None]
        row: dict[str, Any] = {"family": name, "density": "", "seeds": len(good)}
        if not good:
            return row | {"error": mine[0].error}
        for metric in good[0].metrics:
            values = [e[metric.name].value for e in good]
            mean = sum(values) / len(values)
            error = metric.standard_error
            if len(values) > 1:
                error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
            row[metric.name] = mean
            if error is not None:
                row[f"{metric.name}_error"] = error
            if metric.kind:
                row["density"] = metric.kind
        return row

    def table(self) -> RichTable:
        """The leaderboard for a terminal; the full figures are in ``leaderboard``."""
        from rich.table import Table as RichTable

        frame = self.leaderboard
        shown = [name for name in _SHORT if name in frame and frame[name].notna().any()]
        if "bits_per_dim" in shown and frame["bits_per_dim"].abs().max() > 50:
            shown.remove("bits_per_dim")  # one wide column would hide the rest
        notes = ["± standard error; C2ST 0.5: samples cannot be told from data; NN ratio near 0: copies of training rows"]
        if len({k for k in frame["density"] if k}) > 1:
            notes.append("exact densities, ODE estimates and lower bounds differ in kind: a bound may understate its model")
        if any(FAMILIES[name].baseline for name in frame["family"]):
            notes.append("* baseline")
        table = RichTable(
            title=f"{self.data}, {self.budget} for each family",
            title_justify="left",
            caption="\n".join(notes),
            caption_justify="left",
        )
        table.add_column("family", style="bold", no_wrap=True)
        table.add_column("density", no_wrap=True)
        for name in shown:
            table.add_column(_SHORT[name], justify="right", no_wrap=True)
        for row in frame.to_dict("records"):
            label = row["family"] + ("*" if FAMILIES[str(row["family"])].baseline else "")
            if isinstance(row.get("error"), str):
                table.add_row(label, "failed", *[""] * len(shown))
                continue
            table.add_row(label, row["density"] or "none", *[_cell(row, name) for name in shown])
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        results = [
            {"family": r.family, "seed": r.seed, "error": r.error, "run": str(r.run) if r.run else None}
            | (r.evaluation.to_json() if r.evaluation else {})
            for r in self.results
        ]
        return {"data": self.data, "budget": self.budget, "results": results}


def _cell(row: Mapping[Any, Any], name: str) -> str:
    value = row.get(name)
    if value is None or not math.isfinite(value):
        return ""
    if name in ("parameters", "samples_per_second"):
        return f"{value:,.0f}"
    error = row.get(f"{name}_error")
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    digits = max(0, min(4, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}" if name in _WITH_ERROR else f"{value:.{digits}f}"


def compare(
    data: Any,
    families: Sequence[str],
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seeds: int = 1,
    target: str | None = None,
    condition: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    quiet: bool = False,
    types: Mapping[str, str] | None = None,
    bounds: Mapping[Any, Any] | Sequence[Any] | None = None,
    drop: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    length: int | None = None,
    kind: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Fit every family on the same rows under the same budget and measure them on the same test rows.

    ``families`` are names, of which ``all`` stands for every one that learns such data. ``minutes`` or ``steps`` each;
    ``seeds`` > 1 repeats with other seeds of the training (the split stays). Predictors get ``target``, families that take
    conditions get ``condition``. ``options`` are the trainer's. A family that fails is reported and does not stop the others.
    With ``out``: a run folder a family, leaderboard.csv, leaderboard.json and report.html.
    """
    if not families:
        raise RecipeError("name at least one family to compare: pushforward models lists them")
    if seeds < 1:
        raise RecipeError(f"seeds must be at least 1, found {seeds}")
    if minutes is not None and steps is not None:
        raise RecipeError("give minutes or steps, not both")
    how: dict[str, Any] = {"types": types, "bounds": bounds, "drop": drop, "resize": resize, "length": length, "kind": kind}
    if EVERY in families:
        example = open_data(data, target=target, condition=condition or (), **how).schema.example.name
        chosen_families = chosen(families, example, target=target is not None)
    else:
        chosen_families = chosen(families)
    given, _ = split_options(options, ())
    base = training_from({**given, "minutes": minutes, "steps": steps, "seed": seed})
    folder = Path(out) if out is not None else None
    if folder is not None:
        apart(data, folder)
        _prepare_folder(folder, force)
    results: list[Result] = []
    name = str(data) if isinstance(data, (str, Path)) else "data"
    board = Progress("compare", quiet=quiet, after=0)
    for fam in chosen_families:
        for repeat in range(seeds):
            training = base.__class__(**{f.name: getattr(base, f.name) for f in fields(base)} | {"seed": seed + repeat})
            label = fam.name if seeds == 1 else f"{fam.name}-seed{seed + repeat}"
            run = folder / label if folder is not None else None
            board.say(f"compare: {label}")
            try:
                wanted, given_to = target if fam.target else None, condition if fam.conditions else None
                opened = open_for(data, fam, target=wanted, condition=given_to, **how)
                name = opened.name
                splits = opened.split(seed)
                fitted = fit_data(
                    opened, fam, fam.configure({}), training, splits=splits, out=run, force=force, report=False, quiet=quiet
                )
                found = write_evaluation(fitted, splits, run, quiet=quiet) if run else evaluate(fitted, splits, quiet=quiet)
                results.append(Result(fam.name, seed + repeat, found, run=run))
            except (KeyboardInterrupt, Interrupted):
                raise
            except Exception as error:  # one family's failure is a line of the leaderboard
                if isinstance(error, DataError) and not results:
                    raise  # what cannot be read will not be read for the next family either
                line = _one_line(error)
                board.say(f"compare: {label} failed: {line}")
                if run is not None:
                    _note_failure(run, fam.name, name, line, error)
                results.append(Result(fam.name, seed + repeat, error=line, run=run))
    if all(r.evaluation is None for r in results):
        raise PushforwardError(f"no family could be fitted; the first said: {results[0].error}")
    budget = "default budget"
    if minutes is not None or steps is not None:
        amount, unit = (minutes, "minute") if minutes is not None else (steps, "step")
        budget = f"{amount:g} {unit}{'' if amount == 1 else 's'}"
    comparison = Comparison(name, budget, tuple(results), folder)
    if folder is not None:
        _write(comparison, folder)
    return comparison


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, PushforwardError) else f"{type(error).__name__}: {text}"


def _note_failure(run: Path, family_name: str, data: str, line: str, error: Exception) -> None:
    """What the report shows of a family that failed; the traceback is kept beside it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "error.txt").write_text(line + "\n", encoding="utf-8")
        (run / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        if not (run / "recipe.json").exists():
            write_json(run / "recipe.json", {"version": 1, "family": family_name, "data": {"name": data}})
    except OSError:
        return  # the line is on the leaderboard anyway


def _prepare_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise PushforwardError(f"{folder} is a file: choose another --out")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise PushforwardError(f"{folder} exists and is not empty: choose another --out, or overwrite it with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(folder, error) from error


def _write(comparison: Comparison, folder: Path) -> None:
    from pushforward.fitting.report import write_report

    with whole(folder / "leaderboard.csv") as temporary:
        comparison.leaderboard.to_csv(temporary, index=False)
    write_json(folder / "leaderboard.json", comparison.to_json())
    write_report([r.run for r in comparison.results if r.run is not None], folder / "report.html")
