"""A fitted model that speaks the user's types: raw in, raw out.

Every verb works in chunks, so memory stays flat, and every random number belongs to its row, so the same seed gives the
same rows whatever the chunks, before and after save and load.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.catalog import FAMILIES, Family
from pushforward.core.errors import DataError, PushforwardError, RecipeError, Unsupported, did_you_mean
from pushforward.core.model import Completes, Encodes, Interpolates, Model, Predicts, Samples, Scores, Weighs
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Image, Schema, Tokens
from pushforward.data.dataset import Data, Rows
from pushforward.fitting.carried import starting
from pushforward.fitting.chunks import Run, chunk_size, in_chunks
from pushforward.fitting.conditions import condition_codes, told_visible
from pushforward.fitting.continuing import continued
from pushforward.fitting.gaps import fill, missing_codes, seen_in
from pushforward.fitting.loop import place
from pushforward.fitting.progress import Progress
from pushforward.fitting.restoring import restore
from pushforward.fitting.saved import read_run, write_run
from pushforward.fitting.steering import steering, trajectory
from pushforward.metrics.likelihood import bits_per_dim, log_mean_exp
from pushforward.solvers.samplers import SAMPLER_OPTIONS

_PRECISIONS = ("float32", "bf16")  # of sampling
_SAMPLING, _SCORING, _COMPLETING, _BETWEEN = 0x5A, 0x5C, 0xC0, 0xBE  # streams of the seed


@dataclass(frozen=True)
class Scored:
    """log p of each row in nats (N,), its standard error where it is an estimate (NaN where unknown), and the kind.

    ``dims`` are the numbers in an example and ``levels`` the levels of its pixels, if it is an image.
    """

    log_prob: np.ndarray
    standard_error: np.ndarray
    kind: str
    dims: int
    levels: int | None = None

    @property
    def bits_per_dim(self) -> np.ndarray:
        """−log₂ p per number of the example, (N,); of pixels in the 8-bit convention (metrics.likelihood.bits_per_dim)."""
        return bits_per_dim(self.log_prob, self.dims, self.levels)


@dataclass
class Fitted:
    """A trained ``model`` of ``family`` with its ``schema``; ``recipe`` is recipe.json, ``preview`` some training rows."""

    model: Model
    family: Family
    schema: Schema
    recipe: dict[str, Any]
    preview: Rows | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    raw: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def density_kind(self) -> str | None:
        """exact, ode or lower_bound; None without a density."""
        return self.model.density_kind if isinstance(self.model, Scores) else None

    def _able(self, verb: str, capability: type) -> None:
        if not isinstance(self.model, capability):
            able = [f.name for f in FAMILIES.values() if verb in f.verbs and self.schema.example.name in f.kinds]
            raise Unsupported(f"{self.family.name} cannot {verb}; {', '.join(able) or 'no family of this kind of data'} can")

    def _chunk(self, asked: int | None, cost: int = 1) -> int:
        return chunk_size(asked, self.schema, cost)

    def _each(self, title: str, data: Data, run: Run, chunk: int) -> Tensor:
        return in_chunks(title, data, self.schema, self.device, run, chunk)

    def open(self, data: Any, *, holes: bool = False, need_target: bool = False) -> Data:
        """New data under this model's schema. Raises DataError where it does not fit."""
        from pushforward.data.like import open_like

        return open_like(data, self.schema, holes=holes, need_target=need_target)

    # sample

    def conditions(self, condition: Mapping[str, Any] | None, n: int, seed: int) -> dict[str, Tensor] | None:
        """Codes {name: (n, …)} of conditions in the user's terms, each a value or ``n`` of them; where none are given, those of
        training rows drawn at random."""
        return condition_codes(self.schema.conditions, self.preview, condition, n, seed)

    def sample_rows(
        self,
        n: int | None = None,
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        chunk: int | None = None,
        precision: str = "float32",
        **options: Any,
    ) -> Rows:
        """As ``sample``, as codes."""
        self._able("sample", Samples)
        assert isinstance(self.model, Samples)
        if n is not None and n < 1:
            raise RecipeError(f"the number of samples must be at least 1, found {n}")
        self.check_options(options)
        n, options = starting(self, n, options)
        condition, own = steering(self, condition, n, seed, options)
        codes = self.conditions(condition, n, seed)
        size, parts = self._chunk(chunk), []
        if precision not in _PRECISIONS:
            raise RecipeError(f"precision is {' or '.join(_PRECISIONS)}, found {precision!r}")
        # one context for all steps, so that the weights are turned into bfloat16 once
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        with Progress("sample") as progress, torch.no_grad(), half:
            for start in range(0, n, size):
                stop = min(start + size, n)
                draws = Draws(mix(seed, _SAMPLING), start, stop, n, self.device)
                given = {name: place(c[start:stop], self.device) for name, c in codes.items()} if codes else None
                parts.append(self._codes(self.model.sample(stop - start, given, draws, **own(start, stop))))
                progress.update(stop / n)
        return Rows(torch.cat(parts), codes or {})

    def _codes(self, x: Tensor) -> Tensor:
        """Drawn codes in the dtype that data of this kind come in, on the CPU."""
        kind = self.schema.example
        dtype = torch.uint8 if isinstance(kind, Image) else torch.int64 if isinstance(kind, Tokens) else torch.float64
        return x.cpu().to(dtype)

    def check_options(self, options: Mapping[str, Any], verb: str = "sample") -> None:
        """Raises RecipeError for an option of the ``verb`` that the family does not have."""
        parameters = inspect.signature(getattr(self.model, {"score": "log_prob"}.get(verb, verb))).parameters
        known = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
        known += [*SAMPLER_OPTIONS, "classifier"] if "sampler" in known else []
        for name, value in options.items():
            if name not in known:
                hint = did_you_mean(name, known) if known else "it has none"
                raise RecipeError(f"{self.family.name} has no option '{name}' to {verb} with: {hint}")
            wanted = set(re.findall(r"\w+", str(parameters[name].annotation))) if name in parameters else set()
            if isinstance(value, str) and wanted & {"int", "float"} and "str" not in wanted:
                raise RecipeError(f"{name} is a number, found {value!r}")
            if isinstance(value, float) and "int" in wanted and "float" not in wanted:
                raise RecipeError(f"{name} is a whole number, found {value}")
            if name == "steps" and value is not None and value < 1:
                raise RecipeError(f"steps must be at least 1, found {value}")

    def sample(
        self,
        n: int | None = None,
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        chunk: int | None = None,
        precision: str = "float32",
        **options: Any,
    ) -> Any:
        """``n`` new examples in the user's type, by default one.

        ``condition`` {name: value or n values}: a number, a category, a text, an array, or a picture of any size (an array or
        Pillow's). ``options`` are the family's: temperature; or guidance, guidance_interval, guidance_rescale, steps, sampler,
        grid, path and the sampler's own, and a ``classifier`` or a ``weak`` model to guide by; of transport ``start``, rows of
        its source of which each becomes a sample.
        ``precision`` bf16 computes networks in bfloat16, up to twice as fast for images. Raises Unsupported where the family
        cannot sample.
        """
        rows = self.sample_rows(n, condition=condition, seed=seed, chunk=chunk, precision=precision, **options)
        return self.decode(rows)

    def trajectory(self, n: int | None = None, *, frames: int = 8, **how: Any) -> Any:
        """The way from noise to ``n`` samples, ``frames`` of each one after the other, in the user's type
        (fitting/steering)."""
        return self.decode(trajectory(self, n, frames=frames, **how))

    def decode(self, rows: Rows) -> Any:
        """Codes in the user's types."""
        from pushforward.data.like import decode

        return decode(self.schema, rows.x, rows.columns)

    # score

    def score(self, data: Any, *, samples: int = 1, seed: int = 0, chunk: int | None = None, **options: Any) -> Scored:
        """log p of each row with its standard error and kind.

        Given what the data hold of the conditions; those made from the example ("grey", "small:2") are made of the row itself.

        ``samples`` K draws sharpen a lower bound to log (1/K) Σ w_k (Burda et al. 2015, arXiv:1509.00519), or average an
        estimate. ``options`` are the family's: of diffusion steps or tolerance, and probes.
        """
        self._able("score", Scores)
        model = self.model
        assert isinstance(model, Scores)
        if samples < 1:
            raise RecipeError(f"samples must be at least 1, found {samples}")
        self.check_options(options, "score")
        find: Any = model.log_prob  # which may take further options
        opened = self.open(data)
        dims = self.schema.example.size
        repeats = samples if model.random else 1

        def run(x: Tensor, condition: dict[str, Tensor] | None, start: int, stop: int) -> Tensor:
            draws = Draws(mix(seed, _SCORING), start, stop, len(opened), self.device)
            if repeats > 1 and isinstance(model, Weighs):
                return model.log_weights(x, repeats, condition, draws).double()
            return torch.stack([find(x, condition, draws.fork(k), **options).double() for k in range(repeats)], 1)

        weights = self._each("score", opened, run, self._chunk(chunk, 4)).numpy()
        if repeats > 1 and model.weights_are_exact:
            value, error = log_mean_exp(weights.T)
        else:
            value = weights.mean(1)
            spread = weights.std(1, ddof=1) / np.sqrt(repeats) if repeats > 1 else np.full(len(value), np.nan)
            error = spread if model.random else np.zeros(len(value))
        return Scored(value, error, model.density_kind, dims, getattr(self.schema.example, "levels", None))

    def log_prob(self, data: Any, *, samples: int = 1, seed: int = 0, chunk: int | None = None, **options: Any) -> np.ndarray:
        """log p(x) of each row in nats, in the units of the data, (N,); ``density_kind`` says what it is."""
        return self.score(data, samples=samples, seed=seed, chunk=chunk, **options).log_prob

    # encode, interpolate, complete, predict

    def encode(self, data: Any, *, chunk: int | None = None, **options: Any) -> np.ndarray:
        """Representations, (N, D). ``options`` are the family's: of diffusion steps, those of DDIM backwards."""
        self._able("encode", Encodes)
        assert isinstance(self.model, Encodes)
        self.check_options(options, "encode")
        find: Any = self.model.encode
        return self._each("encode", self.open(data), lambda x, c, a, b: find(x, c, **options), self._chunk(chunk, 4)).numpy()

    def interpolate(self, a: Any, b: Any, *, steps: int = 8, seed: int = 0, chunk: int | None = None) -> Any:
        """Examples on the way from each row of ``a`` to the same row of ``b``, ``steps`` of them with both ends, in the user's
        type: those between the first pair, then those between the second, … Conditions are those of ``a``.

        Raises Unsupported where the family has no latent space to go through.
        """
        model = self.model
        if not isinstance(model, Interpolates):
            able = [f.name for f in FAMILIES.values() if f.flow and self.schema.example.name in f.kinds]
            raise Unsupported(f"{self.family.name} cannot interpolate; {', '.join(able)} can")
        if steps < 2:
            raise RecipeError(f"steps must be at least 2, found {steps}: both ends are among them")
        start, end = self.open(a), self.open(b)
        if len(start) != len(end):
            raise DataError(f"found {len(start)} rows to start from and {len(end)} to go to: expected as many of each")

        def run(x: Tensor, condition: dict[str, Tensor] | None, first: int, stop: int) -> Tensor:
            draws = Draws(mix(seed, _BETWEEN), first, stop, len(start), self.device)
            other = place(end.rows(slice(first, stop)).x, self.device)
            return self._codes(model.interpolate(x, other, steps, condition, draws))

        ways = self._each("interpolate", start, run, self._chunk(chunk, 2 * steps))
        columns = {name: code.repeat_interleave(steps, 0) for name, code in start.rows().columns.items()}
        return self.decode(Rows(ways.flatten(0, 1), columns))

    def complete(
        self,
        data: Any,
        *,
        observed: Any = None,
        length: int | None = None,
        seed: int = 0,
        chunk: int | None = None,
        **options: Any,
    ) -> Any:
        """``data`` with what is missing drawn from p(missing | observed).

        In tables missing values are filled, unless a category comes out as missing sixteen times; in
        arrays of numbers NaN are; of a list of texts what follows them is, up to the length that was learned, or to any
        ``length``, by a window over their end; for anything else ``observed``, a boolean array of the data's shape, says what
        is there.
        A model given what is "visible" is told so; "grey" and "small:2" are made of the whole of each row. ``options`` are
        the family's: of diffusion method (particles, repaint, replace, posterior), particles, steps, repeats and guidance.
        """
        from pushforward.data.like import identified
        from pushforward.data.recognise import is_texts
        from pushforward.data.text import begun

        self._able("complete", Completes)
        model = self.model
        assert isinstance(model, Completes)
        self.check_options(options, "complete")
        kind = self.schema.example
        beginnings = observed is None and isinstance(kind, Tokens) and is_texts(data)
        if length is not None:
            if not beginnings:
                raise RecipeError("length is for texts that are to be continued: give a list of their beginnings")
            return continued(self, data, length, seed=seed, chunk=chunk, **options)
        if beginnings:
            assert isinstance(kind, Tokens)
            data, observed = begun(kind, data)
        if observed is None and isinstance(kind, (Image, Tokens)):
            raise DataError(f"{kind.name} data show no gaps of their own: say with observed= what is there")
        opened = self.open(data, holes=True)
        rows = opened.rows()
        known, missing = seen_in(kind, rows.x, observed), missing_codes(kind, self.device)

        def run(x: Tensor, condition: dict[str, Tensor] | None, start: int, stop: int) -> Tensor:
            draws = Draws(mix(seed, _COMPLETING), start, stop, len(opened), self.device)
            seen = known[start:stop].to(self.device)
            condition = told_visible(self.schema.conditions, condition, x, seen)
            return fill(model, x, seen, condition, draws, missing, **options)

        filled = self._each("complete", opened, run, self._chunk(chunk, 2))
        # a completed row is still the same row
        return identified(self.decode(Rows(filled, rows.columns)), data, self.schema)

    def restore(self, measured: Any, measure: str | Callable[[Tensor], Tensor], **how: Any) -> Any:
        """Draws from p(x | ``measure``(x) = ``measured``), in the user's type: of images ``small:4``, ``blur:1.5`` or ``grey``,
        of anything a differentiable function of codes as floats (fitting/restoring)."""
        return self.decode(restore(self, measured, measure, **how))

    def predict_proba(self, data: Any, *, chunk: int | None = None) -> np.ndarray:
        """Class probabilities (N, K) in the order of ``classes``."""
        self._able("predict", Predicts)
        model = self.model
        assert isinstance(model, Predicts)
        return self._each("predict", self.open(data), lambda x, c, a, b: model.predict(x, c), self._chunk(chunk, 4)).numpy()

    @property
    def classes(self) -> tuple[Any, ...]:
        """The target's categories."""
        return self.schema.target.categories if self.schema.target is not None else ()

    def predict(self, data: Any, *, chunk: int | None = None) -> np.ndarray:
        """The most probable category of each row, (N,)."""
        best = self.predict_proba(data, chunk=chunk).argmax(1)
        categories = list(self.classes) + ([None] if self.schema.target is not None and self.schema.target.missing else [])
        values = np.empty(len(categories), dtype=object)
        values[:] = categories
        picked = values[best]
        return np.array(picked.tolist()) if None not in categories else picked

    # save

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the run folder ``path``: recipe.json, model.safetensors, raw.safetensors, preview.npz.

        Raises PushforwardError where it exists already and ``force`` is not given.
        """
        run = Path(path)
        if not force and (run / "recipe.json").exists():
            raise PushforwardError(f"{run} exists already: choose another folder, or overwrite it with force=True (--force)")
        self.write(run)
        return run

    def write(self, run: Path) -> None:
        """Write the files of the run; recipe.json last, so that a folder with one is whole."""
        write_run(run, self.model, self.recipe, self.preview, self.raw)


def load(path: str | Path, *, device: str | None = None) -> Fitted:
    """The model in the run folder ``path``. Raises CheckpointError where it is missing, damaged, unsafe or newer."""
    return Fitted(*read_run(Path(path), device))
