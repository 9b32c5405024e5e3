"""The files of a known data set: found in a folder, or fetched once from their home and checked.

A file is looked for in the folder ``PUSHFORWARD_DATA``, then in the cache (``PUSHFORWARD_CACHE``, by default
``~/.cache/pushforward``), and then fetched into the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

from pushforward.core.errors import DataError
from pushforward.data.known import CATALOG, Remote

TIMEOUT = 30.0
# No bundled file is larger than this; a longer answer is not what was asked for.
MAX_BYTES = 200 * 2**20


def cache_folder() -> Path:
    """Where fetched files are kept."""
    given = os.environ.get("PUSHFORWARD_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "pushforward"


def _problem(remote: Remote, content: bytes) -> str | None:
    """What is wrong with the content of ``remote``, None where it is right."""
    if remote.sha256 is not None:
        digest = hashlib.sha256(content).hexdigest()
        return None if digest == remote.sha256 else f"its SHA-256 is {digest}, expected {remote.sha256}"
    lines = content.decode("utf-8", "replace").splitlines()
    header = tuple(cell.strip().strip('"') for cell in lines[0].split(",")) if lines else ()
    if header != remote.header:
        return f"its columns are {', '.join(header)[:200]!r}, expected {', '.join(remote.header)!r}"
    rows = sum(bool(line.strip()) for line in lines) - 1
    return None if rows == remote.rows else f"it has {rows} rows, expected {remote.rows}"


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "pushforward"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if not answer.geturl().startswith("https://"):
            raise OSError(f"{url} leads to {answer.geturl()}, which is not https")
        content = answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(f"{url} sends more than {MAX_BYTES} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _fetch(remote: Remote, folder: Path) -> Path:
    """The file of ``remote`` in ``folder``, from there where it is intact, otherwise fetched, checked and kept."""
    path = folder / remote.file
    if path.is_file() and _problem(remote, path.read_bytes()) is None:
        return path
    content = _download(remote.url)
    problem = _problem(remote, content)
    if problem is not None:
        raise OSError(f"{remote.url} is not the file it should be: {problem}")
    _write(path, content)
    return path


def files(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """The local file of ``name``, or else its fetched files. Raises DataError where neither can be had."""
    entry = CATALOG[name]
    root = os.environ.get("PUSHFORWARD_DATA")
    tried = []
    if root:
        path = Path(root).expanduser() / entry.local
        if path.is_file():
            return path, ()
        tried.append(f"{path} (not there)")
    else:
        tried.append("PUSHFORWARD_DATA (not set)")
    if not entry.remote:
        tried.append("a public home (none with a known checksum)")
    else:
        folder = cache_folder() / name
        tried.append(f"the cache {folder}")
        try:
            return None, tuple(_fetch(remote, folder) for remote in entry.remote)
        except (OSError, ValueError) as error:
            tried.append(f"{entry.remote[0].url.rsplit('/', 1)[0]} ({error})")
    raise DataError(f"cannot get {name!r}: tried {'; '.join(tried)}. Set PUSHFORWARD_DATA to a folder that holds {entry.local}")
