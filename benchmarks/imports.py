"""What it costs to start: the help text, the import, and all that a first fit loads beyond torch."""

from __future__ import annotations

import sys

from harness import Entry, main, measure

_FIT = """
import numpy as np
import pushforward as pf
pf.fit(np.random.default_rng(0).normal(size=(64, 2)), {family!r}, steps=1, quiet=True)
"""


def run(quick: bool = False) -> list[Entry]:
    rounds = 3 if quick else 7
    python = [sys.executable, "-c"]
    return [
        measure("python starts", [*python, "pass"], rounds=rounds),
        measure("import pushforward", [*python, "import pushforward"], rounds=rounds),
        measure("pushforward --help", [sys.executable, "-m", "pushforward", "--help"], rounds=rounds, target=0.3),
        measure("pushforward models", [sys.executable, "-m", "pushforward", "models"], rounds=rounds),
        measure("import torch", [*python, "import torch"], rounds=rounds),
        measure("import torch, torch.optim and torch._dynamo", [*python, "import torch.optim, torch._dynamo"], rounds=rounds),
        measure("import pushforward.fitting.fit", [*python, "import pushforward.fitting.fit"], rounds=rounds),
        measure("a first fit of a step (gaussian)", [*python, _FIT.format(family="gaussian")], rounds=rounds),
        measure("a first fit of a step (nice)", [*python, _FIT.format(family="nice")], rounds=rounds),
    ]


if __name__ == "__main__":
    main(run, __doc__ or "")
