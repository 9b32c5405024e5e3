"""The report of one run, or the comparison of several on the same data, as one HTML file that needs nothing else.

What runs wrote (names, categories, texts, messages) is untrusted: it reaches the page through an escaping template only.
"""

from __future__ import annotations

import datetime
import importlib.resources
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pushforward.core.errors import DataError
from pushforward.fitting.diagnosis import diagnose
from pushforward.fitting.files import whole
from pushforward.fitting.report_columns import tabular
from pushforward.fitting.report_data import beside, first_look, kind_sentence, schema_rows
from pushforward.fitting.report_film import forming, ways
from pushforward.fitting.report_models import leaderboard, learning, plane
from pushforward.fitting.runs import Run, read_run, read_runs

__all__ = ["diagnose", "read_run", "write_report"]

# Names of files in the commands: what sample writes, and what the other verbs read.
OUT = {"table": "samples.csv", "image": "samples/", "tokens": "samples.txt"}
NEW = {"table": "new.csv", "image": "folder-of-images", "tokens": "new.txt"}


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write the report of the run folders ``runs``, which learn the same data, as one HTML file ``out``; returns ``out``.

    Raises CheckpointError where a file of a run is missing or damaged, DataError where the runs do not learn the same data.
    """
    if not runs:
        raise DataError("there are no runs to report: give at least one run folder")
    # Lone surrogates in names cannot be written as UTF-8; and a page needs no control characters.
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", _render(_page(read_runs(runs), title)))
    with whole(Path(out)) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return Path(out)


def _render(page: Mapping[str, Any]) -> str:
    place = importlib.resources.files("pushforward") / "fitting" / "templates" / "report.html.j2"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(place.read_text(encoding="utf-8")).render(page)


def _page(runs: Sequence[Run], title: str | None) -> dict[str, Any]:
    """All that the template shows, in its order. What belongs to the data is taken from the first run that kept rows."""
    source = next((r for r in runs if r.preview is not None), runs[0])
    data, schema = source.data, source.schema
    rows: dict[str, Any] = data["rows"] if isinstance(data.get("rows"), dict) else {}
    name = str(data.get("name") or "data")
    if title is None:
        title = f"{name} — {runs[0].label}" if len(runs) == 1 else f"{name} — {len(runs)} models compared"
    known = [(r, r.known) for r in runs]
    versions = source.recipe.get("versions")
    return {
        "title": title,
        "version": versions.get("pushforward", "") if isinstance(versions, dict) else "",
        "date": datetime.date.today().isoformat(),
        "name": name,
        "rows": [(k, rows[k]) for k in ("train", "validation", "test") if isinstance(rows.get(k), int)],
        "families": [{"run": r, "title": f.title if f else "", "source": f.source if f else ""} for r, f in known],
        "notes": list(dict.fromkeys(str(n) for r in runs for n in (r.data.get("notes") or ()))),
        "kind": kind_sentence(schema.example) if schema else "",
        "schema": schema_rows(schema, source.preview) if schema else [],
        "preview": first_look(source),
        "leaderboard": leaderboard(runs),
        "learning": [learning(r) for r in runs if r.records or r.events or not r.error],
        "beside": beside(runs, source),
        "plane": plane(runs, source),
        "tabular": tabular(runs, source),
        "forming": forming(runs, source),
        "ways": ways(runs, source),
        "going_on": [_going_on(r) for r in runs],
    }


def _going_on(run: Run) -> dict[str, Any]:
    """Commands for this run, as far as its family offers the verbs, and its recipe."""
    path = _shown_folder(run.folder)
    recipe = {k: v for k, v in run.recipe.items() if k != "schema"}
    return {
        "run": run,
        "commands": _commands(run, path),
        "recipe": json.dumps(recipe, indent=2, ensure_ascii=False, default=str),
        "python": "" if run.error else f"import pushforward as pf\n\nmodel = pf.load({json.dumps(path, ensure_ascii=False)})",
    }


def _shown_folder(folder: Path) -> str:
    """The folder as a command can name it from here, without what lies above the working directory."""
    absolute, here = Path(os.path.abspath(folder)), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) and absolute != here else str(folder)


def _commands(run: Run, path: str) -> list[tuple[str, str]]:
    """What each command is for, and the command."""
    folder, family = shlex.quote(path), shlex.quote(run.family)
    if run.error:
        return [("fit again, in the place of this run", f"pushforward fit DATA {family} --out {folder} --force")]
    kind = run.schema.example.name if run.schema else ""
    heard = run.schema is not None and getattr(run.schema.example, "rate", None) is not None
    out, new = ("samples/", "folder-of-wavs") if heard else (OUT.get(kind, "samples.npy"), NEW.get(kind, "new.npy"))
    observed = " --observed observed.npy" if kind in ("image", "tokens") else ""
    every = {
        "sample": ("draw 1000 samples", f"pushforward sample {folder} -n 1000 --out {out}"),
        "score": ("score new data", f"pushforward score {folder} {new}"),
        "encode": ("encode new data", f"pushforward encode {folder} {new} --out codes.npy"),
        "complete": ("fill in what is missing", f"pushforward complete {folder} {new}{observed}"),
        "predict": ("predict", f"pushforward predict {folder} {new}"),
    }
    offered = run.known.verbs if run.known else ("sample",)
    found = [command for verb, command in every.items() if verb in offered]
    training = run.recipe.get("training")
    budget = {k: training.get(k) for k in ("steps", "minutes")} if isinstance(training, dict) else {}
    longer = " ".join(f"--{k} {2 * v}" for k, v in budget.items() if isinstance(v, (int, float)))
    if longer:
        again = f"pushforward fit DATA {family} {longer} --out {shlex.quote(path + '-longer')}"
        found.append(("train for twice as long; add the other options of the recipe below", again))
    return found
