"""dvc.yaml names the packages that each stage runs, and the environment is pinned in one way."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from glassbox.files import BEARS_ON_NO_RESULT, imported_files

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "glassbox"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
RUNNING = [name for name in STAGES if name not in ("settings", "pretrain")]
# Ground and settings: what they say of a stage is in its parameters
SHARED = (*BEARS_ON_NO_RESULT, "__init__.py", "config", "processes.py", "randomness.py")
# What a stage that comes earlier, or its key, answers for
REACHES_AS = {"tasks": "data/tasks", "objective": "runs", "training": "runs", "models": "runs", "evaluation": "runs"}


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


def code_of(script: Path) -> set[Path]:
    """The package's files that a script imports, directly or through others."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        fresh = set(imported_files(waiting.pop())) - found
        found |= fresh
        waiting += fresh
    return found


def declared(stage: str) -> set[Path]:
    places = [ROOT / each for each in STAGES[stage]["deps"] if each.startswith("src/glassbox")]
    return {file for place in places for file in place.rglob("*.py")}


@pytest.mark.parametrize("stage", RUNNING)
def test_a_stage_depends_on_the_packages_it_runs(stage: str):
    missing = {path.relative_to(PACKAGE).as_posix() for path in code_of(SOURCE / f"{stage}.py") - declared(stage)}
    elsewhere = [name for name, output in REACHES_AS.items() if output in STAGES[stage]["deps"]]
    assert {name for name in missing if not name.startswith((*SHARED, *elsewhere))} == set()


@pytest.mark.parametrize("stage", RUNNING)
def test_a_stage_depends_on_packages_and_on_none_that_it_does_not_import(stage: str):
    packages = [ROOT / each for each in STAGES[stage]["deps"] if each.startswith("src/glassbox")]
    assert all(package.is_dir() for package in packages)
    assert [
        each for each in packages if not any(file.is_relative_to(each) for file in code_of(SOURCE / f"{stage}.py"))
    ] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_script_of_its_name(stage: str):
    assert STAGES[stage]["cmd"] == f"python src/{stage}.py"
    assert f"src/{stage}.py" in STAGES[stage].get("deps", [f"src/{stage}.py"])


def test_stages_can_be_read_aloud():
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 150
    outputs = [str(output) for stage in STAGES.values() for output in stage.get("outs", [])]
    assert not any(token in output for output in outputs for token in ("settings.json", "groups.json", "verified.json"))


def test_no_stage_depends_on_a_place_inside_the_output_of_another():
    outputs = {
        place
        for stage in STAGES.values()
        for output in stage.get("outs", [])
        for place in (output if isinstance(output, dict) else [output])
    }
    inside = [
        dependency
        for stage in STAGES.values()
        for dependency in stage.get("deps", [])
        if any(dependency.startswith(f"{output}/") for output in outputs)
    ]
    assert inside == []


def test_a_snapshot_depends_on_who_reads_which_answers_and_on_no_other_use():
    settings = {"distill", "groups", "objective.layer_map", "snapshot", "student", "teacher", "train.labelled"}
    assert set(STAGES["snapshot"]["params"]) == settings
    assert {"groups", "distill", "train.labelled"} <= set(STAGES["answers"]["params"])
    assert all("data/answers" in STAGES[stage]["deps"] for stage in ("snapshot", "verify", "train"))


def test_the_hashes_are_those_of_every_pin_but_torch():
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    locked = re.split(r"(?m)^(?=\w)", (ROOT / "requirements-hashes.txt").read_text(encoding="utf-8"))[1:]
    everywhere = {plain(entry.split()[0]) for entry in locked if ";" not in entry}
    assert everywhere == {plain(pin) for pin in pins if not pin.startswith(("#", "torch=="))}
    assert all("--hash=sha256:" in entry for entry in locked)


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
