"""What a source is, told from its type or its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pushforward.core.errors import DataError, did_you_mean

MEMORY = 2 * 1024**3
TABLES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson", ".json")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*TABLES, *ARRAYS, ".txt")


def is_frame(source: Any) -> bool:
    """Whether ``source`` is a pandas or polars frame or an Arrow table, without importing what is not imported yet."""
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(source).__mro__}
    frames = {("pandas", "DataFrame"), ("polars", "DataFrame"), ("polars", "LazyFrame")}
    return bool(kinds & (frames | {("pyarrow", "Table"), ("pyarrow", "RecordBatch")}))


def is_hub(source: Any) -> bool:
    """Whether ``source`` is of the ``datasets`` library."""
    return any(cls.__module__.split(".")[0] == "datasets" for cls in type(source).__mro__)


def is_texts(source: Any) -> bool:
    """Whether ``source`` is a list of strings."""
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(item, str) for item in source)


def existing(source: str | Path) -> Path | None:
    """The file or folder that ``source`` names, None where there is none."""
    try:
        path = Path(source).expanduser()
        return path if str(source) and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def is_hub_name(source: Any) -> bool:
    """Whether ``source`` looks like "user/name" and not like a file."""
    return (
        isinstance(source, str)
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None
        and Path(source).suffix.lower() not in SUFFIXES
    )


def no_such(source: str | Path) -> DataError:
    """What to say of a name that is nothing."""
    from pushforward.data.known import NAMES

    path, shown = Path(source), "".join(c if c.isprintable() else "?" for c in str(source)[:200])
    if isinstance(source, Path) or path.suffix.lower() in SUFFIXES or "/" in str(source) or "\\" in str(source):
        folder = path.expanduser().parent
        near = ""
        if folder.is_dir():
            hint = did_you_mean(path.name, sorted(p.name for p in folder.iterdir()))
            near = f": {hint}" if hint.startswith("did you mean") else f" (the folder {folder} is there)"
        return DataError(f"there is no file or folder '{shown}'{near}")
    return DataError(f"'{shown}' is neither a file nor a bundled data set: {did_you_mean(str(source), NAMES)}")
