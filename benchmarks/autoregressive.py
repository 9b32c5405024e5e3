"""Sampling MADE and NADE at 784 dimensions beside nflows' MADE and the textbook loop of NADE; and NADE's training step.

``made real`` draws from nflows' own mixture of Gaussians and ours of logistics, five components each; ``made binary`` from
Bernoullis through nflows' network of the same size. There is no NADE to install: the peer makes the sums anew for every element
and ``running`` is the best that torch's operations do, the running sums of the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Clock, Entry, by_turns, main, run_parts
from torch import Tensor, nn

from pushforward.catalog import FAMILIES
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Kind, Schema, Vector
from pushforward.models.autoregressive import Autoregressive

D, HIDDEN = 784, 500
PIXELS = Image(1, 28, 28, levels=2)


def ours(name: str, kind: Kind, **options: object) -> Autoregressive:
    """Our model with random weights that draw an eighth of ones, as pictures of digits have."""
    family = FAMILIES[name]
    model = family.build(Schema(kind), family.configure(options))
    assert isinstance(model, Autoregressive)
    torch.manual_seed(0)
    model.prepare(torch.randn(500, D) if isinstance(kind, Vector) else (torch.rand(500, 1, 28, 28) < 0.13).to(torch.uint8))
    with torch.no_grad():
        for p in model.net.parameters():
            p.copy_(torch.randn(p.shape) / (p.shape[1] ** 0.5 if p.dim() > 1 else 10))
    return model.eval()


def drawing(model: Autoregressive, batch: int) -> Callable[[], Tensor]:
    seeds = iter(range(1 << 30))
    return lambda: model.sample(batch, None, Draws(next(seeds), 0, batch))


def nflows_loop(net: nn.Module, batch: int) -> Callable[[], Tensor]:
    """A pass of the whole network for every element."""

    @torch.no_grad()
    def go() -> Tensor:
        x = torch.zeros(batch, D)
        for i in range(D):
            x[:, i] = torch.bernoulli(net(x)[:, i].sigmoid())
        return x

    return go


def nade_anew(model: Autoregressive, batch: int) -> Callable[[], Tensor]:
    """The hidden units of every element from all elements before it."""
    w, v = model.net.input.weight.t().contiguous(), model.net.output.weight
    b, c = model.net.output.bias, model.net.input.bias

    @torch.no_grad()
    def go() -> Tensor:
        x = torch.zeros(batch, D)
        for i in range(D):
            h = torch.sigmoid(c + x[:, :i] @ w[:i])
            x[:, i] = torch.bernoulli(torch.sigmoid(h @ v[i] + b[i]))
        return x

    return go


def nade_loop(model: Autoregressive, batch: int) -> Callable[[], Tensor]:
    """The running sums of the paper, element by element."""
    w, v = model.net.input.weight.t().contiguous(), model.net.output.weight
    b, c = model.net.output.bias, model.net.input.bias

    @torch.no_grad()
    def go() -> Tensor:
        a, drawn = c.expand(batch, -1), []
        for i in range(D):
            p = torch.sigmoid(torch.sigmoid(a) @ v[i : i + 1].t() + b[i])
            x = torch.bernoulli(p)
            a = a + x @ w[i : i + 1]
            drawn.append(x)
        return torch.cat(drawn, 1)

    return go


def made(quick: bool, clock: Clock) -> list[Entry]:
    from nflows.nn.nde.made import MixtureOfGaussiansMADE
    from nflows.transforms.made import MADE

    real = MixtureOfGaussiansMADE(D, HIDDEN, context_features=1, num_blocks=2, use_residual_blocks=False).eval()
    binary = MADE(D, HIDDEN, num_blocks=2, use_residual_blocks=False).eval()
    hidden, found = (HIDDEN, HIDDEN), []
    for batch, target in ((1, 1 / 8), (64, 1 / 40)):
        for name, kind, peer in (
            ("real", Vector(D), lambda batch=batch: real.sample(1, torch.zeros(batch, 1))),
            ("binary", PIXELS, nflows_loop(binary, batch)),
        ):
            sides = {"ours": drawing(ours("made", kind, hidden=hidden), batch), "nflows": peer}
            rounds = 3 if quick else 7
            found.append(by_turns(f"made {name} D={D} batch {batch}", batch, sides, rounds=rounds, clock=clock, target=target))
    return found


def nade(quick: bool, clock: Clock) -> list[Entry]:
    found = []
    for batch, target in ((1, 1 / 8), (64, 1 / 40)):
        model = ours("nade", PIXELS, units=HIDDEN)
        sides = {"ours": drawing(model, batch), "sums anew": nade_anew(model, batch), "running": nade_loop(model, batch)}
        how = {"rounds": 3 if quick else 7, "clock": clock, "target": target, "floors": ("running",)}
        found.append(by_turns(f"nade binary D={D} batch {batch}", batch, sides, **how))
    return found


PARTS = {"made": made, "nade": nade}


def run(quick: bool = False, only: str = "", threads: int = 2) -> list[Entry]:
    return run_parts(PARTS, quick, only, threads)


if __name__ == "__main__":
    main(run, __doc__ or "", PARTS)
