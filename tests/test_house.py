"""The floor plan: few rooms at the top, imports that only go down, no circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from glassbox.files import SOURCE, imported_files

# Each package may import those above it in this list, and any may import the files beside it (the ground).
FLOORS = (
    *("config", "report", "models", "tracking", "tasks", "comparison"),
    *("evaluation", "snapshot", "objective", "training", "grid", "preflight"),
)
MODULES = sorted(SOURCE.rglob("*.py"))


def floor_of(path: Path) -> int:
    """The place of a module's package in FLOORS; -1 on the ground."""
    package = path.relative_to(SOURCE).parts[0]
    return FLOORS.index(package) if package in FLOORS else -1


def test_the_top_is_small():
    assert len(list(SOURCE.glob("*.py"))) <= 6
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages == set(FLOORS) and len(packages) <= 12


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_import_goes_up(path: Path):
    higher = [each for each in imported_files(path) if floor_of(each) > floor_of(path)]
    assert [each.relative_to(SOURCE).as_posix() for each in higher] == []


def test_the_report_imports_nothing_of_ours_but_files_and_errors():
    for path in (SOURCE / "report").rglob("*.py"):
        outside = [each for each in imported_files(path) if not each.is_relative_to(SOURCE / "report")]
        assert {each.name for each in outside} <= {"__init__.py", "files.py", "errors.py"}, path


def test_no_module_imports_itself_through_others():
    graph = {path: [each for each in imported_files(path) if each.name != "__init__.py"] for path in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_no_class_is_subclassed_from_another_package():
    """What a package needs of another is called or passed in; errors, settings and protocols aside."""
    allowed = {"GlassboxError", "Section", "Protocol", "Exception", "BaseModel", "RuntimeError"}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {
            alias.asname or alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glassbox")
            for alias in node.names
        }
        package = path.relative_to(SOURCE).parts[0]
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        bases = {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}
        foreign = {name for name in bases - allowed if name in ours and ours[name].split(".")[1] != package}
        assert foreign == set(), path
