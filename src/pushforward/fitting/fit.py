"""data → Fitted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pushforward
from pushforward.catalog import Family, family
from pushforward.core.errors import CheckpointError, PushforwardError, RecipeError
from pushforward.core.model import Model
from pushforward.core.random import mix
from pushforward.core.schema import ColumnKind, Table
from pushforward.data.bounds import Ends
from pushforward.data.dataset import Data, Rows, Splits
from pushforward.data.sources import open_data
from pushforward.fitting.carried import configured, keep, open_source
from pushforward.fitting.distributed import Processes, reproducible, resolve_precision, world
from pushforward.fitting.files import apart, read_json, write_json, writing_failed
from pushforward.fitting.fitted import Fitted
from pushforward.fitting.history import History
from pushforward.fitting.loop import Callback, Job
from pushforward.fitting.options import Training, split_options
from pushforward.fitting.progress import Progress
from pushforward.fitting.recipe import make_recipe
from pushforward.fitting.trainer import train

_PREVIEW = 1000
_STATISTICS = 20_000_000  # codes looked at for means, quantiles and frequencies
_MAX_CLASSES = 100
_FREE = ("device", "tensorboard", "save_every", "snapshots")  # options that a resumed run may change


def open_for(
    data: Any,
    fam: Family,
    *,
    target: str | None = None,
    condition: str | Sequence[str] | None = None,
    types: Mapping[str, str] | None = None,
    **how: Any,
) -> Data:
    """``data`` opened with the roles the family needs.

    A predictor of images takes their ``label`` where no target is named; an integer target with few values is a category.
    """
    if fam.target and target is None:
        opened = open_data(data, types=types, **how)
        if isinstance(opened.schema.example, Table) or "label" not in opened.rows(slice(0, 1)).columns:
            raise RecipeError(f"{fam.name} predicts a target: name one with target= (--target)")
        target = "label"
    opened = open_data(data, target=target, condition=condition or (), types=types, **how)
    found = opened.schema.target
    if fam.target and found is not None and not found.discrete:
        few = found.kind is ColumnKind.INTEGER and found.upper - found.lower < _MAX_CLASSES
        if not few:
            raise RecipeError(
                f"{fam.name} predicts a category, and '{found.name}' holds {found.kind.value}s: "
                f"choose another target or override its type (--types {found.name}=category)"
            )
        again = {**(types or {}), found.name: "category"}
        opened = open_data(data, target=target, condition=condition or (), types=again, **how)
    return opened


def fit(
    data: Any,
    family_name: str,
    *,
    target: str | None = None,
    condition: str | Sequence[str] | None = None,
    source: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    report: bool = True,
    callback: Callback | None = None,
    quiet: bool = False,
    types: Mapping[str, str] | None = None,
    bounds: Mapping[Any, Ends] | Ends | None = None,
    drop: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    length: int | None = None,
    kind: str | None = None,
    **options: Any,
) -> Fitted:
    """Learn a distribution from ``data``.

    ``data`` is anything open_data takes; ``family_name`` one of the catalog. ``target`` is what a predictor predicts,
    ``condition`` the columns c of p(x | c), ``source`` the data that the family transport carries to these. ``bounds`` such as
    {"price": (0, None)} say what numbers can be: every sample is within them. ``kind`` says whether the rows of an array are
    vectors, images, signals or points. With ``out`` the run is kept in that folder: recipe, weights, metrics, checkpoints and,
    with ``report``, evaluation, samples and report.html; ``resume`` goes on from its newest checkpoint. ``callback`` gets a
    Record after each validation and stops the fit by returning False. Further options are the trainer's
    (fitting.options.Training: steps, minutes, batch_size, seed, device, precision, …) and the family's own.
    Raises PushforwardError in one clear line.
    """
    fam = family(family_name)
    given, own = split_options(options, tuple(f.name for f in fields(fam.options)))
    training = training_from(given)
    config = fam.configure(own)
    how: dict[str, Any] = {"types": types, "bounds": bounds, "drop": drop, "resize": resize, "length": length, "kind": kind}
    apart(data, out)
    opened = open_for(data, fam, target=target, condition=condition, **how)
    saving: dict[str, Any] = {"out": out, "resume": resume, "force": force, "report": report}
    return fit_data(opened, fam, config, training, source=source, callback=callback, quiet=quiet, **saving)


def training_from(given: Mapping[str, Any]) -> Training:
    try:
        return Training(**given)
    except TypeError as error:
        raise RecipeError(f"an option of the trainer has the wrong type: {error}") from error


def fit_data(
    data: Data,
    fam: Family,
    config: Any,
    training: Training,
    *,
    splits: Splits | None = None,
    source: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    report: bool = True,
    callback: Callback | None = None,
    quiet: bool = False,
) -> Fitted:
    """As ``fit``, for data that are open already."""
    fam.check(data.schema)
    apart(source, out)
    other = open_source(source, data.schema, fam)
    config = configured(config, other)
    splits = splits or data.split(training.seed)
    training = sized(training, fam.training_for(data.schema), len(splits.train), world()[1])
    with reproducible(mix(training.seed, 0x1417)):
        model = fam.build(data.schema, config)
    notes = (*data.notes, *keep(model, other, training.seed))
    training, processes = placed(training, model)
    run = Path(out) if out is not None else None
    recipe = make_recipe(
        fam,
        config,
        data.schema,
        training=asdict(training),
        seed=training.seed,
        data={
            "name": data.name,
            "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
            "notes": list(notes),
        },
        parameters=count(model),
        versions=versions(),
    )
    if run is not None:
        if processes.main:
            _claim(run, recipe, resume, force)
        processes.barrier()
    limit = max(1, min(100_000, _STATISTICS // data.schema.example.size))
    model.prepare(splits.train.sample(limit, training.seed).x)
    began = time.monotonic()
    command = f"pushforward fit DATA {fam.name} … --out {run} --resume"
    show = Progress(f"fit {fam.name}", quiet=quiet or not processes.main)
    job = Job(model, splits.train, splits.validation, training, processes, run, resume, callback, show, command)
    history = trained(job, run)
    last = history.records[-1]
    recipe |= {"seconds": last.seconds or time.monotonic() - began, "steps": last.step}
    fitted = Fitted(model, fam, data.schema, recipe, preview_of(splits.train, training.seed), history.lines, history.raw)
    if run is not None and processes.main:
        fitted.write(run)
        if report:
            from pushforward.fitting.evaluate import write_evaluation

            write_evaluation(fitted, splits, run, quiet=quiet)
    processes.barrier()
    return fitted


def preview_of(data: Data, seed: int) -> Rows:
    """Some rows, in random order: a folder's images are sorted by class, and those shown first should be of all of them."""
    return data.rows(np.random.default_rng(seed).permutation(len(data))[:_PREVIEW])


def placed(training: Training, model: Model) -> tuple[Training, Processes]:
    """``training`` with its precision settled, and the processes that ``model`` is trained in."""
    precision = resolve_precision(training.precision, model, training.device)
    return replace(training, precision=precision), Processes(training.device, precision)  # type: ignore[arg-type]


def trained(job: Job, run: Path | None) -> History:
    """``job`` done, with TensorBoard logs in ``run`` where it asks for them."""
    training, processes = job.training, job.processes
    board = _tensorboard(run, job) if training.tensorboard and processes.main else contextlib.nullcontext()
    # a user's own model may draw from the global generators
    with board, reproducible(mix(training.seed, 0x61AD, processes.rank)):
        return train(job)


def versions() -> dict[str, str]:
    """What a recipe says of the software."""
    return {"pushforward": pushforward.__version__, "torch": torch.__version__.split("+")[0]}


def sized(training: Training, likes: Mapping[str, Any], rows: int, processes: int) -> Training:
    """Defaults filled in, those that the family ``likes`` first. Raises RecipeError where the batch is larger than the data."""
    if training.batch_size is not None and training.batch_size > rows:
        raise RecipeError(f"batch_size {training.batch_size} is larger than the {rows} training rows: use at most {rows}")
    full = training.with_defaults(likes)
    assert full.batch_size is not None
    if training.batch_size is not None:
        return full
    size = min(full.batch_size, rows)
    return replace(full, batch_size=max(1, size - size % processes))


def _claim(run: Path, recipe: dict[str, Any], resume: bool, force: bool) -> None:
    """Make the run folder ours: new, to be resumed, or to be overwritten."""
    existing = run / "recipe.json"
    if resume and existing.exists():
        before = read_json(existing)
        for name in ("family", "options", "schema", "seed"):
            if before.get(name) != _round_trip(recipe[name]):
                raise CheckpointError(
                    f"{run} was made with another {name}: resume with the same command, or choose another --out"
                )
        rows, now = before.get("data", {}).get("rows"), recipe["data"]["rows"]
        if rows != now:
            raise CheckpointError(f"{run} was made with data of {rows} rows, found {now}: resume with the same data")
        earlier = {k: v for k, v in before.get("training", {}).items() if k not in _FREE}
        for name, value in earlier.items():
            if _round_trip(recipe["training"].get(name)) != value:
                found = recipe["training"].get(name)
                raise CheckpointError(f"{run} was made with {name} {value}, found {found}: resume with the same options")
        return
    make_room(run, force, "go on with --resume, " if existing.exists() else "")
    write_json(existing, recipe)


def make_room(run: Path, force: bool, hint: str = "") -> None:
    """An empty folder ``run``, or with ``force`` one without the files of an earlier run.

    Raises PushforwardError, which offers ``hint`` first, where it is neither.
    """
    if run.exists() and not run.is_dir():
        raise PushforwardError(f"{run} is a file: choose another --out")
    if run.exists() and any(run.iterdir()) and not force:
        raise PushforwardError(f"{run} exists and is not empty: {hint}choose another --out, or overwrite it with --force")
    try:
        run.mkdir(parents=True, exist_ok=True)
        if force:
            import shutil

            for name in ("checkpoints", "snapshots"):
                shutil.rmtree(run / name, ignore_errors=True)
            shown = ("evaluation.json", "samples.npz", "density.npz", "trajectory.npz", "report.html")
            for name in ("model.safetensors", "raw.safetensors", "metrics.jsonl", *shown):
                (run / name).unlink(missing_ok=True)
    except OSError as error:
        raise writing_failed(run, error) from error


def _round_trip(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))


@contextlib.contextmanager
def _tensorboard(run: Path | None, job: Job) -> Any:
    """TensorBoard scalars of each record, through the job's callback."""
    if run is None:
        raise RecipeError("TensorBoard logs need a run folder: give out= (--out)")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RecipeError("TensorBoard is not installed: pip install tensorboard") from None
    writer, inner = SummaryWriter(str(run / "tensorboard")), job.callback

    def log(record: Any) -> Any:
        figures = {
            "train": record.train,
            record.criterion: record.validation,
            "learning_rate": record.learning_rate,
            **record.terms,
        }
        for name, value in figures.items():
            if value is not None:
                writer.add_scalar(name, value, record.step)
        return inner(record) if inner is not None else None

    job.callback = log
    try:
        yield
    finally:
        writer.close()


def count(model: Model) -> int:
    """Numbers learned: trained parameters, or where there are none, what is fitted and kept."""
    kept = [t.numel() for t in model.state_dict().values() if t.is_floating_point()]
    return sum(p.numel() for p in model.parameters()) or sum(kept)
