"""Imports point down the page of the design, accelerate has one importer, and a bare import costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pushforward

ROOT = Path(pushforward.__file__).parent
ORDER = (
    *("cli", "studio", "fitting", "sklearn", "catalog", "pretrained", "models", "guidance", "metrics", "data", "nets"),
    *("transforms", "paths", "solvers", "algorithms", "kernels", "core"),
)
HEIGHT = {name: len(ORDER) - place for place, name in enumerate(ORDER)}
MODULES = sorted(ROOT.rglob("*.py"))


def floor(parts: tuple[str, ...]) -> str:
    """The floor a dotted path under the package is on; '' is the package itself."""
    return parts[0] if parts else ""


def imported(path: Path, text: str | None = None) -> list[tuple[int, str]]:
    """(line, dotted name) of all that a module imports, at the top or inside functions, type-checking blocks included."""
    found = []
    package = ("pushforward", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        if isinstance(node, ast.Import):  # of the bare package, what counts is what is taken from it
            found += [(node.lineno, alias.name) for alias in node.names if alias.name != "pushforward"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pushforward":
            found.append((node.lineno, f"pushforward.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = floor(path.relative_to(ROOT).with_suffix("").parts)
    if here == "__init__":  # names the front doors for type checkers and loads them when asked
        return
    if here == "__main__":
        here = "cli"
    assert here in HEIGHT, f"{here} has no place in the design's layout"
    for line, name in imported(path):
        if name.split(".")[0] != "pushforward" or name == "pushforward.__version__":
            continue
        there = floor(tuple(name.split(".")[1:]))
        assert there in HEIGHT, f"{path.name}:{line} imports {name}, which is on no floor"
        assert there == here or HEIGHT[there] < HEIGHT[here], f"{path.name}:{line}: {here} imports {name}, which is above it"


def test_the_import_parser_sees_nested_and_relative_imports() -> None:
    module = ROOT / "models" / "imagined.py"
    lines = ["def f():", "    from ..fitting import trainer", "    import pushforward.cli", "from . import flow"]
    text = "\n".join([*lines, "import pushforward", "x = pushforward.fit", ""])
    names = {name for _, name in imported(module, text)}
    assert names == {"pushforward.fitting.trainer", "pushforward.cli", "pushforward.models.flow", "pushforward.fit"}


def test_the_maths_floors_never_import_nets() -> None:
    for folder in ("transforms", "paths", "solvers", "core"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not any(name.startswith("pushforward.nets") for _, name in imported(path)), path


def test_only_one_module_imports_accelerate() -> None:
    importers = {str(p.relative_to(ROOT)) for p in MODULES for _, name in imported(p) if name.split(".")[0] == "accelerate"}
    assert importers == {"fitting/distributed.py"}


@pytest.mark.parametrize("module", ["pushforward", "pushforward.catalog"])
def test_importing_costs_next_to_nothing(module: str) -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'accelerate', 'sklearn', 'matplotlib', 'datasets', 'scipy'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_says_what_lives_there_and_what_never_does() -> None:
    for path in ROOT.glob("*/__init__.py"):
        text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
        assert "ere: " in text, f"{path.parent.name} says nothing of what lives there"
        assert "ever here: " in text, f"{path.parent.name} says nothing of what never does"


def test_the_front_door_offers_what_it_names() -> None:
    for name in pushforward.__all__:
        assert getattr(pushforward, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = pushforward.fitt
