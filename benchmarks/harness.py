"""Ours and a peer by turns in one process: ratios of processor time, their median and their spread.

On a machine that others use too, a wall clock measures the others. What runs in this process is therefore measured by its
processor time on one thread, and the two sides alternate, so that a slow spell slows both. A ratio of 1 means equal, below 1
that ours is faster.

``by_turns`` is for any number of sides that are meant to use several threads, on the wall clock, in rows a second. Its ratio
keeps the convention above, seconds of ours / seconds of the best peer; only ``show`` prints it the other way round, as "times
as fast".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class Times:
    """Seconds of one call of one side: the median and the quartiles over rounds, and the best round."""

    median: float
    low: float
    high: float
    least: float


@dataclass(frozen=True)
class Rates:
    """Several sides by turns at ``rows`` rows a call.

    ``best`` is the peer with the smallest median, ``ratio`` the median over rounds of seconds ours / best, with its
    quartiles, and ``least`` the same of both sides' best rounds. ``floors`` are sides that are shown and are no peers.
    ``error`` is the largest absolute difference from a wider precision, of the sides for which it was taken.
    """

    name: str
    rows: int
    ours: str
    best: str | None
    times: dict[str, Times]
    ratio: float
    low: float
    high: float
    least: float
    rounds: int
    threads: int
    floors: tuple[str, ...] = ()
    error: dict[str, float] = field(default_factory=dict)
    target: float | None = None

    def rate(self, side: str) -> float:
        """Rows a second."""
        return self.rows / self.times[side].median


Entry = Comparison | Measurement | Rates
Clock = Callable[[], float]
Part = Callable[[bool, Clock], Iterable[Entry]]  # quick, clock


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


def by_turns(
    name: str,
    rows: int,
    sides: Mapping[str, Callable[[], object]],
    *,
    ours: str = "ours",
    floors: Sequence[str] = (),
    rounds: int = 9,
    seconds: float = 0.1,
    most: float = 20.0,
    clock: Clock = time.perf_counter,
    error: Mapping[str, float] | None = None,
    target: float | None = None,
) -> Rates:
    """``sides`` by turns, each for about ``seconds`` a round, beginning with another one every round.

    A cell whose rounds would take longer than ``most`` seconds together has fewer of them, three at least.
    """
    repeats: dict[str, int] = {}
    for side, run in sides.items():
        for _ in range(2):  # what is slow is not worth a second call
            began = clock()
            run()
            once = max(clock() - began, 1e-6)
            if once > 5 * seconds:
                break
        repeats[side] = max(1, math.ceil(seconds / once))
    spent: dict[str, list[float]] = {side: [] for side in sides}
    order, began = list(sides), time.perf_counter()
    for round_ in range(rounds):
        if round_ >= 3 and (time.perf_counter() - began) * (round_ + 1) / round_ > most:
            break
        for side in order:
            start = clock()
            for _ in range(repeats[side]):
                sides[side]()
            spent[side].append((clock() - start) / repeats[side])
        order.append(order.pop(0))
    times = {}
    for side, values in spent.items():
        low, middle, high = _quartiles(values)
        times[side] = Times(middle, low, high, min(values))
    peers = [side for side in sides if side != ours and side not in floors]
    best = min(peers, key=lambda side: times[side].median, default=None)
    against = ours if best is None else best
    low, middle, high = _quartiles([a / b for a, b in zip(spent[ours], spent[against], strict=True)])
    least, done = times[ours].least / times[against].least, len(spent[ours])
    parts = (name, rows, ours, best, times, middle, low, high, least, done, _threads())
    return Rates(*parts, tuple(floors), dict(error or {}), target)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def thousands(rate: float) -> str:
    """A rate in at most five characters: 874, 5.9k, 281k, 1.32M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{unit}" if rate < 100 * size else f"{rate / size:.0f}{unit}"
    return f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"


def line(entry: Entry) -> str:
    """A row of the table. Other than the rest, ``Rates`` say how many times as fast ours is: above 1 it is faster."""
    if isinstance(entry, Measurement):
        target = "" if entry.target is None else f"   target ≤ {entry.target:g}"
        return f"{entry.name:<46} {entry.seconds:6.3f} s {'':<34} [{entry.low:.3f} … {entry.high:.3f}]{target}"
    if isinstance(entry, Comparison):
        target = "" if entry.target is None else f"   target ≤ {entry.target:g}"
        return (
            f"{entry.name:<46} {entry.ratio:6.3f} × {entry.peer:<34} [{entry.low:.3f} … {entry.high:.3f}]"
            f"   {entry.ours_seconds:.3f} s / {entry.peer_seconds:.3f} s{target}"
        )
    sides = "  ".join(
        f"{side} {thousands(entry.rate(side))}" + (f" ±{entry.error[side]:.0e}" if side in entry.error else "")
        for side in sorted(entry.times, key=lambda s: (s != entry.ours, s in entry.floors))
    )
    if entry.best is None:
        return f"{entry.name:<46} {'':<50} {sides}"
    target = "" if entry.target is None else f" target ≥ {1 / entry.target:g}"
    spread = f"[{1 / entry.high:.2f} … {1 / entry.low:.2f}] at best {1 / entry.least:.2f}{target}"
    return f"{entry.name:<46} {1 / entry.ratio:7.2f} × as fast as {entry.best:<16} {spread:<50} {sides}"


def show(entries: Sequence[Entry]) -> None:
    """A table on standard output."""
    rates = [entry for entry in entries if isinstance(entry, Rates)]
    for entry in entries:
        if rates and entry is rates[0]:
            how = "one thread, processor time" if rates[0].threads == 1 else f"{rates[0].threads} threads, wall clock"
            print(f"{how}: times as fast as the best peer (above 1 ours is faster), then rows/s of each side")
        print(line(entry))


def run_parts(parts: Mapping[str, Part], quick: bool, only: str, threads: int) -> list[Entry]:
    """The parts whose names contain ``only``; every line is on standard error too as soon as it is there."""
    import torch

    before, found = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    try:
        for part in (part for name, part in parts.items() if only in name):
            for entry in part(quick, clock):
                print(line(entry), file=sys.stderr, flush=True)
                found.append(entry)
    finally:
        torch.set_num_threads(before)
    return found


def main(run: Callable[..., list[Entry]], about: str, parts: Collection[str] = ()) -> None:
    """The command line of one benchmark: ``--quick`` for fewer rounds, ``--json FILE`` to keep the figures.

    One with ``parts`` has ``--only`` and ``--threads`` too: ``run`` (quick, only, threads) instead of ``run`` (quick).
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    if parts:
        parser.add_argument("--only", default="", help=", ".join(parts))
        parser.add_argument("--threads", type=int, default=2, help="1 measures processor time instead of the wall clock")
    given = parser.parse_args()
    settings(given.threads if parts else 1)
    entries = run(given.quick, given.only, given.threads) if parts else run(given.quick)
    show(entries)
    if given.json is not None:
        write(entries, given.json)


def settings(threads: int = 1) -> None:
    """A line that says what it is measured on, and how."""
    import torch

    torch.set_num_threads(threads)
    how = "one thread" if threads == 1 else f"{threads} threads"
    what = "processor time" if threads == 1 else "wall clock"
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, {how} of {os.cpu_count()}; "
        f"{what}, median [quartiles] over rounds by turns"
    )


def write(entries: Sequence[Entry], path: Path) -> None:
    import torch

    machine = {"python": sys.version.split()[0], "torch": torch.__version__, "threads": torch.get_num_threads()}
    path.write_text(json.dumps({"machine": machine, "entries": [asdict(e) for e in entries]}, indent=1) + "\n")
