"""What the verbs of a fitted model cost beside the same net called by hand: random numbers by rows, chunks, decoding."""

from __future__ import annotations

import numpy as np
import torch
from harness import Entry, compare, main

import pushforward as pf


def run(quick: bool = False) -> list[Entry]:
    rounds, n = (3, 20_000) if quick else (9, 50_000)
    x = np.random.default_rng(0).normal(size=(4000, 16))
    fitted = pf.fit(x, "nice", steps=20, quiet=True)
    model = fitted.model
    rows = np.random.default_rng(1).normal(size=(n, 16))

    @torch.no_grad()
    def sample_by_hand() -> None:
        for part in torch.randn(n, 16).split(1024):
            model.transform.push(part)  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def score_by_hand() -> None:
        for part in torch.from_numpy(rows).split(1024):
            model.log_prob(part)  # type: ignore[operator]

    name = "nice, 16 numbers"
    return [
        compare(f"sample, {name}", "the net by hand", lambda: lambda: fitted.sample(n), lambda: sample_by_hand, rounds=rounds),
        compare(
            f"log_prob, {name}", "the net by hand", lambda: lambda: fitted.log_prob(rows), lambda: score_by_hand, rounds=rounds
        ),
    ]


if __name__ == "__main__":
    main(run, __doc__ or "")
