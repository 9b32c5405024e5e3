"""EM for Gaussian mixtures with full covariances beside scikit-learn: the same rows, components and iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable

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


def run(quick: bool = False) -> list[Entry]:
    from sklearn.mixture import GaussianMixture as Peer
    from threadpoolctl import threadpool_limits

    rows, dims, components = (20_000 if quick else 100_000), 16, 16
    iterations, rounds = (3, 3) if quick else (5, 7)
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(components, dims))
    x = centres[rng.integers(components, size=rows)] + rng.normal(size=(rows, dims)) @ rng.normal(size=(dims, dims))
    schema = Schema(Vector(dims))
    data = Data.of(schema, TensorStore(torch.from_numpy(x)))
    training = Training(steps=iterations, device="cpu", precision="float32").with_defaults({})
    job = Job(GaussianMixture(schema, Compose([]), dims, components=components), data, data, training, Processes("cpu"))

    def ours() -> Callable[[], object]:
        model = GaussianMixture(schema, Compose([]), dims, components=components)
        first = x[:20_000]
        model.start(torch.from_numpy(first), Draws(0, 0, len(first)))
        job.model = model
        fit = DirectFit(job, History())

        @torch.no_grad()
        def go() -> None:
            for _ in range(iterations):
                model.update(fit._sums(0))

        return go

    def peer() -> Callable[[], object]:
        peer = Peer(components, covariance_type="full", tol=0, max_iter=1, init_params="random_from_data", random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer.fit(x[:2000])

        def go() -> None:
            with threadpool_limits(1):
                for _ in range(iterations):
                    # what GaussianMixture.fit does in each iteration
                    _, responsibilities = peer._e_step(x)
                    peer._m_step(x, responsibilities)

        return go

    def scored_ours() -> Callable[[], object]:
        ours()
        model, rows = job.model, torch.from_numpy(x)
        batches = [Batch(part, Draws(0, 0, len(part))) for part in rows.split(4096)]
        return torch.no_grad()(lambda: [model.log_prob(b.x) for b in batches])

    def scored_peer() -> Callable[[], object]:
        peer = Peer(components, covariance_type="full", tol=0, max_iter=1, init_params="random_from_data", random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer.fit(x[:2000])
        return lambda: peer.score_samples(x)

    what = f"N={rows // 1000}k D={dims} K={components}"
    return [
        compare(f"{iterations} EM iterations, {what}", "scikit-learn", ours, peer, rounds=rounds),
        compare(f"log densities, {what}", "scikit-learn", scored_ours, scored_peer, rounds=rounds),
    ]


if __name__ == "__main__":
    main(run, __doc__ or "")
