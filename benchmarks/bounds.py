"""log p of pictures of two levels under many rows of logits, and its gradient: the kernel beside tensor operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Entry, compare, main
from torch import Tensor

from pushforward.models.blocks import Binary, Block


def run(quick: bool = False) -> list[Entry]:
    pictures, draws, size = (32, 50, 784) if quick else (256, 50, 784)
    block, e = Binary(size), (torch.rand(pictures, size) < 0.13).float()
    entries: list[Entry] = []
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        logits = torch.randn(pictures * draws, size, 1).to(dtype).requires_grad_()
        found, truth = block.log_likelihood(logits, e), Block.log_likelihood(block, logits, e)
        assert float((found - truth).detach().abs().max()) < 1e-2
        for what, slope in (("alone", False), ("with its gradient", True)):

            def side(
                way: Callable[[Tensor, Tensor], Tensor], logits: Tensor = logits, slope: bool = slope
            ) -> Callable[[], object]:
                def go() -> object:
                    if slope:
                        return torch.autograd.grad(way(logits, e).sum(), logits)
                    with torch.no_grad():
                        return way(logits, e)

                return go

            ours = lambda side=side: side(block.log_likelihood)
            peer = lambda side=side: side(lambda p, e: Block.log_likelihood(block, p, e))
            line = f"log p of {pictures} × {draws} draws, {size} pixels, {name}, {what}"
            entries.append(compare(line, "tensor operations", ours, peer, rounds=3 if quick else 7))
    return entries


if __name__ == "__main__":
    main(run, __doc__ or "")
