"""Bias and variance of gradient estimators against exact gradients: python benchmarks/estimators.py

Two variables of three classes and a function of them that is enumerated, and a normal with a function whose mean is known.
Given are, for the gradient of one draw (of leave-one-out: of four), the length of its bias and its standard deviation, both
as shares of the length of the true gradient. The picture goes to docs/images/estimators.png, or where an argument says.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.algorithms import estimators

ROWS = 200_000
WIDE = torch.float64
LOGITS = torch.tensor([[0.3, -0.4, 0.9], [-0.2, 0.7, 0.1]], dtype=WIDE)
TABLE = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=WIDE) + 2.0
TEMPERATURES = [2.0 * 0.8**k for k in range(16)]
SPREADS = [0.1 * 1.25**k for k in range(15)]
MEAN = 0.6


def categorical(z: Tensor) -> Tensor:
    """Of two variables z (…, 2, K)."""
    value = torch.einsum("...i,ij,...j->...", z[..., 0, :], TABLE, z[..., 1, :])
    return value + 0.5 * value.square()


def exact() -> tuple[Tensor, Tensor]:
    """The mean of the function, and its gradient."""
    logits = LOGITS.clone().requires_grad_()
    log_p, eye = logits.log_softmax(-1), torch.eye(3, dtype=WIDE)
    pairs = itertools.product(range(3), repeat=2)
    value = torch.stack(
        [(log_p[0, i] + log_p[1, j]).exp() * categorical(torch.stack([eye[i], eye[j]])) for i, j in pairs]
    ).sum()
    return value.detach(), torch.autograd.grad(value, logits)[0]


def judged(estimator: Callable[[Tensor], Tensor], rows: int) -> tuple[float, float]:
    """Bias and deviation of the gradient of one row, as shares of the true one's length."""
    logits, truth = LOGITS.expand(rows, 2, 3).clone().requires_grad_(), exact()[1]
    (slope,) = torch.autograd.grad(estimator(logits).sum(), logits)
    return float((slope.mean(0) - truth).norm() / truth.norm()), float(slope.var(0).sum().sqrt() / truth.norm())


def of_categories() -> dict[str, list[tuple[float, float]]]:
    """Bias and deviation of each estimator, at each temperature where it has one."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(ROWS, 2, 3, generator=generator, dtype=WIDE)
    four = torch.rand(4, ROWS, 2, 3, generator=generator, dtype=WIDE)
    mean = float(exact()[0])
    return {
        "Gumbel-softmax": [judged(lambda l, t=t: estimators.relaxed(categorical, l, u, t), ROWS) for t in TEMPERATURES],
        "straight-through": [
            judged(lambda l, t=t: estimators.straight_through(categorical, l, u, t), ROWS) for t in TEMPERATURES
        ],
        "score function": [judged(lambda l: estimators.score_function(categorical, l, u), ROWS)],
        "with its mean as baseline": [judged(lambda l: estimators.score_function(categorical, l, u, mean), ROWS)],
        "leave-one-out of four": [judged(lambda l: estimators.leave_one_out(categorical, l, four), ROWS)],
    }


def of_normals() -> dict[str, list[float]]:
    """The deviation of the gradient of E (z³ + z²) to μ at each σ, as a share of the true one 3μ² + 3σ² + 2μ."""
    noise = torch.randn(ROWS, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    found: dict[str, list[float]] = {"reparameterised": [], "score function": [], "with its mean as baseline": []}
    for s in SPREADS:
        truth, value = 3 * MEAN**2 + 3 * s**2 + 2 * MEAN, MEAN**3 + 3 * MEAN * s**2 + MEAN**2 + s**2
        ways = (
            (estimators.reparameterised, ()),
            (estimators.normal_score_function, (0.0,)),
            (estimators.normal_score_function, (value,)),
        )
        for name, (way, more) in zip(found, ways, strict=True):
            mean, log_std = (torch.full((ROWS,), v, dtype=WIDE, requires_grad=True) for v in (MEAN, math.log(s)))
            (slope,) = torch.autograd.grad(way(lambda z: z**3 + z**2, mean, log_std, noise, *more).sum(), mean)
            found[name].append(float(slope.std()) / truth)
    return found


def draw(of: dict[str, list[tuple[float, float]]], normals: dict[str, list[float]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"Gumbel-softmax": "#4c72b0", "straight-through": "#dd8452", "reparameterised": "#4c72b0"}
    colours |= {"score function": "#c44e52", "with its mean as baseline": "#8172b3", "leave-one-out of four": "#55a868"}
    figure, (bias, spread, normal) = plt.subplots(1, 3, figsize=(12, 3.8), constrained_layout=True)
    for name, values in of.items():
        whole = values if len(values) > 1 else values * len(TEMPERATURES)
        style = "-" if len(values) > 1 else "--"
        if len(values) > 1:
            bias.plot(TEMPERATURES, [b for b, _ in whole], style, color=colours[name], label=name)
        spread.plot(TEMPERATURES, [d for _, d in whole], style, color=colours[name], label=name)
    bias.axhline(0, color=colours["score function"], linestyle="--", label="score function, any baseline")
    for name, line in normals.items():
        normal.plot(SPREADS, line, color=colours[name], label=name)
    titles = ("categories: bias", "categories: standard deviation", "a normal: standard deviation")
    for axis, title, label in zip((bias, spread, normal), titles, ("temperature", "temperature", "σ"), strict=True):
        axis.set(title=title, xlabel=label, xscale="log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    for axis in (spread, normal):
        axis.set_yscale("log")
        ticks = [t for t in (0.3, 0.5, 1, 2, 3, 5) if axis.get_ylim()[0] < t < axis.get_ylim()[1]]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    for axis, ticks in ((bias, (0.1, 0.2, 0.5, 1, 2)), (spread, (0.1, 0.2, 0.5, 1, 2)), (normal, (0.1, 0.2, 0.5, 1, 2))):
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    bias.set_ylabel("share of the true gradient's length")
    figure.savefig(path, dpi=110)


def main(path: str = "docs/images/estimators.png") -> None:
    torch.set_num_threads(2)
    of, normals = of_categories(), of_normals()
    print("| estimator | temperature | bias | standard deviation |\n|---|---|---|---|")
    for name, values in of.items():
        for t, (b, d) in list(zip(TEMPERATURES, values, strict=False))[:: 5 if len(values) > 1 else 1]:
            print(f"| {name} | {f'{t:.2f}' if len(values) > 1 else ''} | {b:.3f} | {d:.2f} |")
    print("\n| σ | " + " | ".join(normals) + " |\n|---|" + "---|" * len(normals))
    for i in range(0, len(SPREADS), 7):
        print(f"| {SPREADS[i]:.2f} | " + " | ".join(f"{line[i]:.2f}" for line in normals.values()) + " |")
    draw(of, normals, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
