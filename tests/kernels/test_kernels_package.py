"""Who waits for kernels to be compiled is told so."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pushforward import kernels


def test_a_slow_import_is_explained_at_a_terminal_and_a_quick_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowly(name: str) -> ModuleType:
        time.sleep(0.2)
        return ModuleType(name)

    monkeypatch.setattr(importlib, "import_module", slowly)
    for patience, terminal, told in ((0.01, True, True), (0.01, False, False), (60.0, True, False)):
        monkeypatch.setattr(kernels, "_PATIENCE", patience)
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        kernels._explain.cache_clear()
        assert kernels.__getattr__("stack").__name__ == "pushforward.kernels.stack"
        assert ("compiling" in capsys.readouterr().err) == told


_SEALED = """
from numba.core import caching
kept = caching.CacheImpl._locator_classes
caching.CacheImpl._locator_classes = [c for c in kept if c is caching.UserProvidedCacheLocator]
import torch
from pushforward.kernels import affine
z, v = affine.pull(torch.ones(2, 3), torch.zeros(2, 2, 3), 7.0)
assert z.tolist() == [[1.0] * 3] * 2 and v.tolist() == [0.0] * 2
from numba import config
print(config.CACHE_DIR)
"""


def test_where_no_folder_can_be_written_kernels_are_compiled_for_the_process() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", _SEALED], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name.startswith("pushforward-kernels-")
    assert not folder.exists()


def test_there_is_nothing_else_in_it() -> None:
    anything: Any = kernels
    with pytest.raises(AttributeError, match="nonsense"):
        _ = anything.nonsense
