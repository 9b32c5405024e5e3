"""Tables for docs/diffusion.md: python benchmarks/solvers.py orders | completion | quality RUN CLASSIFIER |
guidance RUN CLASSIFIER | straightened RUN … CLASSIFIER

``orders``: the error of every sampler for a mixture of normals whose denoiser is known, over a ladder of steps.
``completion``: what each way of completing draws, where the conditional is known. ``quality``:
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


def straightened(*words: str) -> None:
    """Few steps of Euler's method, or of a model's own where it has no flow, run by run."""
    classifier, models = pf.load(words[-1]), [pf.load(run) for run in words[:-1]]
    print("| steps | " + " | ".join(Path(run).name for run in words[:-1]) + " |\n|---|" + "---|" * len(models))
    real = _features(classifier, _held(models[0])[:SAMPLES])
    own: list[dict[str, Any]] = [{"sampler": "euler"} if "encode" in m.family.verbs else {} for m in models]
    for steps in (1, 2, 4, 8):
        drawn = [m.sample(SAMPLES, steps=steps, **how) for m, how in zip(models, own, strict=True)]
        cells = [f"{frechet_gaussian(_features(classifier, x), real):.2f}" for x in drawn]
        print(f"| {steps} | " + " | ".join(cells) + " |", flush=True)


def completion() -> None:
    """One number given the other, of a mixture of normals whose denoiser and conditional are known."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models"))
    import test_models_diffusion as known

    from gaussians import THREE, WIDE
    from pushforward.core.random import Draws

    n, given = 4000, 0.3
    # p(x_2 | x_1): a mixture again, weighed by how well each part explains x_1
    m, v = THREE.means, THREE.stds.square()
    weight = THREE.weights * (-0.5 * (given - m[:, 0]).square() / v).exp() / v.sqrt()
    weight = weight / weight.sum()
    mean = float((weight * m[:, 1]).sum())
    deviation = float((weight * (v + m[:, 1].square())).sum() - mean**2) ** 0.5
    model = known.build(known.knowing(THREE, known.Rectified(), "v"))
    x = torch.tensor([[given, 0.0]], dtype=WIDE).expand(n, -1)
    seen = torch.tensor([[True, False]]).expand(n, -1)
    print(f"mean {mean:.3f}, deviation {deviation:.3f}\n\n| method | steps | calls | mean | deviation |\n|---|---|---|---|---|")
    ways: list[tuple[str, dict[str, Any]]] = [("replace", {"method": "replace"})]
    ways += [(f"repaint, {k} times", {"repeats": k}) for k in (2, 4, 10, 30)]
    ways = [(name, {"method": "repaint", **how} if "repeats" in how else how) for name, how in ways]
    ways += [("posterior", {"method": "posterior"})]
    ways += [(f"{k} particles", {"method": "particles", "particles": k}) for k in (4, 16, 64)]
    for name, how in ways:
        for steps in (30, 100):
            with torch.no_grad():
                drawn = model.complete(x, seen, None, Draws(0, 0, n), steps=steps, **how)[:, 1]
            calls = steps * (3 if name == "posterior" else how.get("repeats", how.get("particles", 1)))
            print(f"| {name} | {steps} | {calls} | {drawn.mean():.3f} | {drawn.std():.3f} |", flush=True)


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
    tables = {
        "orders": orders,
        "completion": completion,
        "quality": quality,
        "guidance": guidance,
        "straightened": straightened,
    }
    tables[words[0]](*words[1:])


if __name__ == "__main__":
    main(sys.argv[1:] or ["orders"])
