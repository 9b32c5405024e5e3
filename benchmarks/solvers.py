"""Tables for docs/diffusion.md: python benchmarks/solvers.py orders | quality RUN CLASSIFIER | guidance RUN CLASSIFIER |
straightened RUN RUN CLASSIFIER

``orders``: the error of every sampler for a mixture of normals whose denoiser is known, over a ladder of steps. ``quality``:
the Fréchet distance between samples of a run and held-out rows, in the features of a classifier fitted on the same data, for
samplers × steps. ``guidance``: what the strength of guidance does to the share of samples that the classifier takes for what
was asked for (fidelity) and to how far apart samples of one label lie, relative to the data's own (diversity).
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pushforward as pf
from pushforward.metrics.distances import frechet_gaussian

SAMPLES = 600


def orders() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "solvers"))
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import test_samplers as known

    ladder = (5, 10, 20, 40, 80, 160, 320)
    print("| sampler | " + " | ".join(f"{n} steps" for n in ladder) + " | order |")
    print("|---|" + "---|" * (len(ladder) + 1))
    truth = known.truth.__wrapped__() if hasattr(known.truth, "__wrapped__") else known.truth._get_wrapped_function()()
    path, first, _ = known.PATHS["vp"]
    x = known.start(path, first)
    for name, (_, run) in known.DETERMINISTIC.items():
        errors = [float((run(path, x, known.nodes("vp", n)) - truth["vp"]).norm(dim=1).mean()) for n in ladder]
        clear = [e for e in errors if e > 1e-11]
        order = math.log2(clear[-2] / clear[-1])
        print(f"| {name} | " + " | ".join(f"{e:.1e}" for e in errors) + f" | {order:.2f} |")


def _features(classifier: Any, images: Any) -> np.ndarray:
    return classifier.encode(images)


def quality(run: str, judge: str) -> None:
    model, classifier = pf.load(run), pf.load(judge)
    held = _held(model)
    real = _features(classifier, held[:SAMPLES])
    again = _features(classifier, held[SAMPLES : 2 * SAMPLES])
    print(f"other held-out rows: {frechet_gaussian(again, real):.3f}\n")
    ladder = (1, 2, 5, 10, 20, 50)
    print("| sampler | " + " | ".join(f"{n}" for n in ladder) + " | ms a step |")
    print("|---|" + "---|" * (len(ladder) + 1))
    cells: list[tuple[str, dict[str, Any]]] = [
        ("ddim", {}),
        ("dpm++2m", {"grid": "log-snr"}),
        ("dpm++2m", {"grid": "karras"}),
        ("unipc", {"grid": "log-snr"}),
        ("heun", {}),
        ("edm", {}),
        ("ddpm", {}),
        ("dpm++sde", {"grid": "log-snr"}),
        ("euler-maruyama", {"path": "vp"}),
    ]
    for sampler, how in cells:
        found, spent = [], 0.0
        for steps in ladder:
            began = time.monotonic()
            drawn = model.sample(SAMPLES, sampler=sampler, steps=steps, **how)
            spent = (time.monotonic() - began) / steps
            found.append(frechet_gaussian(_features(classifier, drawn), real))
        name = sampler + ("".join(f", {v}" for v in how.values()))
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in found) + f" | {1e3 * spent:.0f} |", flush=True)


def straightened(before: str, after: str, judge: str) -> None:
    """Few steps of Euler's method before and after."""
    classifier = pf.load(judge)
    print("| steps | before | after |\n|---|---|---|")
    one, two = pf.load(before), pf.load(after)
    real = _features(classifier, _held(one)[:SAMPLES])
    for steps in (1, 2, 4, 8):
        cells = [
            frechet_gaussian(_features(classifier, m.sample(SAMPLES, sampler="euler", steps=steps)), real) for m in (one, two)
        ]
        print(f"| {steps} | {cells[0]:.2f} | {cells[1]:.2f} |", flush=True)


def guidance(run: str, judge: str) -> None:
    model, classifier = pf.load(run), pf.load(judge)
    (column,) = model.schema.conditions
    labels = [column.categories[i % len(column.categories)] for i in range(SAMPLES)]
    held = _held(model)
    real = _features(classifier, held[:SAMPLES])
    own = _spread(real, np.asarray(classifier.predict(held[:SAMPLES])))
    print("| guidance | fidelity | diversity | Fréchet distance |\n|---|---|---|---|")
    for scale in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0):
        drawn = model.sample(
            SAMPLES, condition={column.name: labels}, guidance=scale, sampler="dpm++2m", grid="log-snr", steps=15
        )
        code, said = _features(classifier, drawn), np.asarray(classifier.predict(drawn))
        fidelity = float(np.mean(said.astype(str) == np.asarray(labels).astype(str)))
        apart = _spread(code, np.asarray(labels)) / own
        print(f"| {scale:g} | {fidelity:.3f} | {apart:.2f} | {frechet_gaussian(code, real):.2f} |", flush=True)


def _spread(code: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance between two of one label."""
    found = []
    for label in np.unique(labels.astype(str)):
        mine = torch.from_numpy(code[labels.astype(str) == label])
        if len(mine) > 1:
            found.append(float(torch.pdist(mine.double()).mean()))
    return float(np.mean(found))


def _held(model: Any) -> Tensor | np.ndarray:
    """Rows of the test set of the run's data."""
    from pushforward.data.sources import open_data

    data = open_data(model.recipe["data"]["name"])
    return model.decode(data.split(model.recipe["seed"]).test.rows(slice(0, 2 * SAMPLES)))


def main(words: list[str]) -> None:
    {"orders": orders, "quality": quality, "guidance": guidance, "straightened": straightened}[words[0]](*words[1:])


if __name__ == "__main__":
    main(sys.argv[1:] or ["orders"])
