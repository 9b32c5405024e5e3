"""Ours and a peer by turns in one process: ratios of processor time, their median and their spread.

On a machine that others use too, a wall clock measures the others. What runs in this process is therefore measured by its
processor time on one thread, and the two sides alternate, so that a slow spell slows both. A ratio of 1 means equal, below 1
that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """Median seconds of both sides, and of the ratio ours / peer of each round the median and the quartiles."""

    name: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Median seconds of something that has no peer, and the quartiles."""

    name: str
    seconds: float
    low: float
    high: float
    rounds: int
    target: float | None = None


Entry = Comparison | Measurement


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def seconds_of(run: Callable[[], object]) -> float:
    """Processor time of ``run`` in this process."""
    began = time.process_time()
    run()
    return time.process_time() - began


def compare(
    name: str,
    peer_name: str,
    ours: Callable[[], Callable[[], object]],
    peer: Callable[[], Callable[[], object]],
    *,
    rounds: int = 9,
    target: float | None = None,
    warm: int = 1,
) -> Comparison:
    """``ours`` and ``peer`` prepare a round, which is not timed, and return what is. Who goes first alternates."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for round_ in range(warm + rounds):
        sides = {"ours": ours, "peer": peer}
        order = ["ours", "peer"] if round_ % 2 else ["peer", "ours"]
        for side in order:
            ready = sides[side]()
            spent = seconds_of(ready)
            if round_ >= warm:
                times[side].append(spent)
    ratios = [a / b for a, b in zip(times["ours"], times["peer"], strict=True)]
    low, middle, high = _quartiles(ratios)
    return Comparison(
        name, peer_name, statistics.median(times["ours"]), statistics.median(times["peer"]), middle, low, high, rounds, target
    )


def of_command(command: Sequence[str]) -> float:
    """Processor time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(name: str, command: Sequence[str], *, rounds: int = 7, target: float | None = None) -> Measurement:
    """A command that has no peer."""
    of_command(command)
    low, middle, high = _quartiles([of_command(command) for _ in range(rounds)])
    return Measurement(name, middle, low, high, rounds, target)


def show(entries: Sequence[Entry]) -> None:
    """A table on standard output."""
    for entry in entries:
        target = "" if entry.target is None else f"   target ≤ {entry.target:g}"
        if isinstance(entry, Comparison):
            print(
                f"{entry.name:<46} {entry.ratio:6.3f} × {entry.peer:<34} [{entry.low:.3f} … {entry.high:.3f}]"
                f"   {entry.ours_seconds:.3f} s / {entry.peer_seconds:.3f} s{target}"
            )
        else:
            print(f"{entry.name:<46} {entry.seconds:6.3f} s {'':<34} [{entry.low:.3f} … {entry.high:.3f}]{target}")


def main(run: Callable[[bool], list[Entry]], about: str) -> None:
    """The command line of one benchmark: ``--quick`` for fewer rounds, ``--json FILE`` to keep the figures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    settings()
    entries = run(given.quick)
    show(entries)
    if given.json is not None:
        write(entries, given.json)


def settings() -> None:
    """One thread, and a line that says what it is measured on."""
    import torch

    torch.set_num_threads(1)
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, one thread of {os.cpu_count()}; "
        "processor time, median [quartiles] over rounds by turns"
    )


def write(entries: Sequence[Entry], path: Path) -> None:
    import torch

    machine = {"python": sys.version.split()[0], "torch": torch.__version__, "threads": torch.get_num_threads()}
    path.write_text(json.dumps({"machine": machine, "entries": [asdict(e) for e in entries]}, indent=1) + "\n")
