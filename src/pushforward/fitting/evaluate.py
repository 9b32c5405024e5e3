"""What a model offers decides what is measured, always on rows it was not fitted on.

| verb | figures |
|---|---|
| score | −log p in nats and bits per dimension, with standard errors and the kind of density |
| sample | distances, two-sample tests, precision, recall, coverage, copies, samples per second (fitting/drawn) |
| encode | accuracy of a linear probe and of nearest neighbours, where the data have labels; how many latents say something |
| predict | accuracy, log loss, calibration error |
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.model import Encodes, Predicts, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Image, Points, Schema, Signal, Tokens, Vector
from pushforward.data.dataset import Data, Rows, Splits
from pushforward.fitting.chunks import chunk_size, in_chunks
from pushforward.fitting.drawn import large, measured, slow, some
from pushforward.fitting.figures import Evaluation, Metric
from pushforward.fitting.files import whole, write_arrays, write_json
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.loop import to_batch
from pushforward.fitting.progress import Progress
from pushforward.fitting.recipe import write_rows
from pushforward.fitting.steering import trajectory
from pushforward.metrics import classification, likelihood, probes
from pushforward.models.bound import Variational, active_units, warn_if_collapsed
from pushforward.models.gan import GAN

_BOUND_SAMPLES = 8  # draws in the bound of every lower_bound density, so that bounds are compared alike
_PROBED = 5000
_JUDGED = 1000
_SCORED, _TIMED, _PATIENCE = 10_000, 64, 60.0  # rows, rows by which the time is told, seconds
_WAYS = {"image": (8, 8), "points": (4, 8), "plane": (500, 6)}  # samples and frames from noise to data


def evaluate(fitted: Fitted, splits: Splits, *, seed: int = 0, quiet: bool = False) -> Evaluation:
    """Measure all that ``fitted`` offers on ``splits.test``; memorisation and probes also look at ``splits.train``."""
    return _evaluate(fitted, splits, seed, quiet)[0]


def _evaluate(fitted: Fitted, splits: Splits, seed: int, quiet: bool) -> tuple[Evaluation, Rows | None]:
    metrics: list[Metric] = []
    samples: Rows | None = None
    stages = [
        (Scores, _density),
        (Samples, None),
        (GAN, _critic),
        (Encodes, _codes),
        (Variational, _activity),
        (Predicts, _predictions),
    ]
    offered = [(capability, run) for capability, run in stages if isinstance(fitted.model, capability)]
    with Progress(f"evaluate {fitted.family.name}", quiet=quiet) as progress:
        for i, (_, run) in enumerate(offered):
            if run is None:
                samples, found = measured(fitted, splits, seed)
                metrics += found
            else:
                metrics += run(fitted, splits, seed)
            progress.update((i + 1) / len(offered))
    recipe = fitted.recipe
    metrics.append(Metric("parameters", "parameters", float(recipe["parameters"])))
    metrics.append(Metric("seconds", "training seconds", float(recipe["seconds"]), better="lower"))
    return Evaluation(fitted.family.name, tuple(metrics)), samples


def _density(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    model, kind = fitted.model, fitted.schema.example
    assert isinstance(model, Scores)
    late = slow(fitted)
    draws = _BOUND_SAMPLES if model.density_kind == "lower_bound" and model.weights_are_exact and not late else 1
    most = (256 if large(fitted.schema) else 1000) if late else _afforded(fitted, splits.test, draws)
    test = some(splits.test, most, seed)
    scored = fitted.score(test, samples=draws, seed=seed)
    found = likelihood.summary(scored.log_prob, kind.size, scored.kind, scored.levels)
    note = f"bound of {draws} draw{'s' if draws > 1 else ''}" if scored.kind == "lower_bound" else ""
    if found.nonfinite:
        note = f"{note}; {found.nonfinite} rows have no finite density".strip("; ")
    shared: dict[str, Any] = {"better": "lower", "kind": scored.kind, "n": found.n, "note": note}
    yield Metric("nats", "−log p (nats)", -found.nats_mean, found.standard_error, **shared)
    if offset := likelihood.eight_bit_offset(scored.levels):
        shared["note"] = f"{note}; in the 8-bit convention: {offset:+.2f} for {scored.levels} levels".strip("; ")
    yield Metric("bits_per_dim", "bits per dimension", found.bits_per_dim, found.bits_per_dim_standard_error, **shared)


def _afforded(fitted: Fitted, test: Data, draws: int) -> int:
    """How many rows to score: all, up to 10 000, or 1000 where those would take minutes."""
    few = test.select(slice(0, _TIMED))
    if len(few) < _TIMED:
        return _SCORED
    fitted.score(few.select(slice(0, 2)))  # a first pass may load kernels
    began = time.monotonic()
    fitted.score(few, samples=draws)
    return _SCORED if (time.monotonic() - began) * _SCORED / _TIMED < _PATIENCE else 1000


def _labels(data: Data, schema: Schema) -> np.ndarray | None:
    """Labels of the rows, where the data have some: the target, a condition that is a category, or images' labels."""
    columns = data.rows(slice(0, 1)).columns
    wanted = [schema.target, *schema.conditions]
    names = [c.name for c in wanted if isinstance(c, Column) and c.discrete and c.name in columns]
    names += [name for name in ("label",) if name in columns]
    return data.rows().columns[names[0]].numpy().astype(int) if names else None


def _codes(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    train, test = some(splits.train, _PROBED, seed), some(splits.test, _PROBED, seed)
    labels, wanted = _labels(train, fitted.schema), _labels(test, fitted.schema)
    if labels is None or wanted is None or len(np.unique(labels)) < 2:
        return
    if any(isinstance(c, Column) and c.discrete for c in fitted.schema.conditions):
        return  # the code was told the label
    slow = fitted.family.density == "ode"
    if slow and large(fitted.schema):
        train, test = train.select(slice(0, 500)), test.select(slice(0, 500))
        labels, wanted = labels[:500], wanted[:500]
    code, probe = fitted.encode(train), fitted.encode(test)
    linear = probes.linear_probe(code, labels, probe, wanted, seed=seed)
    near = probes.knn_accuracy(code, labels, probe, wanted, k=min(20, len(labels)))
    yield Metric("linear_probe", "linear probe accuracy", linear.value, linear.standard_error, "higher", n=len(wanted))
    yield Metric("knn", "k-NN accuracy", near.value, near.standard_error, "higher", n=len(wanted))


def _activity(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    """What the code of a model with latent variables carries, and of how many dimensions that is so."""
    model, test = fitted.model, some(splits.test, _PROBED, seed)
    assert isinstance(model, Variational)

    def look(x: Tensor, condition: dict[str, Tensor] | None, start: int, stop: int) -> Tensor:
        found = model.infer(model.see(x, condition), model.noise(Draws(seed, start, stop, len(test), fitted.device)))
        return torch.cat([found.rates.sum(1, keepdim=True), model.signals(x, condition).flatten(1)], 1)

    found = in_chunks("look at the code", test, fitted.schema, fitted.device, look, chunk_size(None, fitted.schema, 4))
    rate = likelihood.mean_with_error(found[:, 0])
    active = int(active_units(found[:, 1:].unflatten(1, (model.latent, -1))).sum())
    note = warn_if_collapsed(active, model.latent) or f"of {model.latent}"
    yield Metric("active_units", "active latent dimensions", float(active), note=note, n=len(test))
    yield Metric("rate", "nats in the code", rate.value, rate.standard_error, n=len(test))


def _critic(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    """What the critic knows of the distance from the data, and what is wrong with the samples."""
    model, test = fitted.model, some(splits.test, _JUDGED, seed)
    assert isinstance(model, GAN)
    batch = to_batch(test.rows(), fitted.schema, Draws(seed, 0, len(test), device=fitted.device), fitted.device)
    condition = batch.condition or None
    with torch.no_grad():
        found = model.critic_distance(batch.x, batch.draws, condition).distance
    note = "; ".join(model.warnings(batch.x, batch.draws.fork(1), condition)) or "of the Wasserstein-1 distance, from below"
    yield Metric("critic", "critic's bound", found.value, found.standard_error, n=len(test), note=note)


def _predictions(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    test = some(splits.test, 10_000, seed)
    assert fitted.schema.target is not None
    truth = test.rows().columns[fitted.schema.target.name].numpy().astype(int)
    probability = fitted.predict_proba(test)
    hit = classification.accuracy(probability.argmax(1), truth)
    loss = classification.log_loss(probability, truth)
    n = len(truth)
    yield Metric("accuracy", "accuracy", hit.value, hit.standard_error, "higher", n=n)
    yield Metric("log_loss", "log loss (nats)", loss.value, loss.standard_error, "lower", n=n)
    yield Metric("calibration", "calibration error", classification.calibration_error(probability, truth), None, "lower", n=n)


def density_grid(fitted: Fitted, real: Tensor, size: int = 96) -> dict[str, np.ndarray]:
    """log p of a two-dimensional vector on a grid around the data: grid_x (G,), grid_y (G,), log_density (G, G) as [y, x]."""
    low, high = real.amin(0), real.amax(0)
    margin = 0.15 * (high - low)
    axes = [np.linspace(float(a), float(b), size) for a, b in zip(low - margin, high + margin, strict=True)]
    points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    log_density = fitted.log_prob(points).reshape(size, size)
    return {"grid_x": axes[0], "grid_y": axes[1], "log_density": log_density, "kind": np.array(fitted.density_kind)}


def write_evaluation(fitted: Fitted, splits: Splits, run: Path, *, quiet: bool = False) -> Evaluation:
    """Evaluate and write what a report needs: evaluation.json, samples, density.npz, trajectory.npz, report.html."""
    from pushforward.fitting.report import write_report

    evaluation, samples = _evaluate(fitted, splits, 0, quiet)
    write_json(run / "evaluation.json", evaluation.to_json())
    if samples is not None:
        write_rows(run / "samples.npz", samples)
        write_user_samples(fitted, samples, run)
    kind = fitted.schema.example
    if isinstance(kind, Vector) and kind.length == 2 and isinstance(fitted.model, Scores) and not fitted.schema.conditions:
        real = fitted.preview.x if fitted.preview is not None else splits.test.rows().x
        write_arrays(run / "density.npz", density_grid(fitted, real))
    write_way(fitted, run)
    write_report([run], run / "report.html")
    return evaluation


def write_way(fitted: Fitted, run: Path) -> None:
    """trajectory.npz, codes x (N, frames, …) on the way from noise to data, where there is one and a picture of it."""
    kind = fitted.schema.example
    name = "plane" if isinstance(kind, Vector) and kind.length == 2 else kind.name
    if hasattr(fitted.model, "denoiser") and name in _WAYS:
        n, frames = _WAYS[name]
        write_arrays(run / "trajectory.npz", {"x": trajectory(fitted, n, frames=frames).x.unflatten(0, (n, frames)).numpy()})


def write_user_samples(fitted: Fitted, rows: Rows, run: Path) -> None:
    """Samples in a form people open: samples.png, .csv or .txt, or recordings in samples/. What is none of these is in
    samples.npz only."""
    kind = fitted.schema.example
    few = Rows(rows.x[:64], {n: c[:64] for n, c in rows.columns.items()})
    if isinstance(kind, Image):
        from pushforward.data.images import grid, save_png

        with whole(run / "samples.png") as temporary:
            save_png(grid(kind, few.x, columns=8), temporary)
        return
    if isinstance(kind, Signal) and kind.rate is not None:
        from pushforward.data.signals import save_wav

        for i, signal in enumerate(few.x.numpy()):
            with whole(run / "samples" / f"{i:04d}.wav") as temporary:
                save_wav(kind, signal, temporary)
    if isinstance(kind, (Signal, Points)):
        return
    decoded = fitted.decode(rows)
    if isinstance(kind, Tokens):
        with whole(run / "samples.txt") as temporary:
            temporary.write_text("\n".join(decoded[:64]) + "\n", encoding="utf-8")
        return
    with whole(run / "samples.csv") as temporary:
        if hasattr(decoded, "write_csv"):
            decoded.write_csv(temporary)
        elif hasattr(decoded, "to_csv"):
            decoded.to_csv(temporary, index=False)
        else:
            np.savetxt(
                temporary, np.asarray(decoded), delimiter=",", comments="", header=",".join(f"x{i}" for i in range(kind.size))
            )
