"""``pushforward inspect`` and ``pushforward models``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

from pushforward.catalog import FAMILIES
from pushforward.cli.arguments import Column, Columns, Command, Data, Flag, Reading
from pushforward.cli.terminal import console, dim, say, strong
from pushforward.core.schema import KINDS

_VERBS = ("sample", "score", "encode", "complete", "predict")
_KINDS = {"exact": "exact", "ode": "ODE", "lower_bound": "bound"}


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """What was found in DATA: columns, types, ranges, missing values, constants, identifiers, and what becomes of each."""

    data: Data
    """A table, an array, a text, a folder of images, recordings or texts, or a name such as digits or moons."""
    target: Column = None
    """The column a predictor would predict."""
    condition: Columns = ()
    """Columns a model would be conditioned on."""
    json: Flag = False
    """Print it as JSON."""
    reading: Annotated[Reading, OmitArgPrefixes] = field(default_factory=Reading)

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.cli.output import print_json
        from pushforward.data.describe import describe, summary
        from pushforward.data.sources import open_data

        data = open_data(self.data, target=self.target, condition=self.condition, **self.reading.options())
        found = summary(data)
        if self.json:
            print_json(found)
            return 0
        if found["columns"]:
            console().print(describe(data))
        else:
            print(f"{found['name']}: {found['rows']:,} rows, {found['example']}")
            for note in found["notes"]:
                print(note)
        able = [f.name for f in FAMILIES.values() if found["kind"] in f.kinds and not f.baseline and not f.target]
        if able:
            how = f" --kind {self.reading.kind}" if self.reading.kind else ""
            say(f"\nnext\n  pushforward fit {shlex.quote(self.data)} {able[0]}{how}\n  families for it: {', '.join(able)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """The families: what each can do, the kind of its density, the data it learns and where it comes from."""

    json: Flag = False
    """Print the catalog as JSON."""

    def do(self, argv: Sequence[str]) -> int:
        if self.json:
            import json

            print(json.dumps([_entry(f) for f in FAMILIES.values()], indent=1, ensure_ascii=False))
            return 0
        _print_catalog()
        return 0


def _entry(fam: Any) -> dict[str, Any]:
    return {
        "name": fam.name,
        "title": fam.title,
        "verbs": list(fam.verbs),
        "density": fam.density or None,
        "kinds": list(fam.kinds),
        "conditions": fam.conditions,
        "target": fam.target,
        "baseline": fam.baseline,
        "source": fam.source or None,
    }


def _print_catalog() -> None:
    head = ("family", *_VERBS, "p(x|c)", "data")
    rows = [_row(fam) for fam in FAMILIES.values()]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        middle = [f"{cell:^{width}}" for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
        return "  ".join([strong(cells[0].ljust(widths[0])), *middle, cells[-1]]).rstrip()

    print("\n".join([line(head), "─" * (sum(widths) + 2 * len(widths) - 2), *(line(row) for row in rows), ""]))
    for fam in FAMILIES.values():
        print(f"{strong(fam.name.ljust(widths[0]))}  {fam.title}" + (f"  {dim(fam.source)}" if fam.source else ""))
    print(
        "\nscore: an exact density, one by an ODE solver, or a lower bound. "
        f"data: {', '.join(KINDS)}.\n"
        "pushforward fit DATA FAMILY --help shows a family's own options."
    )


def _row(fam: Any) -> tuple[str, ...]:
    marks = ["•" if verb in fam.verbs else "" for verb in _VERBS]
    if "score" in fam.verbs:
        marks[1] = _KINDS[fam.density]
    data = "any" if len(fam.kinds) == len(KINDS) else ", ".join(fam.kinds)
    return (fam.name, *marks, "•" if fam.conditions else "", data)
