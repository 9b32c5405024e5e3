"""Sampling from a PixelCNN with what is kept between pixels, beside the plain loop of one whole pass for every pixel: the same
net, weights and uniform numbers, 28×28 black and white.

The loop takes minutes: one row of it in 28 is timed, and its seconds are multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any

import torch
from harness import Clock, Entry, Rates, Times, by_turns, main, run_parts

from pushforward.catalog import FAMILIES
from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.models.autoregressive import ancestral

SIDE, LOOP = 28, "a pass for every pixel"


def whole(entry: Rates) -> Rates:
    """``entry`` with the loop's seconds of one row as those of all of them."""
    times = entry.times | {LOOP: Times(*(SIDE * value for value in astuple(entry.times[LOOP])))}
    ratios = {name: getattr(entry, name) / SIDE for name in ("ratio", "low", "high", "least")}
    return replace(entry, times=times, **ratios)


def sampling(quick: bool, clock: Clock) -> Iterator[Entry]:
    family = FAMILIES["pixelcnn"]
    for batch in (16, 64):
        torch.manual_seed(0)
        model: Any = family.build(Schema(Image(1, SIDE, SIDE, levels=2)), family.configure({})).eval()
        torch.nn.init.normal_(model.net.last.weight, std=0.1)
        u, singles = Draws(0, 0, batch).uniform(SIDE * SIDE, dtype=torch.float64), model.elements.singles()

        def ours(model: Any = model, u: Any = u) -> object:
            return ancestral(model.elements, model.net, model.order, Context(), u)

        def loop(model: Any = model, u: Any = u, singles: Any = singles) -> object:
            e = torch.zeros_like(u)
            for i in range(SIDE):
                params = model.net(model.elements.look(e), Context())[:, None]
                e[:, i : i + 1] = singles[i].draw(params[..., i : i + 1], u[:, i : i + 1])
            return e

        with torch.no_grad():
            sides = {"ours": ours, LOOP: loop}
            yield whole(
                by_turns(f"{batch} samples of 28×28", batch, sides, rounds=3 if quick else 9, clock=clock, target=1 / 50)
            )


def run(quick: bool = False, only: str = "", threads: int = 1) -> list[Entry]:
    return run_parts({"sampling": sampling}, quick, only, threads)


if __name__ == "__main__":
    main(run, __doc__ or "", ("sampling",))
