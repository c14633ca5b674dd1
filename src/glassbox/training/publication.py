"""What a trial leaves behind: history, per-item results, the student where it is kept, and the manifest, written last.

A reader that finds `runs/<group>/<seed>.json` finds everything it names, whole: the folder beside it is moved into
place by one rename before the manifest is.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.config.storage import RUNS_FOLDER
from glassbox.evaluation.evaluation import Evaluation
from glassbox.files import require_free_space, sha256_of, write_json
from glassbox.models.loading import model_digest
from glassbox.objective import liveness
from glassbox.tracking import TrialRun, UnrecordedRun
from glassbox.tracking.items import items_digest, write_items
from glassbox.tracking.manifest import flat_params
from glassbox.training.card import model_card
from glassbox.training.checkpoint import Progress
from glassbox.training.divergence import DUMP
from glassbox.training.student import Student, part_of, save_student

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "accelerate", "mlflow", "dvc", "pyarrow")
BYTES_PER_WEIGHT = 4
ITEM_COLUMNS = ("task", "sample_id", "correct", "prediction", "gold")


@dataclass(frozen=True)
class Outcome:
    """All that is published of a trial. weights: the student's, whole. evaluation: None where the trial diverged."""

    settings: Settings
    group: str
    seed: int
    key: str
    study_key: str
    digests: Mapping[str, str]
    tags: Mapping[str, str]
    progress: Progress
    status: str
    reason: str
    evaluation: Evaluation | None
    precision: str
    heads: str | None
    processes: int
    varies: Mapping[str, Any]
    student: Student
    weights: Mapping[str, Tensor]
    tokenizer: PreTrainedTokenizerFast
    scratch: Path


def publish(trial: Outcome, run: TrialRun | UnrecordedRun) -> None:
    """Write the trial's folder and manifest, and log both to MLflow."""
    target = RUNS_FOLDER / trial.group / str(trial.seed)
    staging = target.with_name(f".{target.name}-staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    size = sum(tensor.numel() for tensor in trial.weights.values())
    require_free_space(staging, size * BYTES_PER_WEIGHT, f"Trial {trial.group}/{trial.seed}")
    items = [] if trial.evaluation is None else [vars(item) for item in trial.evaluation.items]
    _write_files(trial, staging, items)
    digests = {
        **trial.digests,
        "initial_student": trial.progress.initial_student,
        "final_student": model_digest(part_of(trial.weights, "model")),
        "items": items_digest(items) if items else "",
    }
    outcome = {"precision": trial.precision, "outcome": trial.status}
    for name, value in ({f"{name}_digest": digest for name, digest in digests.items()} | outcome).items():
        run.tag(name, value)
    if items:
        run.table("items.json", items, ITEM_COLUMNS)
    for path in (staging / "history.parquet", staging / "items.parquet", staging / DUMP):
        if path.exists():
            run.artifact(path)
    files = {path.relative_to(staging).as_posix(): path for path in sorted(staging.rglob("*")) if path.is_file()}
    manifest = _manifest(trial) | {
        "run_id": run.run_id,
        "digests": digests,
        "tags": {**trial.tags, **outcome},
        "files": {name: sha256_of(path) for name, path in files.items()},
    }
    path = target.with_name(f"{target.name}.json")
    path.unlink(missing_ok=True)  # an earlier trial's, which must not name the files of this one
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    write_json(path, json.loads(json.dumps(manifest, sort_keys=True, allow_nan=False)))
    run.artifact(path)
    if (target / "student").is_dir():
        run.model(target / "student")


def _write_files(trial: Outcome, folder: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """History, results per item, what is known of a divergence, and the student where it is kept."""
    history = trial.progress.history
    columns = zip(*history, strict=True) if history else ([], [], [])
    _write_table(folder / "history.parquet", dict(zip(("step", "metric", "value"), columns, strict=True)))
    if items:
        write_items(folder / "items.parquet", items)
    if (trial.scratch / DUMP).exists():
        shutil.copyfile(trial.scratch / DUMP, folder / DUMP)
    if trial.evaluation is not None and _keeps_student(trial.settings, trial.seed):
        snapshot = trial.digests["snapshot"]
        card = model_card(trial.settings, trial.group, trial.seed, snapshot, trial.evaluation, trial.tokenizer)
        save_student(trial.student, trial.weights, trial.tokenizer, folder / "student", card)


def _manifest(trial: Outcome) -> dict[str, Any]:
    """What the manifest says of the trial itself; its run, digests and files are added where they are made."""
    progress = trial.progress
    return {
        "schema": SCHEMA_VERSION,
        "group": trial.group,
        "seed": trial.seed,
        "status": trial.status,
        "reason": trial.reason,
        "key": trial.key,
        "study_key": trial.study_key,
        "metrics": {name: value for _, name, value in progress.history},
        "params": flat_params(trial.settings, trial.group, trial.seed),
        "precision": trial.precision,
        "heads": trial.heads,
        "processes": trial.processes,
        "varies": dict(trial.varies),
        "machine": trial.tags["machine"],
        "liveness": liveness.summary(progress.liveness),
        "steps": progress.step,
        "skipped_steps": progress.step - progress.updates,
        "stopped_early": progress.stopped_early,
        "seconds": progress.seconds,
        "plan": progress.plan,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_gpu_bytes": peak_gpu_bytes(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def _write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)


def _keeps_student(settings: Settings, seed: int) -> bool:
    keep = settings.storage.keep_students
    return keep == "all" or (keep == "one_per_group" and seed == min(settings.seeds))


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_bytes() -> int | None:
    """The most that tensors have held on the GPU at once, in bytes; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
