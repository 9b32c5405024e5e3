"""Sinkhorn beside POT's log domain at one ε and one marginal error, and all two-sample metrics on 10,000 × 64 samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from harness import Clock, Entry, Part, by_turns, main, run_parts

from pushforward import metrics

_SINKHORN = 1 / 20  # the target: at most so much of the peer's time


def sinkhorn(quick: bool, clock: Clock) -> Iterator[Entry]:
    """1,024 points a side; POT stops at a 2-norm of the column sums' error, which ours is made to reach as well."""
    import ot

    n = 256 if quick else 1024
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 2)), 0.7 * rng.normal(size=(n, 2)) + 1
    cost, weights = np.square(x[:, None] - y[None]).sum(2), np.full(n, 1 / n)
    for epsilon, error in ((0.1, 1e-6), (0.1, 1e-9), (0.03, 1e-6), (0.01, 1e-5)):

        def peer(scale: float = epsilon * cost.mean(), error: float = error) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                settings = {"method": "sinkhorn_log", "stopThr": error, "numItermax": 100_000}
                return ot.sinkhorn(weights, weights, cost, scale, **settings)

        # ours stops at the sum of absolute errors of the rows: at the one that POT's plan has in its columns
        tolerance = float(np.abs(peer().sum(0) - weights).sum())

        def ours(epsilon: float = epsilon, tolerance: float = tolerance) -> np.ndarray:
            return metrics.sinkhorn(x, y, epsilon, tolerance=tolerance, iterations=100_000).plan()

        sides: dict[str, Callable[[], np.ndarray]] = {"ours": ours, "pot": peer}
        truth = metrics.sinkhorn(x, y, epsilon, tolerance=1e-12, iterations=100_000).plan()
        errors = {side: float(np.abs(plan() - truth).sum()) for side, plan in sides.items()}
        name = f"sinkhorn n={n} ε={epsilon:g} error {error:g}"
        yield by_turns(name, 1, sides, rounds=5, clock=clock, error=errors, target=_SINKHORN)


def together(quick: bool, clock: Clock) -> Iterator[Entry]:
    """Each metric by itself, then all of them; no peer."""
    n = 2000 if quick else 10_000
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 64)), 1.02 * rng.normal(size=(n, 64))
    raw = metrics.raw()
    measures: dict[str, Callable[[], object]] = {
        "sliced Wasserstein": partial(metrics.sliced_wasserstein, x, y),
        "energy distance": partial(metrics.energy_distance, x, y),
        "MMD": partial(metrics.mmd, x, y),
        "KID": partial(metrics.kid, x, y),
        "Fréchet with its error": partial(metrics.frechet_of_features, x, y, raw),
        "precision, recall, density, coverage": partial(metrics.neighbourhoods, y, x),
        "Friedman–Rafsky": partial(metrics.friedman_rafsky, x, y),
        "classifier, logistic": partial(metrics.classifier_two_sample, x, y, classifier="logistic"),
        "classifier, boosted trees": partial(metrics.classifier_two_sample, x, y, classifier="boosted"),
        "classifier of each column": partial(metrics.columns_two_sample, x, y),
        "column shapes": partial(metrics.column_shapes, y, x),
        "Sinkhorn divergence of 1,000 rows": partial(metrics.sinkhorn_divergence, x[:1000], y[:1000]),
    }

    def every() -> None:
        for measure in measures.values():
            measure()

    alone = {"classifier, network and trees": partial(metrics.classifier_two_sample, x, y)}
    for name, measure in (*measures.items(), ("all of these", every), *alone.items()):
        yield by_turns(name, n, {"ours": measure}, rounds=3, seconds=0, clock=clock)


_PARTS: dict[str, Part] = {"sinkhorn": sinkhorn, "together": together}


def run(quick: bool = False, only: str = "", threads: int = 1) -> list[Entry]:
    return run_parts(_PARTS, quick, only, threads)


if __name__ == "__main__":
    main(run, __doc__ or "", list(_PARTS))
