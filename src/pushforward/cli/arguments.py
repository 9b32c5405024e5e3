"""Arguments as frozen dataclasses: tyro parses them and writes their help; this makes its help short and its errors a line."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import re
import textwrap
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional

from pushforward.core.errors import PushforwardError

SHORT = {"n": "-n", "out": "-o", "quiet": "-q"}  # one-letter names of fields
_PLACES = {"families": "FAMILY", "runs": "RUN"}
_WHERE = dict.fromkeys(("family", "families"), ": pushforward models lists the families")
_WHERE |= dict.fromkeys(("run", "runs"), ": the folder that fit wrote")
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-inf")
_POSITIONAL = get_args(Positional[str])[1:]  # what marks a field as positional
_LETTERS = {int: "N", float: "X", str: "TEXT"}
_WORDS = {int: "a whole number", float: "a number"}


class UsageError(PushforwardError):
    """The command line itself is wrong."""


class Command(ABC):
    """Base of the commands."""

    @classmethod
    def shaped(cls, argv: Sequence[str]) -> type[Command]:
        """The class to parse ``argv`` with: itself, or one with more options."""
        return cls

    @abstractmethod
    def do(self, argv: Sequence[str]) -> int:
        """Do it and return the exit code; ``argv`` is what was typed after the command's name."""


C = TypeVar("C", bound=Command)


# ---------------------------------------------------------------------------------------------------------- declaring


def _hint(default: str) -> str:
    return "" if default in ("None", "", "False", "(default: None)") else f"(default: {default})"


def option(metavar: str | None = None, name: str | None = None, help: str | None = None) -> Any:
    """How an option appears in help: its value's name, and its default only where there is one worth telling."""
    aliases = (SHORT[name],) if name in SHORT else None
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=_hint, aliases=aliases)


def positional(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Data = Annotated[Positional[str], positional("DATA")]
Run = Annotated[Positional[str], positional("RUN")]
Flag = Annotated[bool, option()]
Quiet = Annotated[bool, option(name="quiet")]
Out = Annotated[str | None, option("FILE", "out")]
Column = Annotated[str | None, option("COL")]
Columns = Annotated[tuple[str, ...], option("COL …")]
Words = Annotated[str | None, option("TEXT")]
Whole = Annotated[int | None, option("N")]
Real = Annotated[float | None, option("X")]
Seed = Annotated[int, option("S")]
Device = Annotated[str | None, option("DEVICE")]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How DATA is read."""

    types: Annotated[tuple[str, ...], option("COL=TYPE …")] = ()
    """Overrides inferred types: number, integer, category, boolean, date or identifier; text for a condition."""
    bounds: Annotated[tuple[str, ...], option("COL=LOW:HIGH …")] = ()
    """What a number can be, such as price=0: or rate=0:1; samples keep to it. LOW:HIGH alone bounds all of an array."""
    drop: Columns = ()
    """Columns of a table to leave out."""
    resize: Whole = None
    """Side of images in pixels."""
    length: Whole = None
    """Characters in one example of a text (64), samples of a signal, points of a set."""
    kind: Annotated[Literal["vector", "image", "signal", "points"] | None, option()] = None
    """What the rows of an array are, where its shape does not say."""

    def options(self) -> dict[str, Any]:
        """As keyword options of ``open_data``."""
        return {
            "types": pairs(self.types, "--types", "price=number"),
            "bounds": ranges(self.bounds),
            "drop": self.drop,
            "resize": self.resize,
            "length": self.length,
            "kind": self.kind,
        }


def number(value: str, name: str) -> int | float:
    """A whole number as one, any other as a float. Raises UsageError for anything else."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise UsageError(f"{name} is a number, found '{value}'")


def pairs(values: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """name=value words as a dict. Raises UsageError for a word without a name."""
    found = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} takes name=value, such as {flag} {example}: found '{word}'")
        found[name] = value
    return found


def ranges(values: Sequence[str]) -> dict[str, tuple[str | None, str | None]] | tuple[str | None, str | None] | None:
    """name=low:high words as a dict of pairs, or the one pair of a single low:high. Raises UsageError for other words."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for word in values:
        name, equals, ends = word.rpartition("=")
        low, colon, high = ends.partition(":")
        if not colon or ":" in high or (equals and not name) or (not equals and len(values) > 1):
            raise UsageError(f"--bounds takes name=low:high, such as --bounds price=0: rate=0:1, found '{word}'")
        found[name] = (low or None, high or None)
    return found.get("", found) or None


def _bare(kind: Any) -> tuple[Any, bool, tuple[str, ...]]:
    """(int, float, str or bool; whether it takes many values; choices) of a field's type."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return str, False, tuple(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (tuple, list):
        inner, _, choices = _bare(get_args(kind)[0])
        return inner, True, choices
    return kind, False, ()


def clothed(cls: type, name: str, about: str, helps: dict[str, str], renamed: dict[str, str] | None = None) -> type:
    """A dataclass with the fields of ``cls`` and short value names and help for each; ``renamed`` {field: other name}."""
    hints = get_type_hints(cls)
    fields: list[Any] = []
    for f in dataclasses.fields(cls):
        base, many, choices = _bare(hints[f.name])
        letter = None if choices or base is bool else _LETTERS.get(base, "VALUE") + (" …" if many else "")
        text = helps.get(f.name, "")
        shown = (renamed or {}).get(f.name, f.name)
        default = dataclasses.field(default=f.default, metadata={"help": text})
        fields.append((shown, Annotated[hints[f.name], option(letter, help=text or " ")], default))
    made: type = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True, namespace={"__doc__": about})
    return made


def field_docs(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, from its source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        statements = getattr(body, "body", [])
        for one, two in itertools.pairwise(statements):
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(two, ast.Expr):
                text = getattr(two.value, "value", None)
                if isinstance(text, str):
                    found[one.target.id] = " ".join(text.split())
    return found


def described(cls: type) -> dict[str, str]:
    """Help of fields that the docstring of the class, or of the one it builds on, describes as "name: text."."""
    names = "|".join(re.escape(f.name) for f in dataclasses.fields(cls))
    if not names:
        return {}
    found: dict[str, str] = {}
    for base in (b for b in reversed(cls.__mro__) if dataclasses.is_dataclass(b)):
        text = " ".join((base.__doc__ or "").split())
        heads = list(re.finditer(rf"\b((?:{names})(?:(?:, | and )(?:{names}))*): ", text))
        for head, after in zip(heads, [*heads[1:], None], strict=False):
            said = text[head.end() : after.start() if after else len(text)].strip()
            for name in re.split(r", | and ", head[1]):
                found[name] = said
    return found


# ------------------------------------------------------------------------------------------------------------ looking


@dataclass(frozen=True)
class Option:
    """One argument as the parser sees it."""

    name: str
    flags: tuple[str, ...]
    base: Any
    many: bool
    choices: tuple[str, ...]
    positional: bool
    required: bool
    help: str

    @property
    def switch(self) -> bool:
        return self.base is bool

    @property
    def shown(self) -> str:
        return _PLACES.get(self.name, self.name.upper()) if self.positional else self.flags[-1]


def options(cls: type) -> list[Option]:
    """The arguments of a command, those of nested groups included."""
    return list(_options(cls))


def _options(cls: type) -> Iterator[Option]:
    hints, plain, docs = get_type_hints(cls, include_extras=True), get_type_hints(cls), field_docs(cls)
    for f in dataclasses.fields(cls):
        hint, bare = hints[f.name], plain[f.name]
        if dataclasses.is_dataclass(bare):
            assert isinstance(bare, type)
            yield from _options(bare)
            continue
        base, many, choices = _bare(bare)
        place = any(m in _POSITIONAL for m in getattr(hint, "__metadata__", ()))
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        word = f.name.replace("_", "-")
        flags: tuple[str, ...] = ("--no-" + word,) if base is bool and f.default is True else ("--" + word,)
        if f.name in SHORT:
            flags = (SHORT[f.name], *flags)
        about = f.metadata.get("help") or docs.get(f.name, "")
        yield Option(f.name, () if place else flags, base, many, choices, place, required, about)


@dataclass
class Walk:
    """``argv`` taken apart: values of positionals, values of each option in the order they came, and what is unknown."""

    places: list[str]
    given: dict[str, list[str]]
    missing: list[Option]
    unknown: list[str]


def walk(known: Sequence[Option], argv: Sequence[str]) -> Walk:
    """Take ``argv`` apart without converting any value."""
    by_flag = {flag: o for o in known for flag in o.flags}
    found, at = Walk([], {}, [], []), 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            found.places += argv[at:]
            break
        if not _is_flag(word):
            found.places.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = flag if not flag.startswith("--") else "--" + flag[2:].replace("_", "-")
        this = by_flag.get(flag)
        if this is None:
            found.unknown.append(flag)
            continue
        values = found.given.setdefault(this.name, [])
        if this.switch:
            continue
        taken = [value] if equals else []
        while at < len(argv) and not _is_flag(argv[at]) and argv[at] != "--" and (not taken or (this.many and not equals)):
            taken.append(argv[at])
            at += 1
        if not taken and not this.many:
            found.missing.append(this)
        if not this.many:
            values.clear()
        values += taken
    return found


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not word.startswith("-.") and not _NUMBER.fullmatch(word)


def _check(known: Sequence[Option], found: Walk, name: str) -> None:
    """Raises UsageError for the first thing that is wrong."""
    flags = [flag for o in known for flag in o.flags]
    for word in found.unknown:
        bare = word.lstrip("-")
        near = difflib.get_close_matches("--" + bare, flags, n=1, cutoff=0.6)
        near = near or [flag for flag in flags if len(bare) > 1 and flag.startswith("--" + bare)][:1]
        raise UsageError(f"{name} has no option '{word}'" + (f": did you mean '{near[0]}'?" if near else ""))
    for o in found.missing:
        raise UsageError(f"{o.shown} needs a value")
    for o in known:
        for value in found.given.get(o.name, []):
            _check_value(o, value)
    places = [o for o in known if o.positional]
    for o, value in zip(places, found.places, strict=False):
        _check_value(o, value)
    lacking = [o for o in places[len(found.places) :] if o.required]
    if lacking:
        greedy = [o for o in known if o.many and not o.positional and len(found.given.get(o.name, [])) > 1]
        hint = f": put {_listed(places)} before {greedy[0].shown}, which takes all words after it" if greedy else ""
        raise UsageError(f"{name} needs {_listed(lacking)}{hint or _WHERE.get(lacking[0].name, '')}")
    if len(found.places) > len(places) and not (places and places[-1].many):
        raise UsageError(f"{name} takes {_listed(places) or 'no argument'}, found '{found.places[len(places)]}' besides")


def _listed(places: Sequence[Option]) -> str:
    return " and ".join(o.shown + (" …" if o.many else "") for o in places)


def _check_value(o: Option, value: str) -> None:
    if o.choices and value not in o.choices:
        raise UsageError(f"{o.shown} is one of {', '.join(o.choices)}, found '{value}'")
    if o.base in _WORDS:
        try:
            o.base(value)
        except ValueError:
            raise UsageError(f"{o.shown} takes {_WORDS[o.base]}, found '{value}'") from None


def _arranged(known: Sequence[Option], found: Walk) -> list[str]:
    """``argv`` again: positionals first, each option once."""
    words = list(found.places)
    for o in known:
        if o.name not in found.given or o.positional:
            continue
        values = found.given[o.name]
        if len(values) == 1 and values[0].startswith("-") and len(values[0]) > 1:
            words.append(f"{o.flags[-1]}={values[0]}")
        elif o.switch or values or o.many:
            words += [o.flags[-1], *values]
    return words


def parse(cls: type[C], name: str, argv: Sequence[str]) -> C | None:
    """``argv`` as a ``cls``; None where it asked for help, which is then printed. Raises UsageError in one line."""
    program = f"pushforward {name}"
    asked = any(word in ("--help", "-h") for word in argv)
    words = ["--help"]
    if not asked:
        known = options(cls)
        found = walk(known, argv)
        try:
            _check(known, found, name)
        except UsageError as error:
            raise UsageError(_pointed(str(error), program)) from None
        words = _arranged(known, found)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=words, prog=program, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            return None
        lines = [line.strip("╭╮╰╯│─+-| ") for line in said.getvalue().splitlines()[1:]]
        text = " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines)))
        raise UsageError(_pointed(text[:300] or "the arguments do not fit", program)) from None


def _pointed(message: str, program: str) -> str:
    return f"{message} See {program} --help" if message.endswith("?") else f"{message}; see {program} --help"
