"""The picture and figures of docs/adversarial.md, from runs that are made where there are none:

python docs/images/grid.py runs/grid docs/images/grid.png
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np

import pushforward as pf

mpl.use("Agg")
from matplotlib import pyplot as plt

STD, ROWS, SAMPLES = 0.05, 20_000, 10_000


def bells(turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of 25 normal distributions of deviation 0.05 on a grid of step 2, turned by ``turn``, and their centres."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(*2 * [np.arange(-4.0, 5.0, 2.0)]), -1).reshape(-1, 2)
    x = centres[rng.integers(25, size=ROWS)] + STD * rng.standard_normal((ROWS, 2))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return x @ rotation, centres @ rotation


def main(runs: Path, out: Path, families: tuple[str, ...] = ("gan", "wgan-gp")) -> None:
    """Fit each family on the grid and on one that is turned, keep the last averages; print what it found, and draw it."""
    figure, axes = plt.subplots(2, len(families) + 1, figsize=(3.2 * (len(families) + 1), 6.6), squeeze=False)
    for row, turn in zip(axes, (0.0, 0.5), strict=True):
        x, centres = bells(turn)
        shown = {"data": x[:2000]}
        for name in families:
            run = runs / f"{name}-{turn}"
            busy = time.process_time()
            fitted = pf.load(run) if run.exists() else pf.fit(x, name, out=run, report=False, quiet=True)
            used = time.process_time() - busy
            samples = np.asarray(fitted.sample(SAMPLES))
            apart = np.linalg.norm(samples[:, None] - centres, axis=2)
            near = apart.min(1) < 3 * STD
            found = np.bincount(apart.argmin(1)[near], minlength=25)
            uneven = 0.5 * np.abs(found / max(1, found.sum()) - 1 / 25).sum()
            print(
                f"{name}, turned by {turn}: {(found > 0).sum()} modes, {(found >= 20).sum()} with 20 samples or more, "
                f"{near.mean():.0%} within 3 deviations, total variation of the modes' shares {uneven:.2f}, "
                f"{used:.0f} s of processor time",
                flush=True,
            )
            shown[name] = samples[:2000]
        for axis, (name, points) in zip(row, shown.items(), strict=True):
            axis.plot(*points.T, ".", markersize=2, alpha=0.5, color="#2a6f97" if name == "data" else "#bc4749")
            axis.set(title=name, xlim=(-6.2, 6.2), ylim=(-6.2, 6.2), aspect="equal", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
