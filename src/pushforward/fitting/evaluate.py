"""What a model offers decides what is measured, always on rows it was not fitted on.

| verb | figures |
|---|---|
| score | −log p in nats and bits per dimension, with standard errors and the kind of density |
| sample | sliced Wasserstein, energy distance, classifier two-sample test, nearest-neighbour ratio, samples per second |
| encode | accuracy of a linear probe and of nearest neighbours, where the data have labels |
| predict | accuracy, log loss, calibration error |

Samples are compared in features: numbers standardised by the test rows, categories one-hot, missing values as an
indicator, pixels in [−1, 1], samples of a signal standardised together, and of sets of points what their order does not
change (``outline``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.model import Encodes, Predicts, Samples, Scores
from pushforward.core.random import mix
from pushforward.core.schema import Column, Image, Kind, Part, Points, Schema, Signal, Table, Tokens, Vector
from pushforward.data.dataset import Data, Rows, Splits
from pushforward.fitting.files import whole, write_arrays, write_json
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.progress import Progress
from pushforward.fitting.recipe import write_rows
from pushforward.fitting.steering import trajectory
from pushforward.metrics import classification, distances, likelihood, memorisation, probes, two_sample

_BOUND_SAMPLES = 8  # draws in the bound of every lower_bound density, so that bounds are compared alike
_PROBED = 5000
_NUMBERS = 20_000_000  # numbers of training rows that samples are compared with
_DIRECTIONS = 24  # in which sets of points are seen from the side
_CELLS = 16  # averages of sorted places in each
_SAMPLED = 1000
_WAYS = {"image": (8, 8), "points": (4, 8), "plane": (500, 6)}  # samples and frames from noise to data
_TOLD_APART = 10  # fewer test rows than that teach a classifier nothing: the figure is left out


@dataclass(frozen=True)
class Metric:
    """One figure. ``better`` is lower, higher or None; ``kind`` the kind of density, if any; ``n`` the rows it is from."""

    name: str
    label: str
    value: float
    standard_error: float | None = None
    better: str | None = None
    kind: str | None = None
    n: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model."""

    family: str
    metrics: tuple[Metric, ...]

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; non-finite values as null."""
        metrics = [
            {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(m).items()}
            for m in self.metrics
        ]
        return {"family": self.family, "metrics": metrics}


def evaluate(fitted: Fitted, splits: Splits, *, seed: int = 0, quiet: bool = False) -> Evaluation:
    """Measure all that ``fitted`` offers on ``splits.test``; memorisation and probes also look at ``splits.train``."""
    return _evaluate(fitted, splits, seed, quiet)[0]


def _evaluate(fitted: Fitted, splits: Splits, seed: int, quiet: bool) -> tuple[Evaluation, Rows | None]:
    metrics: list[Metric] = []
    samples: Rows | None = None
    stages = [(Scores, _density), (Samples, None), (Encodes, _codes), (Predicts, _predictions)]
    offered = [(capability, run) for capability, run in stages if isinstance(fitted.model, capability)]
    with Progress(f"evaluate {fitted.family.name}", quiet=quiet) as progress:
        for i, (_, run) in enumerate(offered):
            if run is None:
                samples, found = _samples(fitted, splits, seed)
                metrics += found
            else:
                metrics += run(fitted, splits, seed)
            progress.update((i + 1) / len(offered))
    recipe = fitted.recipe
    metrics.append(Metric("parameters", "parameters", float(recipe["parameters"])))
    metrics.append(Metric("seconds", "training seconds", float(recipe["seconds"]), better="lower"))
    return Evaluation(fitted.family.name, tuple(metrics)), samples


def _some(data: Data, limit: int, seed: int) -> Data:
    """At most ``limit`` rows at random."""
    if len(data) <= limit:
        return data
    return data.select(np.sort(np.random.default_rng((seed, 0x7E57)).choice(len(data), limit, replace=False)))


def _large(schema: Schema) -> bool:
    return isinstance(schema.example, (Image, Signal, Points)) and schema.example.size > 256


def _density(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    model, kind = fitted.model, fitted.schema.example
    assert isinstance(model, Scores)
    # an ODE density costs a hundred passes of the network or more
    slow = not model.weights_are_exact or model.density_kind == "ode" or fitted.family.density == "ode"
    slow = slow or getattr(model, "score_steps", 0) > 16  # one pass of the network for each of the steps of a random order
    test = _some(splits.test, (256 if _large(fitted.schema) else 1000) if slow else 10_000, seed)
    draws = _BOUND_SAMPLES if model.density_kind == "lower_bound" and model.weights_are_exact and not slow else 1
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


def features(schema: Schema, x: Tensor, reference: Tensor) -> np.ndarray:
    """Codes as numbers between which distances mean something, (N, F); scales are those of the codes ``reference``."""
    kind = schema.example
    if isinstance(kind, Image):
        return (x.flatten(1).double() * (2 / max(1, kind.levels - 1)) - 1).numpy()
    if isinstance(kind, Tokens):
        return torch.nn.functional.one_hot(x, len(kind.vocabulary)).flatten(1).double().numpy()
    if isinstance(kind, (Signal, Points)):
        alike = _alike(kind, x, reference)
        return (alike.flatten(1) if isinstance(kind, Signal) else outline(alike)).numpy()
    columns = kind.learned if isinstance(kind, Table) else [None] * kind.size
    parts = []
    for i, column in enumerate(columns):
        value, ref = x[:, i].double(), reference[:, i].double()
        if column is not None and column.discrete:
            # one-hot vectors of different categories are as far apart as numbers one deviation apart
            parts.append(torch.nn.functional.one_hot(value.long(), column.levels).double() / math.sqrt(2))
            continue
        mean = ref.nanmean().nan_to_num()
        std = (ref - mean).square().nanmean().sqrt().nan_to_num().clamp(min=1e-9)
        # a wild sample is wrong enough at ten deviations; further out it would drown all else
        parts.append(((value - mean) / std).nan_to_num(0.0, 10.0, -10.0).clamp(-10, 10)[:, None])
        if column is not None and column.missing:
            parts.append(value.isnan().double()[:, None])
    return torch.cat(parts, 1).numpy()


def _alike(kind: Kind, x: Tensor, reference: Tensor) -> Tensor:
    """Signals with one mean and deviation for all samples of a channel, by those of ``reference``; points with one mean for
    each coordinate and one deviation for all, which keeps their shapes."""
    ref, shared = reference.double(), (0, 2) if isinstance(kind, Signal) else (0, 1)
    mean = ref.mean(shared, keepdim=True)
    std = (ref - mean).square().mean((0, 2) if isinstance(kind, Signal) else (0, 1, 2), keepdim=True).sqrt().clamp(min=1e-9)
    return ((x.double() - mean) / std).nan_to_num(0.0, 10.0, -10.0).clamp(-10, 10)


def outline(x: Tensor) -> Tensor:
    """Sets of points (B, P, d) as numbers (B, F) that do not depend on the order of the points.

    The points are projected on fixed directions, the axes first, and sorted on each; the sorted places are averaged in up to 16
    cells. The distance between two rows, over √F, is then about the sliced Wasserstein distance between the two sets.
    """
    count, dims = x.shape[1:]
    rng = np.random.default_rng(0)
    turns = [np.eye(dims)] + [np.linalg.qr(rng.normal(size=(dims, dims)))[0] for _ in range(_DIRECTIONS // dims - 1)]
    directions = torch.from_numpy(np.concatenate(turns[: 1 if dims == 1 else None], 1))
    places = (x.double() @ directions).sort(1).values.transpose(1, 2)  # (B, directions, P)
    return torch.nn.functional.adaptive_avg_pool1d(places, min(count, _CELLS)).flatten(1)


def _samples(fitted: Fitted, splits: Splits, seed: int) -> tuple[Rows, list[Metric]]:
    schema = fitted.schema
    test = _some(splits.test, _SAMPLED, seed)
    n = min(512 if _large(schema) else _SAMPLED, max(64, len(test)))
    fitted.sample_rows(1, seed=seed)  # a first draw may load kernels
    began = time.monotonic()
    drawn = fitted.sample_rows(n, seed=mix(seed, 0xE7A1))
    per_second = n / (time.monotonic() - began)
    real = test.rows()

    def seen(rows: Rows) -> np.ndarray:
        # with conditions it is pairs (x, c) that must look alike
        return np.concatenate([features(schema, rows.x, real.x), *_told(schema, rows, real)], 1)

    speed = Metric("samples_per_second", "samples per second", per_second, better="higher", n=n)
    if len(test) < 2:
        return drawn, [speed]
    fake, true = seen(drawn), seen(real)
    most = max(_SAMPLED, min(5000, _NUMBERS // schema.example.size))
    train = seen(_some(splits.train, most, seed).rows())
    shared: dict[str, Any] = {"better": "lower", "n": n}
    distance = distances.sliced_wasserstein(fake, true, seed=seed)
    energy = distances.energy_distance(fake, true)
    metrics = [
        Metric("sliced_wasserstein", "sliced Wasserstein", distance.value, distance.standard_error, **shared),
        Metric("energy", "energy distance", energy.value, energy.standard_error, **shared),
    ]
    if len(test) >= _TOLD_APART:
        told = two_sample.classifier_two_sample(fake, true, seed=seed, limit=1000)
        note = "0.5: a classifier cannot tell samples from data"
        metrics.append(Metric("c2st", "two-sample accuracy", told.accuracy, told.standard_error, note=note, **shared))
    near = memorisation.nearest_neighbours(fake, train, true, seed=seed)
    note = "distance to training rows over that of unseen rows: near 0 copies, near 1 is new"
    metrics.append(Metric("memorisation", "nearest-neighbour ratio", near.ratio, near.ratio_standard_error, n=n, note=note))
    metrics.append(speed)
    return drawn, metrics


def _told(schema: Schema, rows: Rows, real: Rows) -> Iterator[np.ndarray]:
    """Features of the conditions: of numbers, categories and vectors. Texts and pictures would drown the example."""
    columns = tuple(c for c in schema.conditions if isinstance(c, Column))
    if columns:
        codes, ref = (torch.stack([r.columns[c.name].double() for c in columns], 1) for r in (rows, real))
        yield features(Schema(Table(columns)), codes, ref)
    for c in schema.conditions:
        if isinstance(c, Part) and isinstance(c.kind, Vector):
            yield features(Schema(c.kind), rows.columns[c.name], real.columns[c.name])


def _labels(data: Data, schema: Schema) -> np.ndarray | None:
    """Labels of the rows, where the data have some: the target, a condition that is a category, or images' labels."""
    columns = data.rows(slice(0, 1)).columns
    wanted = [schema.target, *schema.conditions]
    names = [c.name for c in wanted if isinstance(c, Column) and c.discrete and c.name in columns]
    names += [name for name in ("label",) if name in columns]
    return data.rows().columns[names[0]].numpy().astype(int) if names else None


def _codes(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    train, test = _some(splits.train, _PROBED, seed), _some(splits.test, _PROBED, seed)
    labels, wanted = _labels(train, fitted.schema), _labels(test, fitted.schema)
    if labels is None or wanted is None or len(np.unique(labels)) < 2:
        return
    if any(isinstance(c, Column) and c.discrete for c in fitted.schema.conditions):
        return  # the code was told the label
    slow = fitted.family.density == "ode"
    if slow and _large(fitted.schema):
        train, test = train.select(slice(0, 500)), test.select(slice(0, 500))
        labels, wanted = labels[:500], wanted[:500]
    code, probe = fitted.encode(train), fitted.encode(test)
    linear = probes.linear_probe(code, labels, probe, wanted, seed=seed)
    near = probes.knn_accuracy(code, labels, probe, wanted, k=min(20, len(labels)))
    yield Metric("linear_probe", "linear probe accuracy", linear.value, linear.standard_error, "higher", n=len(wanted))
    yield Metric("knn", "k-NN accuracy", near.value, near.standard_error, "higher", n=len(wanted))


def _predictions(fitted: Fitted, splits: Splits, seed: int) -> Iterator[Metric]:
    test = _some(splits.test, 10_000, seed)
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
