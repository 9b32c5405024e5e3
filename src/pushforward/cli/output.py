"""Where results go: a file whose ending says how, standard output, JSON, or a readable preview on the terminal."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pushforward.cli.arguments import UsageError
from pushforward.cli.terminal import console, say
from pushforward.core.errors import PushforwardError
from pushforward.core.schema import Image, Schema, Signal
from pushforward.fitting.files import whole, write_arrays, writing_failed

PREVIEW = 20
_TEXTUAL = (".csv", ".tsv", ".jsonl", ".json", ".txt")
FORMATS = {
    "table": (".csv", ".tsv", ".parquet", ".jsonl", ".json"),
    "array": (".csv", ".tsv", ".parquet", ".jsonl", ".json", ".npy", ".npz"),
    "image": (".png", ".npy", ".npz"),
    "text": (".txt", ".jsonl", ".json"),
    "sound": (".npz", ".npy"),
    "signal": (".npz", ".npy"),
    "points": (".npz", ".npy"),
}
FORMATS["way"] = (*FORMATS["array"], ".png")  # vectors of two numbers on their way from noise to data
_PRINTED = ("table", "array", "way", "text")  # to standard output where nothing is said; the rest to a file in the run
_FOLDERS = ("image", "sound")  # kinds that a folder can hold, a file for each example
DENSITIES = {"exact": "exact density", "ode": "density by an ODE solver", "lower_bound": "lower bound"}
_KINDS = {"table": "table", "vector": "array", "image": "image", "tokens": "text", "signal": "signal", "points": "points"}


def kind_of(schema: Schema, frames: int | None = None) -> str:
    """table, array, image, text, points, and sound or signal: one of known rate, or another; a way where vectors of two numbers
    come in ``frames``."""
    if frames and schema.example.name == "vector" and schema.example.size == 2:
        return "way"
    if getattr(schema.example, "rate", None) is not None:
        return "sound"
    return _KINDS[schema.example.name]


# ------------------------------------------------------------------------------------------------------------ figures


def figure(value: float | None, error: float | None = None) -> str:
    """A number with its standard error, no more digits than mean something."""
    if value is None or not math.isfinite(value):
        return "not a number" if value is None or math.isnan(value) else str(value)
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    digits = max(0, min(6, 1 - math.floor(math.log10(error))))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def plain(value: Any) -> Any:
    """``value`` for json: numpy types as Python's, what is no finite number as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def print_json(value: Any) -> None:
    print(json.dumps(plain(value), indent=1, ensure_ascii=False))


def records(value: Any, kind: str) -> list[Any]:
    """Rows of a result as JSON values."""
    if kind == "table":
        frame = as_frame(value)
        return json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    return plain(value)


def as_frame(value: Any, names: Sequence[str] | None = None) -> Any:
    """A pandas frame of any frame, or of an array (N, D)."""
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return value
    if hasattr(value, "to_pandas"):
        return value.to_pandas()
    array = np.asarray(value)
    array = array.reshape(len(array), -1)
    return pd.DataFrame(array, columns=list(names) if names else [f"x{i}" for i in range(array.shape[1])])


# -------------------------------------------------------------------------------------------------------- destination


@dataclass(frozen=True)
class Destination:
    """Where a result of one ``kind`` goes. ``path`` None is standard output, ``suffix`` the format, "" a folder of files.

    With ``frames`` its rows are so many of the first example, then those of the second, …
    """

    kind: str
    path: Path | None
    suffix: str
    preview: bool = False
    json: bool = False
    frames: int = 0


def destination(out: str | None, kind: str, *, force: bool, json: bool, run: Path, frames: int | None = None) -> Destination:
    """Decided before any work is done. Raises UsageError for an ending that cannot hold ``kind``, PushforwardError for a file
    that is there already and ``force`` is not given."""
    return replace(_destination(out, kind, force, json, run), frames=frames or 0)


def _destination(out: str | None, kind: str, force: bool, json: bool, run: Path) -> Destination:
    standard = FORMATS[kind][0]
    if out is None and json:
        return Destination(kind, None, ".json", json=True)
    if out is None and kind in _PRINTED:
        return Destination(kind, None, standard, preview=sys.stdout.isatty())
    if out is None:
        standard = "" if kind == "sound" else standard
        return Destination(kind, numbered(run / f"samples{standard}"), standard)
    if out == "-" or (out.startswith("-.") and "/" not in out):
        if json:
            raise UsageError("--json and --out - both write to standard output: give one")
        suffix = _suffix(out[1:] or standard, kind, out)
        if suffix not in _TEXTUAL and sys.stdout.isatty():
            raise UsageError(f"a {suffix} would garble the terminal: pipe it somewhere, or give --out FILE{suffix}")
        return Destination(kind, None, suffix)
    path = Path(out).expanduser()
    if kind in _FOLDERS and (out.endswith("/") or path.is_dir()):
        if path.is_dir() and any(path.iterdir()) and not force:
            raise PushforwardError(f"{path} exists and is not empty: choose another --out, or add to it with --force")
        if path.exists() and not path.is_dir():
            raise PushforwardError(f"{path} is a file: choose another --out")
        return Destination(kind, path, "", json=json)
    suffix = _suffix(path.suffix.lower(), kind, out)
    refuse_existing(path, force)
    return Destination(kind, path, suffix, json=json)


def refuse_existing(path: Path, force: bool) -> None:
    """Raises PushforwardError where ``path`` is there and may not be overwritten."""
    if path.is_dir():
        raise PushforwardError(f"{path} is a folder: give a file")
    if path.exists() and not force:
        raise PushforwardError(f"{path} exists already: choose another --out, or overwrite it with --force")


def _suffix(suffix: str, kind: str, out: str) -> str:
    if suffix in FORMATS[kind]:
        return suffix
    found = f"the ending '{suffix}'" if suffix else "no ending"
    able = ", ".join(FORMATS[kind]) + (", or a folder ending in /" if kind in _FOLDERS else "")
    named = {"sound": "recordings", "points": "points", "way": "a way from noise to data"}
    what = named.get(kind, f"{'an' if kind in ('image', 'array') else 'a'} {kind}")
    raise UsageError(f"--out {out} has {found}: {what} can be written as {able}")


def numbered(path: Path) -> Path:
    """``path``, or with the first number that makes it new."""
    found, n = path, 2
    while found.exists():
        found = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return found


def emit(
    value: Any, where: Destination, *, schema: Schema | None = None, names: Sequence[str] | None = None, **about: Any
) -> None:
    """Send a result on its way. ``about`` goes into the JSON; ``names`` are column names of an array."""
    rows = len(value)
    if where.frames and where.kind in ("table", "array", "way") and where.suffix in _FRAMES:
        value, where = _told_frames(as_frame(value, names), where.frames), replace(where, kind="table")
    if where.path is None and where.json:
        print_json({**about, "rows": records(value, where.kind)})
    elif where.preview:
        _preview(value, where.kind, names)
    elif where.path is None:
        _to_stdout(value, where, schema, names)
    else:
        if where.suffix:
            with whole(where.path) as temporary:
                _write(value, temporary, where, schema, names)
        else:
            _write_folder(value, where.path, schema)
        if where.json:
            print_json({**about, "out": str(where.path), "count": rows})
        else:
            say(f"{rows:,} {_NOUNS[where.kind][rows != 1]} written to {where.path}")


_NOUNS = {"image": ("image", "images"), "text": ("text", "texts"), "sound": ("recording", "recordings")}
_NOUNS |= {"signal": ("signal", "signals"), "points": ("set of points", "sets of points")}
_NOUNS |= dict.fromkeys(("table", "array", "way"), ("row", "rows"))


def _told_frames(frame: Any, frames: int) -> Any:
    """With a first column that says which frame of its example a row is."""
    name = "frame"
    while name in frame.columns:
        name += "_"
    return frame.assign(**{name: np.arange(len(frame)) % frames})[[name, *frame.columns]]


def _to_stdout(value: Any, where: Destination, schema: Schema | None, names: Sequence[str] | None) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out{where.suffix}"
        _write(value, path, where, schema, names)
        content = path.read_bytes()
    buffer = getattr(sys.stdout, "buffer", None)
    if where.suffix in _TEXTUAL or buffer is None:
        sys.stdout.write(content.decode("utf-8"))
    else:
        sys.stdout.flush()
        buffer.write(content)
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------------ formats


def _write(value: Any, path: Path, where: Destination, schema: Schema | None, names: Sequence[str] | None) -> None:
    kind, suffix = where.kind, where.suffix
    if suffix == ".npy":
        np.save(path, np.asarray(value), allow_pickle=False)
    elif suffix == ".npz":
        arrays = {"x": np.asarray(value)}
        if schema is not None and isinstance(schema.example, Signal) and schema.example.rate is not None:
            arrays["rate"] = np.array(schema.example.rate)
        write_arrays(path, arrays)
    elif kind == "image":
        _save_sheet(value, path, schema, where.frames)
    elif suffix == ".png":
        from pushforward.fitting.pictures import save_panels

        points = np.asarray(value)
        save_panels([points[i :: where.frames] for i in range(where.frames)], path)
    elif kind == "text":
        path.write_text(_text(value, suffix), encoding="utf-8")
    else:
        _FRAMES[suffix](as_frame(value, names), path)


def _parquet(frame: Any, path: Path) -> None:
    frame = frame.copy(deep=False)
    frame.columns = [str(name) for name in frame.columns]
    frame.to_parquet(path, index=False)


def _lines(frame: Any, path: Path, lines: bool = True) -> None:
    text = frame.to_json(orient="records", lines=lines, date_format="iso", double_precision=15, force_ascii=False)
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


_FRAMES: dict[str, Callable[[Any, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    ".parquet": _parquet,
    ".jsonl": _lines,
    ".json": lambda frame, path: _lines(frame, path, lines=False),
}


def _text(texts: Sequence[str], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    if suffix == ".json":
        return json.dumps(list(texts), indent=1, ensure_ascii=False) + "\n"
    gap = "\n\n" if any("\n" in text for text in texts) else "\n"
    return gap.join(texts) + "\n"


def _shown(images: Any, schema: Schema | None) -> tuple[Image, Any]:
    """The kind of images and their codes."""
    from pushforward.data.images import encode

    assert schema is not None
    assert isinstance(schema.example, Image)
    return schema.example, encode(schema.example, images)


def _save_sheet(images: Any, path: Path, schema: Schema | None, columns: int = 0) -> None:
    """All images on one sheet of so many ``columns``, or a square one; small images enlarged."""
    from pushforward.data.images import grid, save_png

    kind, codes = _shown(images, schema)
    sheet = grid(kind, codes, columns=columns or None)
    times = max(1, round(40 / max(kind.height, kind.width)))
    save_png(sheet.repeat(times, 0).repeat(times, 1), path)


def _write_folder(values: Any, folder: Path, schema: Schema | None) -> None:
    """One PNG or .wav each."""
    from pushforward.data.images import save_png, to_display
    from pushforward.data.signals import encode, save_wav

    kind = schema.example if schema is not None else None
    save: Callable[[Any, Path], None]
    if isinstance(kind, Signal):
        suffix, held = ".wav", encode(kind, values, "the result").numpy()
        save = functools.partial(save_wav, kind)
    else:
        suffix, held, save = ".png", to_display(*_shown(values, schema)), save_png
    digits = max(4, len(str(len(held) - 1)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(folder, error) from error
    for i, one in enumerate(held):
        with whole(folder / f"{i:0{digits}d}{suffix}") as temporary:
            save(one, temporary)


# ------------------------------------------------------------------------------------------------------------ preview


def _preview(value: Any, kind: str, names: Sequence[str] | None) -> None:
    rows = len(value)
    if kind == "text":
        for text in list(value)[:PREVIEW]:
            print(text)
            if "\n" in text:
                print("─" * 32)
    else:
        console().print(table_of(as_frame(value, names), PREVIEW))
    if rows > PREVIEW:
        say(f"the first {PREVIEW} of {rows:,}: --out FILE{FORMATS[kind][0]} writes all")


def table_of(frame: Any, most: int, columns: int = 12) -> Any:
    """The first rows and columns of a frame as a rich table."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    shown = frame.iloc[:most, :columns]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in shown.columns:
        numeric = shown[name].dtype.kind in "iuf"
        table.add_column(escape(str(name)), justify="right" if numeric else "left", overflow="ellipsis", no_wrap=True)
    more = frame.shape[1] - shown.shape[1]
    if more > 0:
        table.add_column(f"… {more} more")
    for row in shown.itertuples(index=False, name=None):
        table.add_row(*(escape(_cell(v)) for v in row))
    return table


def _cell(value: Any) -> str:
    if value is None or value != value or str(value) in ("NaT", "<NA>"):
        return ""
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value)
