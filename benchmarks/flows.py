"""Flows beside zuko, nflows and normflows: training steps, densities and samples.

All sides take turns in one process, on two threads and the wall clock, since that is what a user waits for; on a machine that
others use too, --threads 1 measures processor time. Every line gives rows a second of each side and how many times as fast as
the best peer ours is: 1 is equal, above 1 ours is faster. (The JSON keeps the harness's convention, seconds of ours / seconds
of the peer.) "bare" is the dense networks alone, without masks or maps: a floor for whoever computes all of them. Training:
zero_grad, the mean of −log p, backward, an optimiser step at batch 512; the peers with torch's Adam as it comes and fused,
ours with the fused AdamW of our trainer. Densities at 4096 rows, samples at 512 and at one.

Peers are built in peers_flows.py, ours by the catalog, without the marginals that bring data to the flow's coordinates.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from harness import Entry, Rates, by_turns, line, settings, show, write
from peers_flows import BINS, FAMILIES, HIDDEN, PEERS, TRANSFORMS, Sides, bare, installed
from torch import Tensor, nn

from pushforward.catalog import family as recipe_named
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.flow import Flow
from pushforward.transforms.tabular import NumberMarginals

SIZES = (8, 43, 64)
RECIPES = {"affine coupling": "realnvp", "MAF": "maf", "spline coupling": "nsf", "spline autoregressive": "nsf-ar"}
OPTIONS = {"transforms": TRANSFORMS, "hidden": (HIDDEN, HIDDEN), "bins": BINS}
TRAIN, DENSITY, SAMPLE = 512, 4096, 512


def target(family: str, size: int, action: str) -> float | None:
    """How many times as fast as the best peer ours is meant to be (issue 3)."""
    if action == "sample 1":
        return 1.0
    if action == "sample":
        if "coupling" in family:
            return 4.0 if "spline" in family else None
        return {43: 40.0, 64: 100.0 if family == "MAF" else 40.0}.get(size)
    return 4.0 if "spline" in family else 1.5


def filled(module: nn.Module) -> nn.Module:
    """Layers that start at zero get the start of an ordinary layer: an identity is no fair load."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and not part.weight.any():
            part.reset_parameters()
    return module


def ours(family: str, size: int) -> Sides:
    """The recipe, in the flow's own coordinates."""
    recipe, schema = recipe_named(RECIPES[family]), Schema(Vector(size))
    names = {f.name for f in fields(recipe.options)}
    built: Any = recipe.build(schema, recipe.configure({n: v for n, v in OPTIONS.items() if n in names}))
    inner = Compose(part for part in built.transform if not isinstance(part, NumberMarginals))
    flow = filled(Flow(schema, built.base, inner, built.conditioner))
    seeds = iter(range(1 << 62))
    return Sides(flow, flow.log_prob, lambda n: flow.sample(n, None, Draws(next(seeds), 0, n)))


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of our trainer."""
    parameters = list(module.parameters())
    groups = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]]
    decays = zip(groups, (0.01, 0.0), strict=True)
    return torch.optim.AdamW([{"params": g, "weight_decay": w} for g, w in decays if g], lr=1e-4, fused=True)


def training(sides: Sides, optimiser: torch.optim.Optimizer, x: Tensor) -> Callable[[], object]:
    def step() -> None:
        optimiser.zero_grad()
        (-sides.log_prob(x).mean()).backward()
        optimiser.step()

    return step


def runs(name: str, sides: Sides, action: str, size: int) -> dict[str, Callable[[], object]]:
    """What one side does in one cell; for training, a peer's two optimisers."""
    sides.module.train(action == "train")
    if action == "train":
        x = torch.randn(TRAIN, size)
        if name not in PEERS:
            return {name: training(sides, adamw(sides.module), x)}
        given = list(sides.module.parameters())
        # several optimisers of one model: what a step costs does not depend on whose momentum it is
        adam = {False: torch.optim.Adam(given, lr=1e-4), True: torch.optim.Adam(given, lr=1e-4, fused=True)}
        return {f"{name} fused" if fused else name: training(sides, optimiser, x) for fused, optimiser in adam.items()}
    if action == "density":
        x = torch.randn(DENSITY, size)
        return {name: torch.no_grad()(lambda: sides.log_prob(x))}
    n = 1 if action == "sample 1" else SAMPLE
    return {name: torch.no_grad()(lambda: sides.sample(n))}


ROWS = {"train": TRAIN, "density": DENSITY, "sample": SAMPLE, "sample 1": 1}


def how(quick: bool) -> dict[str, Any]:
    """Rounds and their length; several threads at once are measured by the wall clock, one by its processor time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    long = {"rounds": 9, "seconds": 0.15, "most": 40.0}
    return {"clock": clock} | ({"rounds": 3, "seconds": 0.05, "most": 8.0} if quick else long)


def cells(quick: bool, only: str, with_ours: bool = True) -> Iterator[Rates]:
    """Every family, size and action."""
    peers = installed()
    for name in PEERS.keys() - peers.keys():
        print(f"{name} is not installed: pip install {name}, or -e '.[bench]'", file=sys.stderr)
    for family in FAMILIES:
        for size in SIZES:
            wanted = {a: f"{family} D={size} {a}" for a in ROWS if only in f"{family} D={size} {a}"}
            if not wanted:
                continue
            torch.manual_seed(0)
            models = {"ours": ours(family, size)} if with_ours else {}
            models |= {n: build(family, size) for n, build in peers.items()}
            models["bare"] = bare(family, size)
            for action, name in wanted.items():
                sides = {k: run for n, m in models.items() for k, run in runs(n, m, action, size).items()}
                aim = target(family, size, action) if with_ours else None
                yield by_turns(
                    name,
                    ROWS[action],
                    sides,
                    ours="ours" if with_ours else "bare",
                    floors=("bare",) if with_ours else (),
                    target=None if aim is None else 1 / aim,
                    **how(quick),
                )


@contextmanager
def products(precision: str) -> Iterator[None]:
    """float32 as it comes, "medium" (torch.set_float32_matmul_precision) or bf16 as our trainer runs it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    try:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def within(precision: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def go(*given: Any) -> Any:
        with products(precision):
            return run(*given)

    return go


def precisions(quick: bool, only: str) -> Iterator[Rates]:
    """All sides at "medium" and all in bf16, and ours in float32 to see what that brings; with densities each side's error."""
    peers = installed()
    for family in FAMILIES:
        for size in SIZES[1:2] if quick else SIZES:
            wanted = {(a, p): f"{family} D={size} {a}, {p}" for a in ("train", "density") for p in ("medium", "bf16")}
            wanted = {key: name for key, name in wanted.items() if only in f"{name} precision"}
            if not wanted:
                continue
            torch.manual_seed(0)
            models = {"ours": ours(family, size)} | {n: build(family, size) for n, build in peers.items()}
            for (action, precision), name in wanted.items():
                sides = {k: within(precision, r) for n, m in models.items() for k, r in runs(n, m, action, size).items()}
                (plain,) = runs("ours", models["ours"], action, size).values()
                error = {n: error_of(m, size, precision) for n, m in models.items()}
                error["ours float32"] = error_of(models["ours"], size, "float32")
                yield by_turns(
                    name,
                    ROWS[action],
                    sides | {"ours float32": plain},
                    floors=("ours float32",),
                    error=error if action == "density" else None,
                    **how(quick),
                )


@torch.no_grad()
def error_of(sides: Sides, size: int, precision: str) -> float:
    """The largest error of log densities of normal rows, in nats, against the same model in float64."""
    x = torch.randn(DENSITY, size)
    found = within(precision, sides.log_prob)(x)
    sides.module.double()
    truth = sides.log_prob(x.double())
    sides.module.float()
    return float((found - truth).abs().max())


def told(entries: Iterable[Entry]) -> list[Entry]:
    """All of them, each shown on standard error as soon as it is there: the whole takes many minutes."""
    found = []
    for entry in entries:
        print(line(entry), file=sys.stderr, flush=True)
        found.append(entry)
    return found


def run(quick: bool = False, only: str = "", threads: int = 2) -> list[Entry]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return told(itertools.chain(cells(quick, only), precisions(quick, only)))
    finally:
        torch.set_num_threads(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", default="", help="cells whose name contains this: 'MAF D=43', 'bf16'")
    parser.add_argument("--peers", action="store_true", help="the peers alone, beside the bare networks")
    parser.add_argument("--threads", type=int, default=2, help="1 measures processor time instead of the wall clock")
    given = parser.parse_args()
    settings(given.threads)
    if given.peers:
        entries = told(cells(given.quick, given.only, with_ours=False))
    else:
        entries = run(given.quick, given.only, given.threads)
    show(entries)
    if given.json is not None:
        write(entries, given.json)


if __name__ == "__main__":
    main()
