"""A trained diffusion or flow model → a ``Fitted`` that samples in a step or two (models/straighten).

``reflow`` draws pairs of noise and data that the model's own flow connects and fits a new rectified flow to them, as many
rounds as asked for, each with pairs of the model before. ``consistency`` distils the flow into one jump from every point of a
path to its end. The student has the architecture, the preprocessing and the options of its teacher. It starts from the
teacher's weights wherever the teacher predicts v too: as networks see x on the circle, only the clock that they are told
then differs, and that is learned long before the rest.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pushforward.catalog import FAMILIES, Family, family
from pushforward.core.derived import with_derived
from pushforward.core.errors import Interrupted, RecipeError, Unsupported
from pushforward.core.model import Model
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Schema, Vector
from pushforward.data.dataset import Data, Rows, Splits, TensorStore
from pushforward.fitting.chunks import chunk_size
from pushforward.fitting.distributed import Processes, reproducible, world
from pushforward.fitting.files import apart, whole
from pushforward.fitting.fit import count, make_room, placed, preview_of, sized, trained, training_from, versions
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.history import History
from pushforward.fitting.loop import Callback, Job, place
from pushforward.fitting.options import Training, split_options
from pushforward.fitting.progress import Progress
from pushforward.fitting.recipe import make_recipe
from pushforward.models.consistency import ConsistencyModel
from pushforward.models.diffusion import Diffusion
from pushforward.models.path import PathModel
from pushforward.models.straighten import Consistency, Reflow, jump_cost, straightness
from pushforward.paths.schedule import Rectified

Method = Literal["reflow", "consistency"]
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # the student's family, and how it is sampled
    "reflow": ("rectified-flow", {"sampler": "euler", "sampling_steps": 4}),
    "consistency": ("consistency", {"sampling_steps": 1}),
}
# what is learned at t must first be learned at s: long in vain; and a validation costs as much as a few steps
_LIKES: Mapping[str, Mapping[str, Any]] = {"consistency": {"patience": 0, "validate": 10}}
_PAIRS, _MEASURE = 0x9A125, 0x57A1  # streams of the seed
_MEASURED = 20_000  # numbers of the paths that are measured, of 64 to 1000 of them
_ANEW = ("prediction", "weighting", "times", "shift", "sampler", "sampling_steps", "grid", "path")
_ORIGIN = ("family", "options", "seed", "data", "steps", "seconds", "straightened")


def straighten(
    fitted: Fitted,
    data: Any = None,
    *,
    rounds: int = 1,
    pairs: int = 20_000,
    method: Method = "reflow",
    out: str | Path | None = None,
    force: bool = False,
    report: bool = True,
    callback: Callback | None = None,
    quiet: bool = False,
    **options: Any,
) -> Fitted:
    """A rectified flow that needs few steps, taught by the diffusion or flow model ``fitted``, which stays as it is.

    ``method`` "reflow" fits it ``rounds`` times to ``pairs`` pairs of noise and data that the flow of the model before
    connects; conditions are those of rows of ``data``, or of the rows that ``fitted`` kept. "consistency" trains on ``data``,
    or on as many samples of ``fitted``, and gives a model of the family consistency, which samples in one step or two.
    ``out``, ``force`` and ``callback`` are as in fit; with ``data`` and ``report`` a reflowed run is evaluated. ``options`` are
    the trainer's, steps and minutes those of each round; nothing can be resumed. ``recipe["straightened"]`` says from what, and
    how straight the flow was before and is now.
    Raises Unsupported where the model is no diffusion, RecipeError for options that do not suit.
    """
    teacher = _checked(fitted, method, rounds, pairs)
    asked = training_from(dict(_LIKES.get(method, {})) | split_options(options, ())[0])
    apart(data, out)
    opened = fitted.open(data) if data is not None else None
    splits = opened.split(fitted.recipe.get("seed", 0)) if opened is not None else None
    fam, began = family(METHODS[method][0]), time.monotonic()
    rows = len(splits.train) if splits else pairs
    training, processes = placed(sized(asked, fam.training_for(fitted.schema), rows, world()[1]), teacher)
    quiet = quiet or not processes.main
    run = Path(out).expanduser() if out is not None else None
    if run is not None:
        if processes.main:
            make_room(run, force)
        processes.barrier()
    teacher = copy.deepcopy(teacher).to(processes.device).eval()
    config = fam.configure(_settings(fitted, teacher, fam, method))
    source = splits.train.sample(pairs, training.seed) if splits else None
    before = _measured(fitted, teacher, source, training.seed)
    for k in range(rounds):
        seed = mix(training.seed, _PAIRS, k)
        with reproducible(mix(training.seed, 0x1417, k)):
            student = _student(fam, fitted.schema, config, teacher)
        model: Model = Consistency(student, teacher) if isinstance(student, ConsistencyModel) else Reflow(student)
        title = f"{method} {k + 1} of {rounds}" if rounds > 1 else method
        if method == "reflow":
            found = _pairs(fitted, teacher, source, pairs, seed, Progress(f"pairs of {title}", quiet=quiet))
            train, held = _held(found)
        else:
            train, held = (splits.train, splits.validation) if splits else _held(_drawn(fitted, pairs, seed))
        history = _train(model, train, held, training, processes, run, callback, Progress(title, quiet=quiet))
        student.eval()
        if isinstance(student, Diffusion):  # then another round may follow
            teacher = student
    recipe = make_recipe(
        fam,
        config,
        fitted.schema,
        training=asdict(training),
        seed=training.seed,
        data=_data_of(fitted, splits, train, held, method),
        parameters=count(student),
        versions=versions(),
        seconds=time.monotonic() - began,
        steps=history.records[-1].step,
        straightened={
            "method": method,
            "rounds": rounds,
            "pairs": pairs,
            "from": {name: fitted.recipe[name] for name in _ORIGIN if name in fitted.recipe},
            "before": before,
            "after": _measured(fitted, student, source, training.seed, method),
        },
    )
    raw = {n.removeprefix("student."): t for n, t in history.raw.items() if n.startswith("student.")}
    preview = preview_of(splits.train, training.seed) if splits else fitted.preview
    done = Fitted(student, fam, fitted.schema, recipe, preview, history.lines, raw)
    if run is not None and processes.main:
        with whole(run / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in history.lines), encoding="utf-8")
        done.write(run)
        # the density of a consistency function would be that of a flow that nobody samples, and a stiff one
        if report and splits is not None and method == "reflow":
            from pushforward.fitting.evaluate import write_evaluation

            write_evaluation(done, splits, run, quiet=quiet)
    processes.barrier()
    return done


def _checked(fitted: Fitted, method: str, rounds: int, pairs: int) -> Diffusion:
    """The model of ``fitted``. Raises Unsupported and RecipeError."""
    if not isinstance(fitted.model, Diffusion):
        able = [f.name for f in FAMILIES.values() if f.place.startswith("diffusion:") and "score" in f.verbs]
        raise Unsupported(f"{fitted.family.name} has no flow to straighten; {', '.join(able)} have")
    if method not in METHODS:
        raise RecipeError(f"method is {' or '.join(METHODS)}, found {method!r}")
    if rounds < 1:
        raise RecipeError(f"rounds must be at least 1, found {rounds}")
    if method == "consistency" and rounds > 1:
        raise RecipeError("a consistency function has no flow to go on with: take one round, or reflow first")
    if pairs < 4:
        raise RecipeError(f"pairs must be at least 4, found {pairs}")
    return fitted.model


# the student


def _settings(fitted: Fitted, teacher: Diffusion, fam: Family, method: str) -> dict[str, Any]:
    """Options of the student that has the teacher's architecture."""
    given = fitted.recipe.get("options", {})
    shared = {f.name for f in fields(fam.options)} - set(_ANEW)
    own = teacher.learning.prediction
    kept = own if own == "velocity" and type(teacher.schedule) is Rectified else "v"
    return {n: v for n, v in given.items() if n in shared} | {"prediction": kept, **METHODS[method][1]}


def _student(fam: Family, schema: Schema, config: Any, teacher: Diffusion) -> Diffusion | ConsistencyModel:
    """The untrained student, with all that it can take over from its teacher."""
    student = fam.build(schema, config)
    assert isinstance(student, (Diffusion, ConsistencyModel))
    student.preprocess.load_state_dict(teacher.preprocess.state_dict())
    student.conditioner.load_state_dict(teacher.conditioner.state_dict())
    if student.learning.prediction == teacher.learning.prediction:
        own, jumps = student.net.state_dict(), isinstance(student, ConsistencyModel)
        given = {n: t for n, t in teacher.net.state_dict().items() if n in own and t.dim()}
        # the last layer of a teacher that learned variances has twice the channels; that of jumps has the flow's beside them
        given = {n: torch.cat([t, t]) if jumps and len(own[n]) == 2 * len(t) else t for n, t in given.items()}
        student.net.load_state_dict(own | {n: t for n, t in given.items() if own[n].shape == t.shape})
    return student


def _train(
    model: Model,
    train: Data,
    held: Data,
    training: Training,
    processes: Processes,
    run: Path | None,
    callback: Callback | None,
    show: Progress,
) -> History:
    """Without checkpoints: what is stopped is lost."""
    try:
        return trained(Job(model, train, held, training, processes, callback=callback, progress=show), run)
    except Interrupted as error:
        raise Interrupted(f"{str(error).split(';')[0]}; nothing was kept, and straightening begins anew") from None


# the data


def _told(fitted: Fitted, source: Rows | None, n: int, seed: int) -> dict[str, Tensor] | None:
    """Conditions of ``n`` rows of ``source`` at random, or of those that ``fitted`` kept; None without conditions."""
    wanted = fitted.schema.conditions
    if source is None:
        found = fitted.conditions(None, n, seed)
        if wanted and not found:
            raise RecipeError("the conditions of pairs are those of data, and this model kept no rows: give data=")
        return found
    at = Draws(seed, 0, n).integers(len(source.x))
    given = {c.name: source.columns[c.name][at] for c in wanted if c.name in source.columns}
    return with_derived(wanted, source.x[at], given, Draws(mix(seed, 1), 0, n)) or None


@torch.no_grad()
def _pairs(fitted: Fitted, model: Diffusion, source: Rows | None, n: int, seed: int, show: Progress) -> Data:
    """``n`` noises ε and the y that the model's flow carries them to, as rows (y, ε)."""
    told, size, parts = _told(fitted, source, n, seed), chunk_size(None, fitted.schema, 4), []
    with show as progress:
        for start in range(0, n, size):
            stop = min(start + size, n)
            noise = Draws(seed, start, stop, n, model.device).normal(*model.shape, dtype=model.dtype)
            ode, context = model.flow(_rows(told, start, stop, model.device), stop - start)
            y = ode.push(noise, context)
            parts.append(torch.cat([y.flatten(1), noise.flatten(1)], 1).cpu())
            progress.update(stop / n)
    schema = Schema(Vector(2 * noise[0].numel()), fitted.schema.conditions)
    return Data.of(schema, TensorStore(torch.cat(parts), told or {}), name="pairs")


def _rows(told: dict[str, Tensor] | None, start: int, stop: int, device: torch.device) -> dict[str, Tensor] | None:
    return {name: place(codes[start:stop], device) for name, codes in told.items()} if told else None


def _drawn(fitted: Fitted, n: int, seed: int) -> Data:
    """Samples of the teacher in place of data."""
    rows = fitted.sample_rows(n, seed=seed)
    return Data.of(fitted.schema, TensorStore(rows.x, rows.columns), name="samples")


def _held(data: Data) -> tuple[Data, Data]:
    """All but a tenth of rows that are in no order, and that tenth."""
    at = len(data) - max(1, len(data) // 10)
    return data.select(np.arange(at)), data.select(np.arange(at, len(data)))


def _data_of(fitted: Fitted, splits: Splits | None, train: Data, held: Data, method: str) -> dict[str, Any]:
    """What the recipe says of the data."""
    before = fitted.recipe.get("data", {})
    what = "pairs of its flow" if method == "reflow" else "data" if splits else "its samples"
    return {
        "name": before.get("name", "data"),
        "rows": {"train": len(train), "validation": len(held), "test": len(splits.test) if splits else 0},
        "notes": [*before.get("notes", ()), f"straightened from {fitted.family.name} by {method} on {len(train):,} {what}"],
    }


def _measured(
    fitted: Fitted, model: PathModel, source: Rows | None, seed: int, method: str = "reflow"
) -> dict[str, float | None]:
    """Straightness and transport cost, per coordinate, with their standard errors; of a consistency function the cost of its
    one jump, as its paths are none that it is sampled along."""
    seed, n = mix(seed, _MEASURE), max(64, min(1000, _MEASURED // math.prod(model.shape)))
    told = _rows(_told(fitted, source, n, seed), 0, n, model.device)
    draws = Draws(seed, 0, n, n, model.device)
    if method == "consistency":
        cost = jump_cost(model, n, draws, condition=told)
        return {"straightness": None, "straightness_error": None, "cost": cost.value, "cost_error": cost.standard_error}
    found = straightness(model, n, draws, condition=told)
    return {
        "straightness": found.deviation.value,
        "straightness_error": found.deviation.standard_error,
        "cost": found.cost.value,
        "cost_error": found.cost.standard_error,
    }
