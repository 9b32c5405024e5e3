"""Whole files or none: everything a run writes goes through here."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pushforward.core.errors import CheckpointError, PushforwardError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes when it does not."""
    # the suffix stays last: writers choose their format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def apart(data: Any, out: str | Path | None) -> None:
    """Refuses to write into the folder that is the data, or that would from then on be what their name means."""
    if out is not None and isinstance(data, (str, Path)) and Path(out).resolve() == Path(data).resolve():
        raise PushforwardError(
            f"--out {out} and the data have the same name: choose another --out, such as runs/{Path(out).name}"
        )


def writing_failed(path: Path, error: OSError) -> PushforwardError:
    """The one line that says why ``path`` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PushforwardError(f"{path} could not be written: the disk is full; free some space or choose another --out")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PushforwardError(f"{path} could not be written: no permission; choose another --out")
    return PushforwardError(f"{path} could not be written: {error.strerror or error}")


def write_json(path: Path, value: Any) -> None:
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises CheckpointError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: this is not a complete run folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore it or fit again") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors; shared storage is copied."""
    with whole(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError where the file is missing, damaged or something else than safetensors."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: this is not a complete run folder")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        # only now: safetensors begin with a length, whose first byte may be anything
        if _begins_as_pickle(path):
            raise CheckpointError(
                f"{path} is a pickle, which could run any code: it is never read; fit again to get safetensors"
            ) from None
        raise CheckpointError(f"{path} is damaged or truncated ({error}): restore it or fit again") from error


def _begins_as_pickle(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            head = handle.read(2)
    except OSError:
        return False
    return head == b"PK" or head[:1] == b"\x80"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with whole(path) as temporary:
        np.savez_compressed(temporary, **dict(arrays))  # type: ignore[arg-type]


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in place; the name ``final`` must be new."""
    try:
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise writing_failed(final, error) from error
