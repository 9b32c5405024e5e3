"""The U-Net beside diffusers': what a sampling step and a training step cost, with the same architecture and weights.

Setting: 2.7 M parameters, images of 1 × 28 × 28, batch 64, two threads. All sides take turns in one process
on the wall clock; on a machine that others use too, --threads 1 measures processor time. Every line gives images a second of
each side and how many times as fast as the best peer ours is. diffusers' net is taken as it comes, with channels last and
under bf16 autocast; in the lines "against the default" the peer is float32 as it comes, alone. "lean" is our own layout at as
many parameters, which has fewer operations: shown, and no part of the comparison.

A sampling step is one evaluation for one time that all images share, without gradients, in eval mode; the autocast is entered
once for all steps, as a sampler does, so that casts of weights are kept. A training step is zero_grad, the mean square error of
what the net says, backward and a fused AdamW step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from harness import Clock, Entry, Rates, by_turns, main, run_parts
from peers_unet import answer, diffusers_unet, like, trained_like
from torch import Tensor, nn

from pushforward.nets.unet import UNet

BATCH, SIDE = 64, 28


def lean() -> UNet:
    """Our own layout, at as many parameters."""
    return UNet(1, 1, width=36, multipliers=(1, 2, 4), attention=True)


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def cast(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` under bf16 autocast that is entered for every call, as one step of training is."""

    def go() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return go


class Held:
    """``run`` under a bf16 autocast whose casts of weights are kept from call to call, as in a sampler's loop."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run, self.context = run, torch.autocast("cpu", torch.bfloat16)

    def __call__(self) -> object:
        # entered anew for each side, since another side may have run since: eight steps share the casts
        with self.context:
            for _ in range(8):
                self.run()
        return None


def forwards(net: UNet, peer: Any) -> dict[str, Callable[[], object]]:
    """Eight sampling steps of every side."""
    x, t = torch.randn(BATCH, 1, SIDE, SIDE), torch.full((1,), 0.4).expand(BATCH)
    other, small = copy.deepcopy(peer).to(memory_format=torch.channels_last), lean().eval()
    ours, slim = lambda: net(x, t), lambda: small(x, t)
    plain, turned = lambda: answer(peer, x, t), lambda: answer(other, last(x), t)
    eight = lambda run: lambda: [run() for _ in range(8)]
    runs = {"ours": eight(ours), "ours bf16": Held(ours), "lean": eight(slim), "lean bf16": Held(slim)}
    runs |= {"diffusers": eight(plain), "diffusers last": eight(turned)}
    runs |= {"diffusers bf16": Held(plain), "diffusers bf16 last": Held(turned)}
    return {name: torch.no_grad()(run) for name, run in runs.items()}


def training(module: nn.Module, says: Callable[[], Tensor], half: bool) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    target = torch.randn(BATCH, 1, SIDE, SIDE)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = says()
        (out.float() - target).square().mean().backward()
        optimiser.step()

    return step


def steps(net: UNet, peer: Any) -> dict[str, Callable[[], object]]:
    x, t = torch.randn(BATCH, 1, SIDE, SIDE), torch.rand(BATCH)
    small = lean()
    sides = {
        "ours": (net, lambda: net(x, t)),
        "diffusers": (peer, lambda: answer(peer, x, t)),
        "lean": (small, lambda: small(x, t)),
    }
    return {
        f"{name} bf16" if half else name: training(module, says, half)
        for name, (module, says) in sides.items()
        for half in (False, True)
    }


def compared(name: str, rows: int, runs: dict[str, Callable[[], object]], quick: bool, clock: Clock) -> Iterator[Rates]:
    """Each of our precisions against the peer's of its kind, and in bf16 against the best of all."""
    how: dict[str, Any] = {"rounds": 3 if quick else 9, "seconds": 0.01, "most": 400.0, "clock": clock}
    floors = [side for side in runs if side.startswith("lean")]
    chosen = lambda wanted: {side: run for side, run in runs.items() if wanted(side)}
    single = chosen(lambda side: "bf16" not in side)
    train = name.startswith("training")
    yield by_turns(
        f"{name}, float32", rows, single, floors=[f for f in floors if f in single], target=None if train else 1 / 1.15, **how
    )
    half = chosen(lambda side: side in ("ours bf16", "lean bf16", "diffusers") or (side.startswith("diffusers bf16")))
    default = {side: run for side, run in half.items() if "diffusers bf16" not in side}
    yield by_turns(
        f"{name}, bf16 against the default",
        rows,
        default,
        ours="ours bf16",
        floors=["lean bf16"],
        target=1 / (2.0 if train else 2.5),
        **how,
    )
    yield by_turns(
        f"{name}, bf16", rows, half, ours="ours bf16", floors=["lean bf16"], target=1 / 1.5 if train else None, **how
    )


def _pair() -> tuple[UNet, Any]:
    torch.manual_seed(0)
    peer = trained_like(diffusers_unet(SIDE))
    return like(peer), peer


def sampling(quick: bool, clock: Clock) -> Iterator[Rates]:
    net, peer = _pair()
    return compared("sampling step", 8 * BATCH, forwards(net.eval(), peer.eval()), quick, clock)


def learning(quick: bool, clock: Clock) -> Iterator[Rates]:
    net, peer = _pair()
    return compared("training step", BATCH, steps(net.train(), peer.train()), quick, clock)


PARTS = {"sampling": sampling, "training": learning}


def run(quick: bool = False, only: str = "", threads: int = 2) -> list[Entry]:
    return run_parts(PARTS, quick, only, threads)


if __name__ == "__main__":
    main(run, __doc__ or "", PARTS)
