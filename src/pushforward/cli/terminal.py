"""What is written for people: a console on standard output for results, lines on standard error for everything else."""

from __future__ import annotations

import os
import sys
from typing import Any


def console() -> Any:
    """A rich console on standard output; where that is no terminal, wide enough not to fold."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    found = Quiet(file=sys.stdout, highlight=False)
    return found if found.is_terminal else Quiet(file=sys.stdout, highlight=False, width=160)


def say(message: str = "") -> None:
    """A line for the reader, on standard error."""
    print(message, file=sys.stderr, flush=True)


def _styled(text: str, code: str) -> str:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\033[{code}m{text}\033[0m" if colour else text


def bold(text: str) -> str:
    """Bold where standard output is a terminal."""
    return _styled(text, "1")


def dim(text: str) -> str:
    """Faint where standard output is a terminal."""
    return _styled(text, "2")


def strong(text: str) -> str:
    """Bold and coloured where standard output is a terminal."""
    return _styled(text, "1;36")
