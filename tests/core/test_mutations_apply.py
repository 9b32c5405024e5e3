"""The deliberate faults of tests/mutations.py still fit the code, and each is another program."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import mutations


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda f: f.name)
def test_every_fault_still_fits(fault: mutations.Fault, tmp_path: Path) -> None:
    source = mutations.PACKAGE / fault.file
    copy = tmp_path / fault.file
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, copy)
    mutations.mutate(fault, tmp_path)
    assert ast.dump(ast.parse(copy.read_text())) != ast.dump(ast.parse(source.read_text()))


def test_a_snippet_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    for old, count in (("z", 0), ("1", 2)):
        with pytest.raises(ValueError, match=f"occurs {count} times in a.py"):
            mutations.mutate(mutations.Fault("f", "a.py", old, "", ""), tmp_path)


def test_every_fault_names_tests_that_exist() -> None:
    for fault in mutations.FAULTS:
        assert (mutations.TESTS / fault.selection.split("::")[0]).is_file(), fault.selection


def test_faults_are_many_and_distinct() -> None:
    assert len({f.name for f in mutations.FAULTS}) == len({(f.file, f.old) for f in mutations.FAULTS}) >= 14
