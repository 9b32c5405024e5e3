"""A flow fitted to an unnormalised density p̃ = Z p given as a function: variational inference.

    KL(q ‖ p) = E_q[log q(x) − log p̃(x)] + log Z,    x = push(z), z ~ base

is minimised over the flow q by samples that carry gradients (Rezende & Mohamed 2015, arXiv:1505.05770). Of the two parts of the
gradient, through the sample x and through the parameters of log q at x, the second has mean zero; ``estimator`` "path" leaves
it out, whereupon the noise vanishes where q = p (Roeder et al. 2017, arXiv:1703.09194), at the price of a pull for every push;
"total" keeps it. What q misses is then mended, and Z found, by importance weights p̃/q (metrics/importance).
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import pushforward
from pushforward.catalog import FAMILIES, Family, family
from pushforward.core.errors import DataError, RecipeError, TrainingDiverged, Unsupported
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Schema, Vector
from pushforward.data.bounds import Ends, vector_ends
from pushforward.fitting.distributed import reproducible
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.history import Record
from pushforward.fitting.loop import Callback
from pushforward.fitting.progress import Progress
from pushforward.fitting.recipe import make_recipe
from pushforward.fitting.target import FLAT, LogDensity, Place, Target
from pushforward.metrics._arrays import Estimate
from pushforward.metrics.importance import Importance, importance
from pushforward.models.flow import Flow

_TRAINING, _WEIGHTS = 0x7D, 0x1E  # streams of the seed
_SKIPPED = 50  # steps in a row without a finite gradient
_VALIDATE = 40


@dataclass
class FittedDensity:
    """A flow q fitted to ``target``; ``fitted`` has its other verbs (encode, interpolate, complete, …).

    ``seen`` is what the search for a start found of p, with normal proposals: a check that is independent of q.
    """

    fitted: Fitted
    target: Target
    history: list[Record] = field(default_factory=list)
    seen: Importance | None = None

    @property
    def flow(self) -> Flow:
        """The model itself."""
        assert isinstance(self.fitted.model, Flow)
        return self.fitted.model

    def sample(self, n: int, *, seed: int = 0, **options: Any) -> Any:
        """``n`` draws from q, (n, D)."""
        return self.fitted.sample(n, seed=seed, **options)

    def log_prob(self, x: Any) -> np.ndarray:
        """log q(x), normalised, (N,)."""
        return self.fitted.log_prob(x)

    @torch.no_grad()
    def log_weights(self, n: int, *, seed: int = 0, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """``n`` draws x from q, (n, D), and log p̃(x) − log q(x) of each, (n,), float64."""
        if n < 1:
            raise RecipeError(f"the number of draws must be at least 1, found {n}")
        xs, weights = [], []
        with Progress("weigh") as progress:
            for start in range(0, n, chunk):
                stop = min(start + chunk, n)
                draws = Draws(mix(seed, _WEIGHTS), start, stop, n, self.flow.device)
                x, log_q = self.flow.sample_and_log_prob(stop - start, None, draws)
                xs.append(x)
                weights.append(self.target(x).double() - log_q.double())
                progress.update(stop / n)
        return torch.cat(xs), torch.cat(weights)

    def importance(self, n: int = 10_000, *, seed: int = 0) -> Importance:
        """log Z with its standard error, the effective sample size and the Pareto diagnostic, from ``n`` weighted draws."""
        return importance(self.log_weights(n, seed=seed)[1])

    def effective_sample_size(self, n: int = 10_000, *, seed: int = 0) -> float:
        """How many independent draws from p the ``n`` draws from q are worth, 0 … n."""
        return self.importance(n, seed=seed).effective

    def log_normaliser(self, n: int = 10_000, *, seed: int = 0) -> Estimate:
        """log Z in nats with its standard error.

        Weights do not show what q never draws: the reverse KL may settle on one of several far modes, and log Z is then that of
        this mode alone. Warns where the weights are too uneven to be trusted, and where the search for a start saw more.
        """
        found = self.importance(n, seed=seed)
        value = found.log_normaliser
        if not found.trustworthy:
            warnings.warn(f"{found}; fit longer, or with a larger family", stacklevel=2)
        elif self.seen is not None and self.seen.trustworthy:
            seen = self.seen.log_normaliser
            if seen.value - value.value > 0.01 + 5 * math.hypot(seen.standard_error, value.standard_error):
                warnings.warn(
                    f"log Z = {value}, but the search for a start saw {seen}: the fit misses part of the density; fit with a "
                    "larger anneal=, more steps=, base='mixture' or another seed=",
                    stacklevel=2,
                )
        return value

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a run folder that ``load`` reads; the density itself is a function, and is not kept."""
        return self.fitted.save(path, force=force)


def fit_to_density(
    log_density: LogDensity,
    example: int | Schema,
    family_name: str = "nsf",
    *,
    bounds: Mapping[Any, Ends] | Ends | None = None,
    points: Any = None,
    steps: int = 3000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    clip: float = 10.0,
    estimator: Literal["path", "total"] = "path",
    anneal: float = 0.3,
    seed: int = 0,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
    **options: Any,
) -> FittedDensity:
    """Fit the flow ``family_name`` to the density proportional to exp ``log_density``.

    ``log_density`` takes a tensor (B, D) to (B,) nats by differentiable operations; ``example`` is D, or a schema of what q
    draws. ``bounds`` is (lower, upper) for all coordinates or {index: (lower, upper)}, with None where there is no end: q has
    no mass outside. ``points`` (N, D), a few hundred of about the right place and scale (draws of the prior, say), are what q
    starts from; without them a search from the standard normal finds a start. For the first ``anneal`` of the steps the density
    is a bridge from a wide normal to the one given. ``estimator`` is that of the gradient. ``dtype`` is the type of the points
    that ``log_density`` gets, torch's default unless given. ``callback`` gets a Record forty times (its loss includes the
    bridge's) and stops the fit by returning False. ``options`` are the family's own. Raises PushforwardError in one clear line,
    also for a density that is not finite where q draws.
    """
    dtype = dtype or torch.get_default_dtype()
    fam = family(family_name)
    if not fam.flow:
        able = [f.name for f in FAMILIES.values() if f.flow]
        raise Unsupported(f"{fam.name} cannot be fitted to a density, only flows can: {', '.join(able)}")
    schema = _schema(example, bounds, dtype)
    settings = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "clip": clip,
        "estimator": estimator,
        "anneal": anneal,
        "seed": seed,
    }
    _check(settings)
    config = fam.configure(options)
    with reproducible(mix(seed, 0x1417)):
        flow = _flow(fam, schema, config)
    if device is not None:
        try:
            flow.to(device)
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    began = time.monotonic()
    target, place = Target(log_density, dtype, flow.device), Place(flow)
    if points is None:
        place.search(target, seed)
    else:
        place.take(_points(points, schema).to(flow.device))
    flow.prepare(place.points())
    records = _descend(flow, target, place, settings, callback, Progress(f"fit {fam.name} to a density", quiet=quiet))
    none = {"train": 0, "validation": 0, "test": 0}
    recipe = make_recipe(
        fam,
        config,
        schema,
        training=settings,
        seed=seed,
        data={"name": getattr(log_density, "__name__", "density"), "rows": none, "notes": []},
        parameters=sum(p.numel() for p in flow.parameters()),
        versions={"pushforward": pushforward.__version__, "torch": torch.__version__.split("+")[0]},
        seconds=time.monotonic() - began,
        steps=records[-1].step,
    )
    return FittedDensity(Fitted(flow, fam, schema, recipe), target, records, place.seen)


def _descend(
    flow: Flow,
    target: Target,
    place: Place,
    settings: Mapping[str, Any],
    callback: Callback | None,
    show: Progress,
) -> list[Record]:
    """Adam with a learning rate that rises for a moment and falls along a cosine to nothing."""
    steps, size = settings["steps"], settings["batch_size"]
    parameters = [p for p in flow.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=settings["learning_rate"], fused=flow.device.type in ("cpu", "cuda"))
    judge = copy.deepcopy(flow).requires_grad_(False) if settings["estimator"] == "path" else None
    judged: list[Tensor] = list(judge.parameters()) if judge is not None else []
    current: list[Tensor] = list(flow.parameters())
    records: list[Record] = []
    total, count, skipped, began, every = 0.0, 0, 0, time.monotonic(), max(1, steps // _VALIDATE)
    flow.train()
    with show as progress:
        for step in range(steps):
            pace = min(1.0, (step + 1) / (0.02 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = settings["learning_rate"] * pace
            draws = Draws(mix(settings["seed"], _TRAINING, step), 0, size, device=flow.device)
            if judge is None:
                x, log_q = flow.sample_and_log_prob(size, None, draws)
            else:
                with torch.no_grad():
                    torch._foreach_copy_(judged, current)
                x = flow.sample(size, None, draws)
                log_q = judge.log_prob(x, None, draws)
            log_p = target.learn(x).to(log_q.dtype)
            bridge = settings["anneal"] * steps
            if step < bridge:
                beta = FLAT + (1 - FLAT) * step / bridge
                log_p = beta * log_p + (1 - beta) * place.log_wide(x).to(log_p.dtype)
            loss = (log_q - log_p).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, settings["clip"] or math.inf)
            if bool(norm.isfinite()):
                optimiser.step()
                flow.after_step("model")
            skipped = 0 if bool(norm.isfinite()) else skipped + 1
            if skipped >= _SKIPPED:
                raise TrainingDiverged(
                    f"the gradient was not finite for {skipped} steps, at last at step {step + 1}: look whether log_density "
                    "has a finite gradient everywhere, or use a smaller learning_rate"
                )
            total, count = total + float(loss.detach()), count + 1
            if (step + 1) % every == 0 or step + 1 == steps:
                seconds, rate = time.monotonic() - began, optimiser.param_groups[0]["lr"]
                records.append(Record(step + 1, 0.0, seconds, total / count, learning_rate=rate))
                total, count = 0.0, 0
                if callback is not None and callback(records[-1]) is False:
                    break
            if progress.due():
                progress.update((step + 1) / steps, loss=float(loss.detach()))
    flow.eval()
    return records


def _schema(example: int | Schema, bounds: Mapping[Any, Ends] | Ends | None, dtype: torch.dtype) -> Schema:
    if isinstance(example, Schema):
        if bounds is not None:
            raise RecipeError("give the bounds in the schema, or the number of dimensions and bounds=, not both")
        if example.conditions or example.target is not None:
            raise Unsupported("a density is fitted without conditions and target: give a schema that has none")
        return example
    if isinstance(example, bool) or not isinstance(example, int) or example < 1:
        raise RecipeError(f"the second argument is the number of dimensions, at least 1, or a schema: found {example!r}")
    ends = vector_ends(bounds, example, "the density") if bounds is not None else None
    return Schema(Vector(example, "torch", str(dtype).removeprefix("torch."), ends))


def _check(settings: Mapping[str, Any]) -> None:
    for name, least in (("steps", 1), ("batch_size", 1), ("clip", 0), ("anneal", 0)):
        if settings[name] < least:
            raise RecipeError(f"{name} must be at least {least}, found {settings[name]}")
    if not settings["anneal"] < 1:
        raise RecipeError(f"anneal is the share of the steps along the bridge, below 1, found {settings['anneal']}")
    if not settings["learning_rate"] > 0:
        raise RecipeError(f"learning_rate must be above 0, found {settings['learning_rate']}")
    if settings["estimator"] not in ("path", "total"):
        raise RecipeError(f"estimator is path or total, found {settings['estimator']!r}")


def _flow(fam: Family, schema: Schema, config: Any) -> Flow:
    """The untrained flow. Raises Unsupported for data that are not continuous, and for a density that is but estimated."""
    model = fam.build(schema, config)
    assert isinstance(model, Flow)
    if model.transform.stochastic:
        raise Unsupported("a density is fitted over continuous numbers: the schema has levels, grids or gaps")
    if not model.weights_are_exact:
        raise Unsupported(f"{fam.name} with these options estimates its own density: for this, take trace='exact'")
    return model


def _points(points: Any, schema: Schema) -> Tensor:
    found = torch.as_tensor(np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points), dtype=torch.float64)
    if found.shape[1:] != schema.example.shape or not len(found) or not bool(found.isfinite().all()):
        raise DataError(
            f"points have shape {tuple(found.shape)}: expected (N, {', '.join(map(str, schema.example.shape))}), finite"
        )
    return found
