"""A small project whose trials are run by the real script, and what tests look at afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import yaml
from projects import ROOT, shrunk_settings

from glassbox.config.settings import Settings, load_settings
from glassbox.files import sha256_of
from glassbox.grid.cells import Cell

T = TypeVar("T")
TRAIN = ROOT / "src/train.py"


def write_params(project: Path, groups: Sequence[str] = ("sft", "combined"), **changes: Any) -> Settings:
    """params.yaml with these groups alone."""
    values = shrunk_settings(project, **changes).model_dump(mode="json")
    values |= {"groups": list(groups), "distill": {group: values["distill"][group] for group in groups}}
    (project / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_settings(project / "params.yaml")


def start(project: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python src/train.py` in the project, leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        cwd=project,
        env={**os.environ, "DVC_ROOT": str(project), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(project: Path, *arguments: str, expect: int = 0, **environment: str) -> str:
    process = start(project, *arguments, **environment)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == expect, output
    return output


def manifests(project: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((project / "runs").glob("*/*.json"))
    return {f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8")) for path in paths}


def digests(project: Path) -> dict[str, tuple[str, str]]:
    """Of every trial its student and its answers."""
    found = manifests(project)
    return {name: (each["digests"]["final_student"], each["digests"]["items"]) for name, each in found.items()}


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of a running `train`, the oldest first."""
    children = psutil.Process(process.pid).children()
    return sorted((each for each in children if "glassbox.grid.worker" in each.cmdline()), key=lambda each: each.pid)


def wait_for_checkpoint(project: Path, seconds: float = 300.0) -> Path:
    """The folder of a running trial's first checkpoint."""
    return wait_for(lambda: next((project / ".glassbox/running").glob("*/step-*"), None), seconds)


def wait_for(look: Callable[[], T | None], seconds: float = 300.0) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("What the test waits for did not happen")


def forget(project: Path) -> None:
    """As if nothing had been trained."""
    for name in ("runs", ".glassbox/trials", ".glassbox/running"):
        shutil.rmtree(project / name, ignore_errors=True)


def owner(project: Path, key: str) -> psutil.Process:
    """The process that trains the trial of this key."""
    return psutil.Process(int((project / f".glassbox/locks/{key}.owner").read_text(encoding="utf-8")))


def publish(cell: Cell, files: Mapping[str, bytes] | None = None, seconds: float = 20.0) -> None:
    """A trial in runs/ as a trial publishes it, with these files beside its history."""
    folder = cell.manifest.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"step": [1], "metric": ["train/loss_total"], "value": [2.0]})
    parquet.write_table(table, folder / "history.parquet")
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    values = {
        "schema": 1,
        "group": cell.group,
        "seed": cell.seed,
        "key": cell.key,
        "study_key": "study",
        "status": "finished",
        "run_id": "run-of-another-store",
        "seconds": seconds,
        "metrics": {"train/loss_total": 2.0},
        "params": {"group": cell.group, "seed": cell.seed},
        "tags": {"group": cell.group, "seed": str(cell.seed), "key": cell.key, "scale": "faithful"},
        "digests": {"snapshot": "snapshot"},
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    cell.manifest.write_text(json.dumps(values), encoding="utf-8")
