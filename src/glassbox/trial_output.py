"""What a trial leaves behind: history, per-item results, the student where it is kept, and the manifest, written last.

A reader that finds `runs/<group>/<seed>.json` finds everything it names, whole: the folder beside it is moved into
place by one rename before the manifest is.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from glassbox import liveness
from glassbox.checkpoint import Progress
from glassbox.config import Settings
from glassbox.evaluation import Evaluation
from glassbox.item_results import items_digest, write_items
from glassbox.memory import peak_gpu_bytes, peak_memory_bytes
from glassbox.models import model_digest
from glassbox.snapshot.reader import Batch
from glassbox.snapshot.storage import require_free_space, sha256_of, write_synced
from glassbox.student import part_of, save_student
from glassbox.trial_key import sections_of

if TYPE_CHECKING:
    from glassbox.tracking import TrialRun, UnrecordedRun
    from glassbox.trial import Trial

SCHEMA_VERSION = 1
DUMP = "diverged.json"
PACKAGES = ("torch", "transformers", "accelerate", "mlflow", "dvc", "pyarrow")
BYTES_PER_WEIGHT = 4


def flat_params(settings: Settings, group: str, seed: int) -> dict[str, Any]:
    """What MLflow shows and groups by: `group`, `seed`, `weight_hidden`, `train.learning_rate`, ..."""
    params: dict[str, Any] = {"group": group, "seed": seed, "scale": settings.scale}
    objective = settings.distill[group]
    params |= {f"weight_{name}": weight for name, weight in objective.components.items()}
    params |= {"labels": objective.labels}
    params |= {"shuffled": ", ".join(objective.shuffled)} if objective.shuffled else {}
    params |= {"teacher": settings.teacher.model, "student": settings.student.model}
    for section, values in sections_of(settings).items():
        params |= _flatten(section, values)
    return params


def _flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(f"{prefix}.{name}", value)
        else:
            flat[f"{prefix}.{name}"] = value
    return flat


def describe(step: int, batches: Sequence[Batch], components: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    """What one process knows about a non-finite loss or gradient."""
    return {
        "step": step,
        "what": what,
        "sample_ids": [sample_id for batch in batches for sample_id in batch.sample_ids],
        "components_of_the_last_micro_batch": {
            name: [repr(value) for value in values.detach().float().cpu().tolist()]
            for name, values in components.items()
        },
        "not_finite": [name for name, values in components.items() if not bool(values.isfinite().all())],
    }


def dump(folder: Path, found: Mapping[str, Any]) -> None:
    write_synced(folder / DUMP, json.dumps(found, indent=2).encode())


def sentence(found: Mapping[str, Any]) -> str:
    """Why the trial diverged, for people."""
    bad = found["not_finite"]
    where = f"in {', '.join(bad)}" if bad else "although every component was finite"
    return (
        f"the {found['what']} of step {found['step']} is not finite {where}; the update was not made, "
        f"{DUMP} lists samples and values"
    )


def publish(
    trial: Trial,
    weights: Mapping[str, Tensor],
    run: TrialRun | UnrecordedRun,
    progress: Progress,
    status: str,
    evaluation: Evaluation | None,
    reason: str,
) -> None:
    """Write the trial's folder and manifest, and log both to MLflow. `weights` are the student's, whole."""
    target = Path("runs") / trial.group / str(trial.seed)
    staging = target.with_name(f".{target.name}-staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    size = sum(tensor.numel() for tensor in weights.values())
    require_free_space(staging, size * BYTES_PER_WEIGHT, f"Trial {trial.group}/{trial.seed}")
    columns = zip(*progress.history, strict=True) if progress.history else ([], [], [])
    _write_table(staging / "history.parquet", dict(zip(("step", "metric", "value"), columns, strict=True)))
    items = [] if evaluation is None else [vars(item) for item in evaluation.items]
    if items:
        write_items(staging / "items.parquet", items)
    if (trial.scratch / DUMP).exists():
        shutil.copyfile(trial.scratch / DUMP, staging / DUMP)
    if evaluation is not None and _keeps_student(trial.settings, trial.seed):
        card = _card(trial, evaluation.metrics("test"))
        save_student(trial.student, weights, trial.tokenizer, staging / "student", card)
    digests = trial.digests | {
        "initial_student": progress.initial_student,
        "final_student": model_digest(part_of(weights, "model")),
        "items": items_digest(items) if items else "",
    }
    outcome = {"precision": trial.probe.observed or "unknown", "outcome": status}
    for name, value in ({f"{name}_digest": digest for name, digest in digests.items()} | outcome).items():
        run.tag(name, value)
    for path in (staging / "history.parquet", staging / "items.parquet", staging / DUMP):
        if path.exists():
            run.artifact(path)
    manifest = _manifest(trial, progress, status, reason) | {
        "run_id": run.run_id,
        "digests": digests,
        "tags": trial.tags(progress) | outcome,
        "files": {
            path.relative_to(staging).as_posix(): sha256_of(path)
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        },
    }
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_synced(target.with_name(f"{target.name}.json"), text.encode())
    run.artifact(target.with_name(f"{target.name}.json"))


def _manifest(trial: Trial, progress: Progress, status: str, reason: str) -> dict[str, Any]:
    """What the manifest says of the trial itself; its run, digests and files are added where they are made."""
    return {
        "schema": SCHEMA_VERSION,
        "group": trial.group,
        "seed": trial.seed,
        "status": status,
        "reason": reason,
        "key": trial.key,
        "study_key": trial.study_key,
        "metrics": {name: value for _, name, value in progress.history},
        "params": flat_params(trial.settings, trial.group, trial.seed),
        "precision": trial.probe.observed or "unknown",
        "heads": trial.heads,
        "processes": trial.processes.count,
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


def clean(scratch: Path) -> None:
    """Drop checkpoints of a trial that is published."""
    shutil.rmtree(scratch, ignore_errors=True)


def _keeps_student(settings: Settings, seed: int) -> bool:
    keep = settings.storage.keep_students
    return keep == "all" or (keep == "one_per_group" and seed == min(settings.seeds))


def _card(trial: Trial, metrics: Mapping[str, float]) -> str:
    """The model card of a kept student."""
    group = trial.settings.distill[trial.group]
    weights = ", ".join(f"{name} {weight}" for name, weight in group.components.items())
    shuffled = f" Read off other samples: {', '.join(group.shuffled)}." if group.shuffled else ""
    embedded = any(task.source == "embedded" for task in trial.settings.prepare.tasks.values())
    note = " (embedded miniature tasks, not the benchmarks they are named for)" if embedded else ""
    scores = "\n".join(f"| {name.removeprefix('test/')} | {value:.4f} |" for name, value in metrics.items())
    return f"""---
library_name: transformers
tags: [distillation, glassbox]
---
# {trial.settings.student.model}, distilled as group `{trial.group}`, seed {trial.seed}

Teacher: `{trial.settings.teacher.model}`, read from snapshot `{trial.digests["snapshot"]}`.
Weights of the objective: {weights}.{shuffled}
Scale: `{trial.settings.scale}`{note}.

| test metric | value |
|---|---|
{scores}

Open it with `AutoModelForCausalLM.from_pretrained("<this folder>")`. `projector.safetensors`, where present, was
used in training only.
"""
