"""Row 6: trials of all groups beside plain SFT trials, each a process of its own that starts, trains and evaluates.

They run in a temporary copy of the project, on the embedded scale's own tasks and snapshot.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.tracking import MlflowClient

from glassbox.config.settings import Settings, load_settings
from suite.measuring import Ratio
from suite.row import Row

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("src", "conf", "data/embedded")
STAGES = ("settings", "prepare", "answers", "snapshot", "verify")
MOVED = ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")
GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")
PLAIN = Path(__file__).with_name("plain_sft.py")
PLAIN_RUNS = 2


@dataclass(frozen=True)
class Run:
    """One process from its start to its end: seconds on the wall, and of processor time."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Parts:
    """Where a trial's seconds went: until its run opened, the loop with its validations, the rest with the test."""

    start: float
    training: float
    evaluation: float


@contextmanager
def prepared_project() -> Iterator[Path]:
    """A copy of the project in which every stage before `train` has run."""
    with TemporaryDirectory(prefix="glassbox-") as name:
        project = Path(name)
        for part in COPIED:
            shutil.copytree(REPOSITORY / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "params.yaml", project)
        for stage in STAGES:
            run(project, f"src/{stage}.py")
        yield project


def run(project: Path, *command: str) -> Run:
    """Run a Python script in the project. Raises RuntimeError with its last words where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in MOVED}
    started, used = time.perf_counter(), _processor_seconds()
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    found = Run(time.perf_counter() - started, _processor_seconds() - used)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
    return found


def _processor_seconds() -> float:
    """Processor time of all processes that this one started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def trial(project: Path, group: str, seed: int) -> tuple[Run, Parts]:
    began = time.time()
    found = run(project, "src/train.py", "--group", group, "--seed", str(seed))
    return found, _parts(project, group, seed, began, found.wall)


def _parts(project: Path, group: str, seed: int, began: float, wall: float) -> Parts:
    manifest = json.loads((project / "runs" / group / f"{seed}.json").read_text(encoding="utf-8"))
    info = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").get_run(manifest["run_id"]).info
    start = info.start_time / 1000 - began
    return Parts(start, manifest["seconds"], wall - start - manifest["seconds"])


def measure() -> list[Row]:
    settings = load_settings(REPOSITORY / "params.yaml")
    seed, *others = settings.seeds
    groups: dict[str, tuple[Run, Parts]] = {}
    sft: list[tuple[Run, Parts]] = []
    with prepared_project() as project:
        plain = [run(project, str(PLAIN)) for _ in range(PLAIN_RUNS)]
        for group, other in zip(GROUPS, others, strict=False):
            groups[group] = trial(project, group, seed)
            sft.append(trial(project, "sft", other))
    mine, reference = [found for found, _ in groups.values()], [found for found, _ in sft]
    seconds = {name: _seconds([parts]) for name, (_, parts) in groups.items()}
    seconds |= {"sft trials of other seeds": _seconds([parts for _, parts in sft])}
    seconds |= {"Trainer": {"all": statistics.mean(each.wall for each in plain)}}
    shapes, more = _shapes(settings), {"limit": "1", "note": _note(seconds), "details": seconds}
    name, besides = "trials of the five groups", "ours read signals, audit, validate and test 1,500 items besides"
    return [
        Row.of("6", f"{name} / as many SFT trials of ours, without DVC", shapes, _ratio(mine, reference), 1.15, **more),
        Row.of("6", f"{name} / a plain Trainer script that only trains", shapes, _ratio(mine, plain), note=besides),
    ]


def _ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> Ratio:
    """Of the means; the range is that of each of ours over the mean of theirs."""
    wall, cpu = (statistics.mean(getattr(each, name) for each in theirs) for name in ("wall", "cpu"))
    walls = [each.wall / wall for each in ours]
    return Ratio(statistics.mean(walls), min(walls), max(walls), statistics.mean(each.cpu for each in ours) / cpu)


def _seconds(parts: Sequence[Parts]) -> dict[str, float]:
    return {name: statistics.mean(getattr(each, name) for each in parts) for name in Parts.__dataclass_fields__}


def _note(seconds: Mapping[str, Mapping[str, float]]) -> str:
    means = {name: statistics.mean(seconds[group][name] for group in GROUPS) for name in Parts.__dataclass_fields__}
    return "seconds a trial: " + ", ".join(f"{name} {value:.1f}" for name, value in means.items())


def _shapes(settings: Settings) -> str:
    samples = sum(task.train or 0 for task in settings.prepare.tasks.values())
    steps = settings.train.epochs * -(-samples // settings.train.batch_size)
    return f"embedded scale, {samples:,} samples, {steps} steps of {settings.train.batch_size}, whole processes"
