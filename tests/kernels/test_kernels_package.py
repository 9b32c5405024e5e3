"""Who waits for kernels to be compiled is told so."""

from __future__ import annotations

import importlib
import sys
import time
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


def test_there_is_nothing_else_in_it() -> None:
    anything: Any = kernels
    with pytest.raises(AttributeError, match="nonsense"):
        _ = anything.nonsense
