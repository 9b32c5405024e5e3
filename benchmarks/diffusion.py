"""Diffusion beside diffusers and torchdiffeq: samplers, guidance, likelihoods; the network's own share is in diffusion_unet.py.

* What a sampler costs a step besides the network, for images of 1 × 28 × 28, batch 64: the network of both sides is a tensor
  that is there already. "arithmetic" is the same sums of tensors in a bare loop.
* Images a second of DDIM in 20 steps, equal weights (2.7 M parameters), in float32 and bf16, beside diffusers' U-Net and
  scheduler as they come; the RMS difference from the samples in float64 is given as error, in deviations of the data.
* Guided sampling beside sampling twice as many rows.
* log p of 1000 rows of a trained model of two and more numbers, exact trace, Dormand–Prince 1e-5, beside torchdiffeq with a
  loop over coordinates on the same velocity.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusion_unet
import torch
from diffusion_unet import BATCH, SIDE
from harness import Entry, Rates, by_turns, main, run_parts
from peers_unet import diffusers_unet, like, trained_like
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.diffusion import Diffusion, Scoring
from pushforward.models.path import Sampling, Training
from pushforward.nets.mlp import TimeMLP
from pushforward.paths.denoiser import Denoiser
from pushforward.paths.schedule import Rectified
from pushforward.paths.table import Table
from pushforward.solvers import multistep, sde
from pushforward.solvers.choice import Adaptive
from pushforward.solvers.grids import grid

STEPS = 20
SHAPE = (BATCH, 1, SIDE, SIDE)


# what a step costs besides the network


def _ready(sampler: str) -> Callable[[], object]:
    """``STEPS`` · 10 steps of ours with a network that costs nothing."""
    x, out, table = torch.randn(SHAPE), torch.randn(SHAPE), Table.linear()
    nodes = grid(table, 10 * STEPS, "trailing")
    denoiser = Denoiser(lambda x, clock: out, table, "noise").expect(nodes.levels[:-1], x)
    noise = torch.randn(SHAPE)
    run = {
        "ddim": lambda: multistep.ddim(denoiser, x, nodes),
        "dpm++2m": lambda: multistep.dpmpp_2m(denoiser, x, nodes),
        "ddpm": lambda: sde.ddpm(denoiser, x, nodes, lambda: noise),
    }[sampler]
    return torch.no_grad()(run)


def _arithmetic(terms: int) -> Callable[[], object]:
    """As many sums of tensors, each c₁ x + c₂ y."""
    x, out = torch.randn(SHAPE), torch.randn(SHAPE)

    def run() -> None:
        y = x
        for _ in range(10 * STEPS):
            for _ in range(terms):
                y = torch.add(0.9 * y, out, alpha=0.1)

    return torch.no_grad()(run)


def _scheduler(name: str) -> Callable[[], object]:
    import diffusers

    cls = {"ddim": "DDIMScheduler", "dpm++2m": "DPMSolverMultistepScheduler", "ddpm": "DDPMScheduler"}[name]
    made = getattr(diffusers, cls)(timestep_spacing="trailing")
    x, out = torch.randn(SHAPE), torch.randn(SHAPE)

    def run() -> None:
        made.set_timesteps(10 * STEPS)
        y = x
        for t in made.timesteps:
            y = made.step(out, t, y).prev_sample

    return torch.no_grad()(run)


def overhead(quick: bool, clock: Callable[[], float]) -> list[Rates]:
    """Rows are steps: 1e6/rate is microseconds a step."""
    found = []
    for name, terms in (("ddim", 2), ("dpm++2m", 2), ("ddpm", 2)):
        sides = {"ours": _ready(name), "diffusers": _scheduler(name), "arithmetic": _arithmetic(terms)}
        found.append(
            by_turns(
                f"a step of {name} without its network",
                10 * STEPS,
                sides,
                floors=["arithmetic"],
                rounds=3 if quick else 9,
                clock=clock,
            )
        )
    return found


# sampling


class Timed(nn.Module):
    """Our U-Net as a model's network: diffusers tells it the timestep i − 1 where our clock says i/T."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        return self.net(x, t - 1e-3, context)


def sampling(quick: bool, clock: Callable[[], float]) -> list[Rates]:
    import diffusers

    torch.manual_seed(0)
    peer = trained_like(diffusers_unet(SIDE)).eval()
    net = Timed(like(peer)).eval()
    table, noise = Table.linear(), torch.randn(SHAPE)
    nodes = grid(table, STEPS, "trailing")

    def ours(half: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            denoiser = Denoiser(lambda x, clock: net(x, clock), table, "noise").expect(nodes.levels[:-1], noise)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return multistep.ddim(denoiser, noise, nodes)

        return torch.no_grad()(run)

    def theirs(model: Any, half: bool) -> Callable[[], Tensor]:
        scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")

        def run() -> Tensor:
            scheduler.set_timesteps(STEPS)
            x = noise
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                for t in scheduler.timesteps:
                    x = scheduler.step(model(x, t).sample.float(), t, x).prev_sample
            return x

        return torch.no_grad()(run)

    wide = Timed(copy.deepcopy(net.net).double())
    exact = Denoiser(lambda x, clock: wide(x, clock), table, "noise")
    with torch.no_grad():
        truth = multistep.ddim(exact, noise.double(), nodes)
    last = copy.deepcopy(peer).to(memory_format=torch.channels_last)
    single = {"ours": ours(False), "diffusers": theirs(peer, False), "diffusers last": theirs(last, False)}
    half = {"ours bf16": ours(True), "diffusers": theirs(peer, False)}
    best = half | {"diffusers bf16": theirs(peer, True), "diffusers bf16 last": theirs(last, True)}
    error = {name: float((run() - truth).square().mean().sqrt()) for name, run in (single | best).items()}
    how: dict[str, Any] = {"rounds": 3 if quick else 7, "seconds": 0.01, "most": 400.0, "clock": clock}
    of = lambda sides: {name: error[name] for name in sides}
    return [
        by_turns(f"DDIM in {STEPS} steps, float32", BATCH, single, target=1 / 1.15, error=of(single), **how),
        by_turns(
            f"DDIM in {STEPS} steps, bf16 against the default",
            BATCH,
            half,
            ours="ours bf16",
            target=1 / 2.5,
            error=of(half),
            **how,
        ),
        by_turns(f"DDIM in {STEPS} steps, bf16", BATCH, best, ours="ours bf16", error=of(best), **how),
    ]


def guided(quick: bool, clock: Callable[[], float]) -> list[Rates]:
    """Sampling with guidance beside sampling twice as many."""
    torch.manual_seed(0)
    net = Timed(like(trained_like(diffusers_unet(SIDE)))).eval()
    column = Column("label", ColumnKind.CATEGORY, categories=tuple(range(10)))

    class Told(nn.Module):
        """The condition is dealt out and joined as ever; the weights are those of a net without one."""

        def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
            return net(x, t)

    from pushforward.core.schema import Image

    model = Diffusion(
        Schema(Image(1, SIDE, SIDE), (column,)),
        Compose([]),
        Told(),
        Conditioner((column,)),
        Table.linear(),
        SHAPE[1:],
        training=Training(prediction="noise"),
        sampling=Sampling("ddim", STEPS, "trailing"),
    ).eval()
    labels = {"label": torch.arange(BATCH).double() % 10}
    twice = {"label": torch.cat([labels["label"]] * 2)}
    run = lambda n, condition, **how: torch.no_grad()(lambda: model.sample(n, condition, Draws(0, 0, n), **how))
    sides = {"ours": run(BATCH, labels, guidance=3.0), "a doubled batch": run(2 * BATCH, twice)}
    how: dict[str, Any] = {"rounds": 3 if quick else 7, "seconds": 0.01, "most": 400.0, "clock": clock}
    return [by_turns("guided sampling, one call a step", BATCH, sides, target=1.05, **how)]


# likelihood

TOLERANCE = 1e-5
LADDER = (1e-4, 5e-5, 3e-5, 2e-5, 1.5e-5, TOLERANCE)  # loosest first


def trained(size: int, hidden: tuple[int, ...], steps: int = 400) -> Diffusion:
    """A rectified flow on a bent mixture, after a short fit."""
    from cnf import data

    torch.manual_seed(1)
    model = Diffusion(
        Schema(Vector(size)),
        Compose([]),
        TimeMLP(size, hidden=hidden, scale=10.0),
        Conditioner(()),
        Rectified(),
        (size,),
        scoring=Scoring(Adaptive(1e-5), exact_up_to=64),
    )
    from pushforward.core.model import Batch

    x, optimiser = data(size, 20_000, 100), torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(steps):
        rows = x[torch.randint(0, len(x), (256,))]
        model(Batch(rows, Draws(step, 0, 256)))["loss"].mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval().requires_grad_(False)


def with_torchdiffeq(model: Diffusion, x: Tensor) -> Tensor:
    """The same velocity along the same path, every coordinate's gradient in a loop."""
    from torchdiffeq import odeint

    velocity = model.denoiser(None, len(x)).velocity(model.schedule)

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            value = velocity.at(t, y)
            trace = torch.zeros_like(state[1])
            for i in range(y.shape[1]):
                (row,) = torch.autograd.grad(value[:, i].sum(), y, retain_graph=i + 1 < y.shape[1])
                trace = trace + row[:, i]
        return value.detach(), trace

    with torch.no_grad():
        start = (x, torch.zeros(len(x)))
        z, score = odeint(augmented, start, torch.tensor([0.0, 1.0]), rtol=1e-5, atol=1e-5, method="dopri5")
    return score[-1] - 0.5 * z[-1].square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def likelihoods(quick: bool, clock: Callable[[], float]) -> list[Rates]:
    """At the same tolerance, and where ours errs less with the loosest one at which it errs no more than torchdiffeq."""
    from cnf import data

    found = []
    for size in (2,) if quick else (2, 8, 16):
        model, x = trained(size, (128, 128, 128)), data(size, 1000, 200)

        @torch.no_grad()
        def ours(tolerance: float, model: Diffusion = model, x: Tensor = x) -> Tensor:
            model.scoring = Scoring(Adaptive(tolerance), exact_up_to=64)
            return model.log_prob(x)

        with torch.no_grad():
            wide = copy.deepcopy(model).double()
            wide.scoring = Scoring(Adaptive(1e-10), exact_up_to=64)
            truth = wide.log_prob(x.double())
        error = lambda run, truth=truth: float((run() - truth).square().mean().sqrt())
        peer = partial(with_torchdiffeq, model, x)
        theirs = error(peer)
        loose = next((t for t in LADDER if error(partial(ours, t)) <= theirs), TOLERANCE)
        for label, tolerance in {"": TOLERANCE, ", at torchdiffeq's error": loose}.items():
            if label and loose == TOLERANCE:
                continue
            mine = partial(ours, tolerance)
            found.append(
                by_turns(
                    f"log p of 1000 rows, D={size}{label}",
                    1000,
                    {"ours": mine, "torchdiffeq": peer},
                    target=1 / 3,
                    error={"ours": error(mine), "torchdiffeq": theirs},
                    rounds=3 if quick else 7,
                    clock=clock,
                )
            )
    return found


PARTS = {"overhead": overhead, "sampling": sampling, "guided": guided, "likelihood": likelihoods}


def run(quick: bool = False, only: str = "", threads: int = 2) -> list[Entry]:
    found = run_parts(PARTS, quick, only, threads)
    return found if only else [*found, *diffusion_unet.run(quick, "", threads)]


if __name__ == "__main__":
    main(run, __doc__ or "", PARTS)
