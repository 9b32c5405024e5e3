"""All benchmarks: python benchmarks/run.py [--quick] [--json FILE]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import autoregressive
import bounds
import cnf
import diffusion
import distances
import flows
import gpt
import imports
import mixture
import pixelcnn
import sampling
import trainer
from harness import Entry, main


def run(quick: bool) -> list[Entry]:
    entries: list[Entry] = []
    for module in (
        imports,
        trainer,
        mixture,
        sampling,
        flows,
        cnf,
        diffusion,
        autoregressive,
        pixelcnn,
        gpt,
        bounds,
        distances,
    ):
        print(f"… {module.__name__}", file=sys.stderr, flush=True)
        entries += module.run(quick)
    return entries


if __name__ == "__main__":
    main(run, __doc__ or "")
