"""dvc.yaml names exactly the code that each stage runs, and the environment is pinned in one way."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import yaml

from glassbox.tracking.key import CODE, WRITING_CODE

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
BEARS_ON_NO_RESULT = {
    *("analysis_plan", "archive", "command", "dvc_cache", "errors", "hub_errors", "interruption"),
    *("launcher", "memory"),
    *("config", "config_curves", "config_problems", "config_rules", "yaml_files"),
}
MAKES_SAMPLES = {
    path for path in (SOURCE / "glassbox/tasks").glob("*.py") if path.stem not in ("sample", "storage")
}  # reaches every stage but the first two as data/tasks


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, at any depth of its code; `from a import b` counts as a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def file_of(name: str) -> Path | None:
    path = SOURCE / name.replace(".", "/")
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def code_of(script: Path) -> set[Path]:
    """The package's files that a script imports, directly or through others."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        files = {file_of(name) for name in imported(waiting.pop()) if name.startswith("glassbox.")}
        fresh = {file for file in files if file} - found
        found |= fresh
        waiting += fresh
    return found


def declared(stage: str) -> set[Path]:
    stages = [stage, "trial_code"] if "data/trial_code.json" in STAGES[stage]["deps"] else [stage]
    dependencies = [dependency for name in stages for dependency in STAGES[name]["deps"]]
    return files_of([ROOT / each for each in dependencies if each.startswith("src/glassbox")])


def files_of(paths: Iterable[Path]) -> set[Path]:
    return {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_runs(stage: str):
    ours = {SOURCE / "glassbox" / f"{name}.py" for name in BEARS_ON_NO_RESULT} | {SOURCE / "glassbox/__init__.py"}
    ours |= set((SOURCE / "glassbox/tracking").glob("*.py"))
    ours |= set() if stage in ("prepare", "pretrain") else MAKES_SAMPLES
    missing = code_of(SOURCE / f"{stage}.py") - declared(stage) - ours
    assert {str(path.relative_to(ROOT)) for path in missing if path.name != "__init__.py"} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage: str):
    script = SOURCE / ("train.py" if stage == "trial_code" else f"{stage}.py")
    unused = [
        dependency
        for dependency in STAGES[stage]["deps"]
        if dependency.startswith("src/glassbox")
        and not any(file.is_relative_to(ROOT / dependency) for file in code_of(script))
    ]
    assert unused == []


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("settings", "pretrain")])
def test_every_stage_waits_for_the_settings(stage: str):
    assert "data/settings.json" in STAGES[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_script_of_its_name(stage: str):
    assert STAGES[stage]["cmd"].startswith(f"python src/{stage}.py")
    if stage != "settings":
        assert f"src/{stage}.py" in STAGES[stage]["deps"]


def test_the_digest_of_the_trials_code_covers_what_the_stage_that_writes_it_depends_on():
    digested = files_of(SOURCE / "glassbox" / name for name in (*CODE, *WRITING_CODE))
    assert digested == declared("trial_code")


def test_a_snapshot_never_depends_on_how_it_is_used():
    assert STAGES["snapshot"]["params"] == ["snapshot", "teacher"]


def test_the_lock_pins_what_the_project_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    locked = {plain(line) for line in lines if not line.startswith("#")}
    named = {plain(pin) for pin in (*project["dependencies"], *project["optional-dependencies"]["dev"])}
    assert named <= locked
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^\s;]+", pin) for pin in locked)


def test_what_is_imported_is_named_by_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {plain(pin).partition("==")[0] for pin in project["dependencies"]}
    packages = {
        "huggingface_hub": "huggingface-hub",
        "hydra": "hydra-core",
        "yaml": "pyyaml",
        "pydantic_core": "pydantic-core",
    }
    tops = {name.partition(".")[0] for path in SOURCE.rglob("*.py") for name in imported(path)}
    ours = {path.stem for path in SOURCE.glob("*.py")} | {"glassbox"}
    assert {packages.get(name, name) for name in tops - sys.stdlib_module_names - ours} <= named


def plain(pin: str) -> str:
    """A pin with its name as the index spells it, without extras."""
    name, version = re.sub(r"\[.*\]", "", pin).split("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"
