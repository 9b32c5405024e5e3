"""CPU loops that tensor operations cannot express, compiled by numba when first used.

Lives here: kernels on arrays of float32, some of bfloat16 too, each named by the slow readable reference it must equal (a test
holds them together).
Never here: anything that has no such reference, or that a few tensor operations do as well.

A kernel is compiled for the processor when its module is first imported, which takes seconds, and kept on disk: who waits at a
terminal is told why.
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
import threading
from functools import cache
from typing import Any

_PATIENCE = 2.0  # seconds
_NAMES = (
    *("affine", "attention", "autoregressive", "bernoulli", "causal", "gaussians", "lanes", "modulated", "nade"),
    *("norm", "pixel", "product", "spline", "stack", "threads", "tree"),
)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    notice = threading.Timer(_PATIENCE, _explain)
    notice.daemon = True
    notice.start()
    try:
        return _imported(f"{__name__}.{name}")
    finally:
        notice.cancel()


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
    # neither this folder nor the user's can be written, as in a sealed container: what is compiled lasts as long as the process
    from numba import config

    folder = tempfile.mkdtemp(prefix="pushforward-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    setattr(config, "CACHE_DIR", folder)  # noqa: B010  numba makes its settings when it is imported
    return importlib.import_module(module)


@cache
def _explain() -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print("pushforward: compiling kernels for this processor, once; later runs find them ready", file=sys.stderr)
