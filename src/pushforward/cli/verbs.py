"""The commands that use a run: ``sample``, ``score``, ``encode``, ``complete``, ``predict``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from pushforward.cli.arguments import (
    Command,
    Data,
    Device,
    Flag,
    Out,
    Real,
    Run,
    Seed,
    UsageError,
    Whole,
    Words,
    number,
    option,
    pairs,
    positional,
)

if TYPE_CHECKING:
    from pushforward.fitting.fitted import Fitted, Scored


def _load(run: str, device: str | None) -> Fitted:
    from pushforward.fitting.fitted import load

    return load(Path(run).expanduser(), device=device)


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Draw new examples from a run.

    Tables and arrays: .csv .tsv .parquet .jsonl .json, arrays also .npy .npz.

    Images: .png is one sheet, a folder/ one PNG each, .npy .npz. Texts: .txt .jsonl .json.

    Signals and points: .npy .npz, recordings also a folder/ of one .wav each.

    --out - is standard output, --out -.parquet the same in that format.
    """

    run: Run
    """The folder that fit wrote."""
    n: Annotated[int | None, option("N", "n")] = None
    """How many (default 64, or one for each row of --start)."""
    start: Annotated[str | None, option("DATA")] = None
    """Rows of the source, each of which becomes a sample (transport)."""
    out: Out = None
    """File to write (default: a preview on the terminal, CSV in a pipe; in RUN for images, signals and points)."""
    condition: Annotated[tuple[str, ...], option("NAME=VALUE …")] = ()
    """Conditions of a model fitted with --condition: a value, a text, the file of an image, or numbers as 1,2,3; drawn from the
    data where none is given."""
    seed: Seed = 0
    """The same seed gives the same samples."""
    guidance: Real = None
    """Strength of the condition (diffusion); 1 is none."""
    guidance_interval: Annotated[tuple[float, ...], option("LOW HIGH")] = ()
    """Noise over signal between which to guide (diffusion)."""
    guidance_rescale: Real = None
    """How far guided samples are brought back to their spread, 0 to 1 (diffusion)."""
    classifier: Annotated[str | None, option("RUN")] = None
    """A noisy-classifier of the same data, to guide by: its label is a --condition (diffusion)."""
    weak: Annotated[str | None, option("RUN")] = None
    """A weaker model of the same data, to guide away from (diffusion)."""
    steps: Whole = None
    """Steps of the sampler (diffusion)."""
    sampler: Words = None
    """euler, heun, dpm++2m, unipc, ddim, ddpm, edm … (diffusion)."""
    grid: Words = None
    """Where the steps are: uniform, log-snr, karras, quadratic, trailing or leading (diffusion)."""
    path: Words = None
    """The path to sample along: rectified, vp, edm, angle … (diffusion)."""
    options: Annotated[tuple[str, ...], option("NAME=X …")] = ()
    """Options of the sampler, such as eta=0.5 or churn=20 (diffusion)."""
    trajectory: Annotated[int | None, option("FRAMES")] = None
    """Show the way from noise to each sample in so many frames: columns of the sheet, or of vectors of two numbers panels of a
    .png (diffusion)."""
    temperature: Real = None
    """Scale of the noise (flows, GANs); below 1 is tamer."""
    precision: Annotated[Literal["float32", "bf16"], option("P")] = "float32"
    """bf16 is quicker for images."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a file that is there."""
    json: Flag = False
    """Print the samples as JSON; with --out, where they went."""

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.cli.output import destination, emit, kind_of

        condition = pairs(self.condition, "--condition", "label=3") or None
        n = 64 if self.n is None and self.start is None else self.n
        names = ("guidance", "guidance_rescale", "steps", "sampler", "grid", "path", "temperature", "start")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen |= {name: number(value, name) for name, value in pairs(self.options, "--options", "eta=0.5").items()}
        if self.guidance_interval:
            if len(self.guidance_interval) != 2:
                raise UsageError("--guidance-interval takes two numbers, the lowest and the highest noise over signal")
            chosen["guidance_interval"] = self.guidance_interval
        for name in ("classifier", "weak"):
            if getattr(self, name) is not None:
                chosen[name] = _load(getattr(self, name), self.device)
        fitted = _load(self.run, self.device)
        run = Path(self.run).expanduser()
        kind = kind_of(fitted.schema, self.trajectory)
        where = destination(self.out, kind, force=self.force, json=self.json, run=run, frames=self.trajectory)
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if self.trajectory is not None:
            drawn = fitted.trajectory(n, frames=self.trajectory, condition=condition, seed=self.seed, **given)
        else:
            drawn = fitted.sample(n, condition=condition, seed=self.seed, precision=self.precision, **given)
        about: dict[str, Any] = {"run": str(run), "family": fitted.family.name, "seed": self.seed, "condition": condition}
        emit(drawn, where, schema=fitted.schema, **about)
        return 0


@dataclass(frozen=True, kw_only=True)
class Score(Command):
    """log p of each row in nats, in the units of the data, with its standard error where it is an estimate.

    The columns are log_prob and standard_error.

    The mean, and what kind of density it is, go to standard error.
    """

    run: Run
    """The folder that fit wrote."""
    data: Data
    """Rows like those it was fitted on."""
    out: Out = None
    """File to write: .csv .tsv .parquet .jsonl .json; - is standard output."""
    samples: Annotated[int, option("K")] = 1
    """Draws a row: they sharpen a lower bound and average an estimate."""
    options: Annotated[tuple[str, ...], option("NAME=X …")] = ()
    """How to follow the flow: steps=50 or tolerance=1e-6, and probes=4 (diffusion)."""
    seed: Seed = 0
    """Of those draws."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a file that is there."""
    json: Flag = False
    """Print the scores as JSON; with --out, the mean and where they went."""

    def do(self, argv: Sequence[str]) -> int:
        import numpy as np
        import pandas as pd

        from pushforward.cli.output import destination, emit
        from pushforward.cli.terminal import say

        fitted = _load(self.run, self.device)
        where = destination(self.out, "table", force=self.force, json=self.json, run=Path(self.run))
        scored = fitted.score(self.data, samples=self.samples, seed=self.seed, **_given(self.options, "steps=50"))
        frame = pd.DataFrame({"log_prob": scored.log_prob, "standard_error": scored.standard_error})
        unit = {"image": "bits/dim", "tokens": "bits/character"}.get(fitted.schema.example.name)
        about: dict[str, Any] = {
            "run": self.run,
            "data": self.data,
            "kind": scored.kind,
            "mean_log_prob": float(scored.log_prob.mean()),
            "standard_error": _error(scored.log_prob),
            "bits_per_dim": float(scored.bits_per_dim.mean()) if unit else None,
        }
        emit(frame, where, **about)
        if not self.json:
            say(_verdict(scored, unit, int(np.isneginf(scored.log_prob).sum()), self.samples))
        return 0


def _error(values: Any) -> float | None:
    """Standard error of a mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def _verdict(scored: Scored, unit: str | None, impossible: int, samples: int) -> str:
    import numpy as np

    from pushforward.cli.output import DENSITIES, figure

    rows = len(scored.log_prob)
    text = f"mean log p {figure(float(scored.log_prob.mean()), _error(scored.log_prob))} nats over {rows:,} rows"
    if unit:
        text += f", {figure(float(scored.bits_per_dim.mean()), _error(scored.bits_per_dim))} {unit}"
    text += f"; {DENSITIES.get(scored.kind, scored.kind)}"
    known = scored.standard_error[np.isfinite(scored.standard_error)]
    if len(known) and known.max() > 0:
        text += f"; each row to ± {known.mean():.2g} on average"
    elif scored.kind != "exact" and samples == 1 and not len(known):
        text += "; --samples 16 says how sure each row is"
    if impossible:
        text += f"; {impossible:,} rows have no density at all"
    return text


@dataclass(frozen=True, kw_only=True)
class Encode(Command):
    """Representations of each row: one row of numbers for each row of DATA."""

    run: Run
    """The folder that fit wrote."""
    data: Data
    """Rows like those it was fitted on."""
    out: Out = None
    """File to write: .npy .npz .csv .tsv .parquet .jsonl .json; - is standard output."""
    options: Annotated[tuple[str, ...], option("NAME=X …")] = ()
    """How to: steps=50 are those of DDIM backwards (diffusion)."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a file that is there."""
    json: Flag = False
    """Print the representations as JSON; with --out, where they went."""

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.cli.output import destination, emit

        fitted = _load(self.run, self.device)
        where = destination(self.out, "array", force=self.force, json=self.json, run=Path(self.run))
        codes = fitted.encode(self.data, **_given(self.options, "steps=50"))
        names = [f"code_{i}" for i in range(codes.shape[1])]
        emit(codes, where, names=names, run=self.run, data=self.data, dimensions=codes.shape[1])
        return 0


@dataclass(frozen=True, kw_only=True)
class Complete(Command):
    """Fill in what is missing with draws from p(missing | observed).

    In tables missing values are filled, in arrays NaN are.

    Images and texts show no gaps of their own: --observed says what is there, or --prompt is the beginning of a text.
    """

    run: Run
    """The folder that fit wrote."""
    data: Annotated[Positional[str | None], positional("DATA")] = None
    """Rows like those it was fitted on, with gaps."""
    prompt: Annotated[tuple[str, ...], option("TEXT …")] = ()
    """Instead of DATA beginnings of texts, each of which is continued."""
    length: Whole = None
    """Continue each text to so many characters instead of the learned length."""
    out: Out = None
    """File to write; its ending says the format, as for sample."""
    observed: Annotated[str | None, option("FILE")] = None
    """A boolean .npy of the data's shape: true where a value is there."""
    measured: Words = None
    """What was done to the images that DATA were: small:4, blur:1.5 or grey (diffusion)."""
    options: Annotated[tuple[str, ...], option("NAME=X …")] = ()
    """How to, such as method=posterior, steps=100, repeats=20 or guidance=2 (diffusion)."""
    seed: Seed = 0
    """The same seed gives the same values."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a file that is there."""
    json: Flag = False
    """Print the rows as JSON; with --out, where they went."""

    def do(self, argv: Sequence[str]) -> int:
        from pushforward.cli.output import destination, emit, kind_of

        if (self.data is None) != bool(self.prompt) or (self.prompt and (self.observed or self.measured)):
            raise UsageError("give DATA, or --prompt and the beginnings of texts")
        if self.length is not None and not self.prompt:
            raise UsageError("--length is how far --prompt is continued: give --prompt too")
        fitted = _load(self.run, self.device)
        where = destination(self.out, kind_of(fitted.schema), force=self.force, json=self.json, run=Path(self.run))
        observed = None if self.observed is None else _mask(Path(self.observed).expanduser())
        given = _given(self.options, "steps=100")
        if self.measured is not None:
            if observed is not None:
                raise UsageError("--measured and --observed say two things of the same data: give one")
            filled = fitted.restore(_pictures(self.data or ""), self.measured, seed=self.seed, **given)
        else:
            filled = fitted.complete(
                list(self.prompt) or self.data, observed=observed, length=self.length, seed=self.seed, **given
            )
        emit(filled, where, schema=fitted.schema, run=self.run, data=self.data, seed=self.seed)
        return 0


def _given(words: tuple[str, ...], example: str) -> dict[str, Any]:
    """Options in the words of the command line: numbers as such, other words as they are."""
    found: dict[str, Any] = pairs(words, "--options", example)  # type: ignore[assignment]
    for name, word in found.items():
        with contextlib.suppress(UsageError):
            found[name] = number(word, name)
    return found


def _pictures(data: str) -> Any:
    """The images in ``data``, of whatever size, (n, h, w) or (n, h, w, C). Raises DataError where there are none."""
    from pushforward.core.errors import DataError
    from pushforward.data.sources import open_data

    opened = open_data(data)
    if opened.schema.example.name != "image":
        raise DataError(f"{opened.name} holds {opened.schema.example.name} data: expected the images that were measured")
    x = opened.rows().x.permute(0, 2, 3, 1).numpy()
    return x[..., 0] if x.shape[-1] == 1 else x


def _mask(path: Path) -> Any:
    """The boolean array in ``path``. Raises DataError where there is none."""
    import numpy as np

    from pushforward.core.errors import DataError

    try:
        mask = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"there is no file '{path}'") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy array ({error})") from error
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biu":
        raise DataError(f"{path} holds no boolean array: expected true where a value is there")
    return mask.astype(bool)


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """The most probable category of each row, or the probability of each category."""

    run: Run
    """The folder that fit wrote."""
    data: Data
    """Rows like those it was fitted on; the target may be absent."""
    out: Out = None
    """File to write: .csv .tsv .parquet .jsonl .json; - is standard output."""
    probabilities: Flag = False
    """A column for each category besides."""
    device: Device = None
    """cpu, cuda, mps."""
    force: Flag = False
    """Overwrite a file that is there."""
    json: Flag = False
    """Print the predictions as JSON; with --out, where they went."""

    def do(self, argv: Sequence[str]) -> int:
        import pandas as pd

        from pushforward.cli.output import destination, emit

        fitted = _load(self.run, self.device)
        where = destination(self.out, "table", force=self.force, json=self.json, run=Path(self.run))
        column = fitted.schema.target
        name = column.name if column is not None else "prediction"
        if not self.probabilities:
            frame = pd.DataFrame({name: fitted.predict(self.data)})
        else:
            likely = fitted.predict_proba(self.data)
            classes = [*fitted.classes, *["missing"] * (likely.shape[1] - len(fitted.classes))]
            labels = [*fitted.classes, *[None] * (likely.shape[1] - len(fitted.classes))]
            frame = pd.DataFrame({name: [labels[i] for i in likely.argmax(1)]})
            for i, label in enumerate(classes):
                frame[f"p({label})"] = likely[:, i]
        emit(frame, where, run=self.run, data=self.data, target=name)
        return 0
