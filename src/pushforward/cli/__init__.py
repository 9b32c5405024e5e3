"""The verbs of the library as commands: ``pushforward fit``, ``sample``, ``score`` and so on.

This module only finds the command: what a command needs is imported when it is used, so that help is there at once. Lives in
this folder: arguments, output formats, what is printed. Never here: anything a Python user could want too.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pushforward.core.errors import Interrupted, PushforwardError

if TYPE_CHECKING:
    from pushforward.cli.arguments import Command

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("fit:Fit", "learn a distribution from data"),
    "sample": ("verbs:Sample", "draw new examples from a run"),
    "score": ("verbs:Score", "log p of each row, with its standard error"),
    "encode": ("verbs:Encode", "representations of each row"),
    "complete": ("verbs:Complete", "fill in what is missing"),
    "predict": ("verbs:Predict", "the category of each row, or the probabilities"),
    "straighten": ("straighten:Straighten", "make a diffusion or flow model quick: a step or two a sample"),
    "compare": ("compare:Compare", "families side by side on the same rows and budget"),
    "report": ("compare:Report", "one page about one run or several"),
    "inspect": ("look:Inspect", "what was found in the data, before any fit"),
    "models": ("look:Models", "the families and what each can do"),
    "completion": ("completion:Completion", "a script that completes commands in bash, zsh or fish"),
}

_GROUPS = (
    ("learn", ("fit", "straighten", "compare")),
    ("use a run", ("sample", "score", "encode", "complete", "predict")),
    ("look", ("inspect", "models", "report")),
    ("shell", ("completion",)),
)

_EXAMPLES = (
    ("pushforward inspect sales.csv", "types, ranges, missing values"),
    ("pushforward fit sales.csv gmm", "learn p(row); the run is kept in runs/sales-gmm"),
    ("pushforward sample runs/sales-gmm -n 1000 --out new.csv", "new rows with the same columns"),
    ("pushforward score runs/sales-gmm sales.csv", "which rows are unlikely"),
    ("pushforward compare digits nice vae --minutes 2", "which family learns these data best"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for what a user can mend, 130 for Ctrl-C, 1 for a bug."""
    debug = os.environ.get("PUSHFORWARD_DEBUG", "") not in ("", "0")
    if argv is None:
        _speak_unicode()
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except PushforwardError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), 130 if isinstance(error, Interrupted) else 2)
    except Exception as error:
        what = f"internal error: {type(error).__name__}" + (f": {error}" if str(error) else "")
        if debug:
            traceback.print_exc()
            return _fail(what, 1)
        return _fail(f"{what}; run again with PUSHFORWARD_DEBUG=1 for the traceback", 1)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print("pushforward: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return code


def _speak_unicode() -> None:
    """Files and pipes get UTF-8 whatever the locale; a terminal that cannot show a character shows another."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8")


def _drop_stdout() -> None:
    """Nobody reads any more: let the interpreter flush into nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    from pushforward import __version__

    name = argv[0] if argv else "--help"
    if name == "help" and len(argv) > 1:
        name, argv = argv[1], [argv[1], "--help"]
    if name in ("--help", "-h", "help"):
        print(overview())
        return 0
    if name in ("--version", "-V", "version"):
        print(f"pushforward {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "choose from: " + ", ".join(COMMANDS)
        raise PushforwardError(f"there is no command '{name}': {hint}; see pushforward --help")
    from pushforward.cli.arguments import parse

    rest = argv[1:]
    shape = command(name).shaped(rest)
    parsed = parse(shape, name, rest)
    return 0 if parsed is None else parsed.do(rest)


def command(name: str) -> type[Command]:
    """The class of a command, imported now."""
    module, kind = COMMANDS[name][0].split(":")
    found: Any = getattr(importlib.import_module(f"pushforward.cli.{module}"), kind)
    return found


def overview() -> str:
    """What ``pushforward --help`` prints; with colour on a terminal."""
    from pushforward.cli.terminal import bold, dim, strong

    lines = [
        f"{bold('pushforward')}: learn a distribution from your data, then sample it, score it, encode it, complete it",
        "",
        f"{bold('usage')}  pushforward COMMAND [OPTIONS]        {dim('pushforward COMMAND --help says more')}",
        "",
    ]
    for title, names in _GROUPS:
        lines.append(bold(title))
        lines += [f"  {strong(n.ljust(12))}{COMMANDS[n][1]}" for n in names]
        lines.append("")
    lines.append(bold("a first hour"))
    for line, says in _EXAMPLES:
        lines += [f"  {line}", f"      {dim(says)}"]
    lines += [
        "",
        "DATA is a table (.csv .tsv .parquet .jsonl), an array (.npy .npz), a text (.txt), a folder of images, .wav or texts,",
        "or a name that needs no file: digits, moons, … FAMILY is a name from pushforward models.",
        dim("PUSHFORWARD_DEBUG=1 shows tracebacks, PUSHFORWARD_DATA is where data sets are looked for; --version"),
    ]
    return "\n".join(lines)
