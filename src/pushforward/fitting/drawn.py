"""What is measured of samples, beside rows that the model was not fitted on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from pushforward.core.model import Scores
from pushforward.core.random import mix
from pushforward.core.schema import Image, Points, Schema, Signal, Table
from pushforward.data.dataset import Data, Rows, Splits, TensorStore
from pushforward.fitting.features import features, told
from pushforward.fitting.figures import Metric
from pushforward.fitting.fitted import Fitted
from pushforward.metrics import distances, memorisation, tables, two_sample
from pushforward.metrics.calibration import density_calibration
from pushforward.metrics.features import random_convolutions
from pushforward.metrics.frechet import frechet_of_features
from pushforward.metrics.neighbourhoods import neighbourhoods

_NUMBERS = 20_000_000  # numbers of training rows that samples are compared with
_SAMPLED = 1000
_TOLD_APART = 10  # fewer test rows than that teach a classifier nothing: the figure is left out
_PICTURE = 8  # pixels a side from which convolutions see more than pixels
_SEEN = 64  # features of pictures, of which there are to be fewer than pictures
_RANKED = 500  # samples and unseen rows whose densities are compared
_BALLS = 20  # rows from which neighbourhoods say something


def some(data: Data, limit: int, seed: int) -> Data:
    """At most ``limit`` rows at random."""
    if len(data) <= limit:
        return data
    return data.select(np.sort(np.random.default_rng((seed, 0x7E57)).choice(len(data), limit, replace=False)))


def large(schema: Schema) -> bool:
    """Whether an example is so many numbers that fewer of them are looked at."""
    return isinstance(schema.example, (Image, Signal, Points)) and schema.example.size > 256


def slow(fitted: Fitted) -> bool:
    """Whether its density costs tens of passes of a network or more: those of an ODE, or of a random order, for each row."""
    model = fitted.model
    assert isinstance(model, Scores)
    by_ode = model.density_kind == "ode" or fitted.family.density == "ode"
    return by_ode or (model.random and not model.weights_are_exact) or getattr(model, "score_steps", 0) > 16


def measured(fitted: Fitted, splits: Splits, seed: int) -> tuple[Rows, list[Metric]]:
    """Samples, and their figures."""
    schema = fitted.schema
    test = some(splits.test, _SAMPLED, seed)
    n = min(512 if large(schema) else _SAMPLED, max(64, len(test)))
    fitted.sample_rows(1, seed=seed)  # a first draw may load kernels
    began = time.monotonic()
    drawn = fitted.sample_rows(n, seed=mix(seed, 0xE7A1))
    per_second = n / (time.monotonic() - began)
    real = test.rows()

    def seen(rows: Rows) -> np.ndarray:
        # with conditions it is pairs (x, c) that must look alike
        return np.concatenate([features(schema, rows.x, real.x), *told(schema, rows, real)], 1)

    speed = Metric("samples_per_second", "samples per second", per_second, better="higher", n=n)
    if len(test) < 2:
        return drawn, [speed]
    fake, true = seen(drawn), seen(real)
    most = max(_SAMPLED, min(5000, _NUMBERS // schema.example.size))
    train = seen(some(splits.train, most, seed).rows())
    shared: dict[str, Any] = {"better": "lower", "n": n}
    distance = distances.sliced_wasserstein(fake, true, seed=seed)
    energy = distances.energy_distance(fake, true)
    metrics = [
        Metric("sliced_wasserstein", "sliced Wasserstein", distance.value, distance.standard_error, **shared),
        Metric("energy", "energy distance", energy.value, energy.standard_error, **shared),
    ]
    if len(test) >= _TOLD_APART:
        apart = two_sample.classifier_two_sample(fake, true, seed=seed, limit=1000)
        note = "0.5: a classifier cannot tell samples from data"
        metrics.append(Metric("c2st", "two-sample accuracy", apart.accuracy, apart.standard_error, note=note, **shared))
    near = memorisation.nearest_neighbours(fake, train, true, seed=seed)
    note = "distance to training rows over that of unseen rows: near 0 copies, near 1 is new"
    metrics.append(Metric("memorisation", "nearest-neighbour ratio", near.ratio, near.ratio_standard_error, n=n, note=note))
    if isinstance(fitted.model, Scores) and not slow(fitted):
        metrics.append(_ranks(fitted, drawn, test, seed))
    if min(len(fake), len(true)) >= _BALLS:
        metrics += _neighbourhoods(schema, drawn, real, fake, true)
    if isinstance(schema.example, Table):
        metrics += _table(fitted, drawn, real, fake, train, true, seed)
    metrics.append(speed)
    return drawn, metrics


def _ranks(fitted: Fitted, drawn: Rows, test: Data, seed: int) -> Metric:
    """Whether unseen rows are as likely as samples: log p of both, which a model with the wrong spread tells apart."""
    mine = Data.of(fitted.schema, TensorStore(drawn.x, drawn.columns))
    own, other = (fitted.log_prob(rows, seed=seed) for rows in (mine.select(slice(0, _RANKED)), test.select(slice(0, _RANKED))))
    found = density_calibration(np.nan_to_num(other, nan=-np.inf), np.nan_to_num(own, nan=-np.inf), seed=seed)
    mean = found.mean.value
    note = (
        f"of ranks of log p; unseen rows are less likely than {1 - mean:.0%} of samples (50% if right), p {found.p_value:.2g}"
    )
    return Metric("calibration_ranks", "gap of ranks", found.ks, None, "lower", n=found.samples, note=note)


def _neighbourhoods(schema: Schema, drawn: Rows, real: Rows, fake: np.ndarray, true: np.ndarray) -> Iterator[Metric]:
    """Precision, recall and coverage among features; of pictures those of random convolutions, with their Fréchet distance."""
    kind, made_by = schema.example, "features"
    if isinstance(kind, Image) and min(kind.height, kind.width) >= _PICTURE:
        extractor, scale = random_convolutions(kind.channels, _SEEN), max(1, kind.levels - 1)
        fake, true = (extractor(rows.x.float() / scale) for rows in (drawn, real))
        made_by = "random convolutions"
        if min(len(fake), len(true)) > 2 * fake.shape[1]:
            found = frechet_of_features(fake, true, extractor)
            note = f"less its bias of {found.bias:.2g}; {str(found).split(' (', 1)[1].rstrip(')')}"
            yield Metric("frechet", "Fréchet distance", found.corrected, found.standard_error, "lower", n=len(fake), note=note)
    near = neighbourhoods(true, fake)
    about = {
        "precision": "share of samples among the data",
        "recall": "share of data among the samples",
        "coverage": "share of data with a sample nearby; about 0.97 where nothing is wrong",
    }
    for name, note in about.items():
        value = getattr(near, name)
        yield Metric(name, name, value.value, value.standard_error, "higher", n=len(fake), note=f"{note}, by {made_by}")


def _table(
    fitted: Fitted, drawn: Rows, real: Rows, fake: np.ndarray, train: np.ndarray, true: np.ndarray, seed: int
) -> Iterator[Metric]:
    """How columns look one by one and two by two, which gives the samples away, and whether training rows are copied."""
    kind = fitted.schema.example
    assert isinstance(kind, Table)
    mine, yours = (rows.x.numpy() for rows in (drawn, real))
    discrete = [i for i, column in enumerate(kind.learned) if column.discrete]
    for name, label, find in (
        ("column_shapes", "column shapes", tables.column_shapes),
        ("pair_trends", "pair trends", tables.pair_trends),
    ):
        if name == "pair_trends" and len(kind.learned) < 2:
            continue
        found = find(yours, mine, discrete).mean
        yield Metric(name, label, found.value, found.standard_error, "higher", n=len(mine), note="1: as in the data")
    if min(len(mine), len(yours)) >= _TOLD_APART:
        names = [column.name for column in kind.learned]
        worst, apart = next(iter(two_sample.columns_two_sample(mine, yours, names, seed=seed).items()))
        note = f"the column '{worst}' gives samples away most; 0.5: none does"
        yield Metric("c2st_column", "worst column", apart.accuracy, apart.standard_error, "lower", n=len(mine), note=note)
    closest = memorisation.closest_record(fake, train, true, seed=seed)
    note = f"share of samples nearer to {closest.records} training rows than to as many unseen ones: 0.5 is new, 1 copies"
    yield Metric("closest_record", "closest is a training row", closest.share.value, closest.share.standard_error, note=note)
