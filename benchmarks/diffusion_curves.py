"""Loss curves of the U-Net beside diffusers' from the same weights on the same batches: python benchmarks/diffusion_curves.py

DDPM's loss of the noise on fashion-mnist: the same pictures, noises and times for every side, batch 64, AdamW at 2e-4. Given
are the losses on 1024 held-out pictures with noise of their own, always the same, in float32, and the seconds that training
took.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from peers_unet import answer, diffusers_unet, like
from torch import Tensor, nn

from pushforward.data.sources import open_data
from pushforward.paths.table import Table

BATCH, HELD, EVERY = 64, 1024, 50


def main(steps: int = 300) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    data = open_data("fashion-mnist").split(0)
    pictures, held = (part.sample(n, 0).x.float() / 127.5 - 1 for part, n in ((data.train, 20_000), (data.validation, HELD)))
    table, draw = Table.linear(), torch.Generator().manual_seed(1)

    def noised(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.randint(1, 1001, (len(x),), generator=generator) / 1000
        noise = torch.randn(x.shape, generator=generator)
        alpha, sigma = (f(t.double()).float().view(-1, 1, 1, 1) for f in (table.alpha, table.sigma))
        return alpha * x + sigma * noise, t, noise

    batches = [noised(pictures[torch.randint(len(pictures), (BATCH,), generator=draw)], draw) for _ in range(steps)]
    tried = noised(held, draw)
    peer: Any = diffusers_unet(28)
    ours = like(peer)
    says: dict[str, tuple[nn.Module, Callable[[Any, Tensor, Tensor], Tensor], bool]] = {
        "diffusers": (copy.deepcopy(peer), lambda net, x, t: answer(net, x, t), False),
        "diffusers bf16": (copy.deepcopy(peer), lambda net, x, t: answer(net, x, t), True),
        "ours": (copy.deepcopy(ours), lambda net, x, t: net(x, t), False),
        "ours bf16": (copy.deepcopy(ours), lambda net, x, t: net(x, t), True),
    }
    found: dict[str, list[float]] = {}
    for name, (net, run, half) in says.items():
        optimiser, spent, curve = torch.optim.AdamW(net.parameters(), lr=2e-4, fused=True), 0.0, []
        for step, (x, t, noise) in enumerate(batches, 1):
            began = time.perf_counter()
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                said = run(net, x, t)
            (said.float() - noise).square().mean().backward()
            optimiser.step()
            spent += time.perf_counter() - began
            if step % EVERY == 0:
                with torch.no_grad():
                    parts = zip(*(v.split(128) for v in tried), strict=True)
                    curve.append(sum(float((run(net, x, t) - e).square().sum()) for x, t, e in parts) / tried[0].numel())
        found[name] = [*curve, spent]
        print(name, *(f"{v:.4f}" for v in curve), f"{spent:.0f} s", file=sys.stderr, flush=True)
    print("| steps | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for i, step in enumerate(range(EVERY, steps + 1, EVERY)):
        print(f"| {step} | " + " | ".join(f"{curve[i]:.4f}" for curve in found.values()) + " |")
    print("| seconds | " + " | ".join(f"{curve[-1]:.0f}" for curve in found.values()) + " |")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
