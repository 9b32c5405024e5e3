"""EM for Gaussian mixtures with full covariances beside scikit-learn: the same rows, the same start, as many iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import Entry, compare, main

from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.data.dataset import Data, TensorStore
from pushforward.fitting.direct import DirectFit
from pushforward.fitting.distributed import Processes
from pushforward.fitting.history import History
from pushforward.fitting.loop import Job
from pushforward.fitting.options import Training
from pushforward.models.mixture import GaussianMixture


def _rows(rows: int, dims: int, components: int, apart: float) -> np.ndarray:
    """Rows of a mixture whose components are ``apart`` in deviations of one number of their common covariance."""
    rng = np.random.default_rng(0)
    centres = apart * rng.normal(size=(components, dims))
    return centres[rng.integers(components, size=rows)] + rng.normal(size=(rows, dims)) @ rng.normal(size=(dims, dims))


def _alike(x: np.ndarray, components: int) -> tuple[GaussianMixture, Any]:
    """Ours and scikit-learn's with the same parameters."""
    from sklearn.mixture import GaussianMixture as Peer

    dims = x.shape[1]
    model = GaussianMixture(Schema(Vector(dims)), Compose([]), dims, components=components)
    model.start(torch.from_numpy(x[:20_000]), Draws(0, 0, min(20_000, len(x))))
    begun = {"weights_init": model.weights, "means_init": model.means, "precisions_init": torch.linalg.inv(model.covariances)}
    peer = Peer(
        components, covariance_type="full", reg_covar=0.0, tol=0, max_iter=1, **{n: t.numpy().copy() for n, t in begun.items()}
    )
    peer._initialize(x[:components], np.eye(components))
    return model, peer


def run(quick: bool = False) -> list[Entry]:
    from threadpoolctl import threadpool_limits

    rows, dims, components = (20_000 if quick else 200_000), 16, 16
    iterations, rounds = (3, 3) if quick else (5, 7)
    what = f"N={rows // 1000}k D={dims} K={components}"

    def sides(x: np.ndarray) -> tuple[Callable[[], Callable[[], object]], Callable[[], Callable[[], object]]]:
        schema = Schema(Vector(dims))
        data = Data.of(schema, TensorStore(torch.from_numpy(x)))
        training = Training(steps=iterations, device="cpu", precision="float32").with_defaults({})

        def ours() -> Callable[[], object]:
            model, _ = _alike(x, components)
            fit = DirectFit(Job(model, data, data, training, Processes("cpu")), History())

            @torch.no_grad()
            def go() -> None:
                for _ in range(iterations):
                    model.update(fit._sums(0))

            return go

        def peer() -> Callable[[], object]:
            _, peer = _alike(x, components)

            def go() -> None:
                with threadpool_limits(1):
                    for _ in range(iterations):
                        # what GaussianMixture.fit does in each iteration
                        _, responsibilities = peer._e_step(x)
                        peer._m_step(x, responsibilities)

            return go

        return ours, peer

    entries: list[Entry] = []
    for name, apart in (("apart", 4.0), ("overlapping", 0.5)):
        x = _rows(rows, dims, components, apart)
        _agree(x, components, iterations)
        ours, peer = sides(x)
        entries.append(
            compare(f"{iterations} EM iterations, {what}, {name}", "scikit-learn", ours, peer, rounds=rounds, target=1 / 7)
        )

    def scored_ours() -> Callable[[], object]:
        model, _ = _alike(x, components)
        batches = [Batch(part, Draws(0, 0, len(part))) for part in torch.from_numpy(x).split(4096)]
        return torch.no_grad()(lambda: [model.log_prob(b.x) for b in batches])

    def scored_peer() -> Callable[[], object]:
        peer = _alike(x, components)[1]
        return lambda: peer.score_samples(x)

    return [*entries, compare(f"log densities, {what}", "scikit-learn", scored_ours, scored_peer, rounds=rounds)]


def _agree(x: np.ndarray, components: int, iterations: int) -> None:
    """Raises where the two do not have the same likelihood in every iteration, to 1e-6."""
    model, peer = _alike(x, components)
    seen = model.digest(Batch(torch.from_numpy(x), Draws(0, 0, len(x))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(iterations):
            theirs, responsibilities = peer._e_step(x)
            peer._m_step(x, responsibilities)
            ours = model.update(model.e_step(seen))
            assert abs(ours - theirs) < 1e-6, f"likelihoods of {ours} and {theirs}"


if __name__ == "__main__":
    main(run, __doc__ or "")
