"""A small study made up for the tests of the comparison: manifests, their files, and their runs in MLflow."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import sections

from glassbox import tracking
from glassbox.config.analysis_plan import plan_digest
from glassbox.config.settings import Settings, load_settings
from glassbox.tracking.items import items_digest, write_items
from glassbox.tracking.trial_run import RunStatus

CONF = Path(__file__).parents[1] / "conf"

SCALE = "small"
GROUPS = ("sft", "black_box", "hidden_state", "attention", "combined")
COMPONENTS = {
    "sft": ("task",),
    "black_box": ("task", "logits"),
    "hidden_state": ("task", "logits", "hidden"),
    "attention": ("task", "logits", "attention"),
    "combined": ("task", "logits", "hidden", "attention"),
}
WEIGHTS = {"task": 1.0, "logits": 0.5, "hidden": 0.1, "attention": 0.1}
METRICS = {"sst2": "test/accuracy_sst2", "mmlu": "test/accuracy_mmlu", "gsm8k": "test/exact_match_gsm8k"}
QUESTIONS = 100
CHOICES = {"sst2": 2, "mmlu": 4}
LEVELS = {"sst2": 0.93, "mmlu": 0.71, "gsm8k": 0.42}
TEACHER = {"test/accuracy_sst2": 0.99, "test/accuracy_mmlu": 0.93, "test/exact_match_gsm8k": 0.81}
STUDENT = {"test/accuracy_sst2": 0.88, "test/accuracy_mmlu": 0.61, "test/exact_match_gsm8k": 0.30}


@contextmanager
def own_store(initialised_store: Path, name: str) -> Iterator[Path]:
    """A new folder that is the repository's root while the context lasts, with an empty MLflow store of its own."""
    folder = initialised_store.parent / name
    folder.mkdir()
    shutil.copy(initialised_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()


def objective(group: str) -> dict[str, float]:
    return {component: WEIGHTS[component] for component in COMPONENTS.get(group, ("task", "hidden"))}


def settings(groups: tuple[str, ...] = GROUPS, seeds: tuple[int, ...] = (0, 1, 2), scale: str = SCALE) -> Settings:
    values = {
        **_committed(),
        "scale": scale,
        "groups": groups,
        "seeds": seeds,
        "weights": WEIGHTS,
        "distill": {group: objective(group) for group in groups},
        "storage": sections.STORAGE.model_dump(),
    }
    return Settings.model_validate(values)


@cache
def _committed() -> dict[str, Any]:
    return load_settings(CONF.parent / "params.yaml").model_dump(mode="json")


def key_of(settings: Settings, group: str, seed: int, snapshot_digest: str, tasks_digest: str) -> str:
    """Stands where glassbox.tracking.key stands in production, but does not change when the code does."""
    return digest("key", sorted(settings.distill[group].model_dump().items()), seed, snapshot_digest, tasks_digest)


def items_of(group: str, seed: int) -> list[dict[str, Any]]:
    """QUESTIONS a task; about as many are right as LEVELS and the group's gain say. mmlu has ten subjects."""
    place = GROUPS.index(group) if group in GROUPS else len(GROUPS)
    generator = np.random.default_rng([seed, place])
    rows = []
    for task, level in LEVELS.items():
        share = level + 0.01 * place + 0.012 * generator.standard_normal()
        right = generator.permutation(QUESTIONS) < round(QUESTIONS * share)
        for number, correct in enumerate(right.tolist()):
            rows.append(
                {
                    "sample_id": f"{task}/test/{number:03d}",
                    "task": task,
                    "correct": correct,
                    "tie": False,
                    "prediction": " A",
                    "gold": " A" if correct else " B",
                    "log_likelihoods": [] if task == "gsm8k" else generator.normal(size=CHOICES[task]).tolist(),
                    "cluster": f"subject-{number % 10}" if task == "mmlu" else "",
                }
            )
    return rows


def scores_of(items: list[dict[str, Any]]) -> dict[str, float]:
    right = {task: [item["correct"] for item in items if item["task"] == task] for task in METRICS}
    return {METRICS[task]: sum(of) / len(of) for task, of in right.items() if of}


def manifest(
    group: str, seed: int, items: list[dict[str, Any]] | None = None, *, scale: str = SCALE, **changes: Any
) -> dict[str, Any]:
    items = items_of(group, seed) if items is None else items
    scores = scores_of(items)
    validation = {name.replace("test/", "validation/"): score for name, score in scores.items()}
    content = {
        "schema": 1,
        "group": group,
        "seed": seed,
        "status": "finished",
        "key": key_of(settings((group,)), group, seed, digest("snapshot"), digest("tasks")),
        "study_key": digest("study"),
        "run_id": digest("run", group, seed)[:32],
        "metrics": {"train/loss_total": 1.25, "validation/loss_task": 0.5, "seconds": 20.5, **validation, **scores},
        "params": {"group": group, "seed": seed, **{f"weight_{k}": v for k, v in objective(group).items()}},
        "tags": {},
        "digests": {
            "snapshot": digest("snapshot"),
            "tasks": digest("tasks"),
            "data_order": digest("order", seed),
            "initial_student": digest("initial", seed),
            "final_student": digest("final", group, seed),
            "items": items_digest(items),
        },
        "precision": "no",
        "steps": 200,
        "seconds": 20.5,
        "plan": plan_digest(CONF, scale),
        "peak_memory_bytes": 700_000_000 + seed,
        "liveness": {
            name: {"gradient_norm": 1.0 + seed, "cosine_to_task": 0.5, "share": 0.5} for name in objective(group)
        },
        "versions": {},
        "files": {},
    }
    content.update(changes)
    named = {f"{name}_digest": value for name, value in content["digests"].items() if value}
    known = {name: str(content[name]) for name in ("group", "seed", "key", "study_key", "precision", "plan")}
    content["tags"] = {**named, **known, "outcome": content["status"]}
    return content


def write_trial(
    folder: Path,
    group: str,
    seed: int,
    *,
    log: bool = True,
    items: list[dict[str, Any]] | None = None,
    scale: str = SCALE,
    **changes: Any,
) -> dict[str, Any]:
    """Write runs/<group>/<seed>.json with its history and items and, with `log`, its run in MLflow."""
    conf = folder / "conf"
    content = manifest(group, seed, items, **{"plan": plan_digest(conf if conf.exists() else CONF, scale), **changes})
    place = folder / "runs" / group / f"{seed}.json"
    write_files(content, place, items)
    if log:
        content["run_id"] = log_trial(content, place)
    place.write_text(json.dumps(content), encoding="utf-8")
    return content


def write_files(content: dict[str, Any], place: Path, items: list[dict[str, Any]] | None = None) -> None:
    """What lies beside a manifest, named in it; a diverged trial has no items."""
    beside = place.with_suffix("")
    beside.mkdir(parents=True)
    value = 2.0 + 0.1 * content["seed"]
    names = [f"{part}/loss_{name}" for part in ("train", "validation") for name in objective(content["group"])]
    names += ["train/loss_total", *(metric.replace("test/", "validation/") for metric in METRICS.values())]
    values = {1: value, 100: 1.5, 200: 1.25}
    rows = [(step, name, at) for step, at in values.items() for name in names]
    write_history(beside, dict(zip(("step", "metric", "value"), map(list, zip(*rows, strict=True)), strict=True)))
    if content["status"] == "finished":
        write_items(beside / "items.parquet", items_of(content["group"], content["seed"]) if items is None else items)
    content["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in beside.iterdir()}


def write_history(beside: Path, rows: dict[str, list[Any]]) -> None:
    """rows: the columns step, metric and value."""
    parquet.write_table(pa.table(rows), beside / "history.parquet")


def log_trial(content: dict[str, Any], place: Path | None = None, status: RunStatus | None = None) -> str:
    """The trial's run in MLflow with its files and manifest; without a place, with files made here."""
    run = tracking.TrialRun(
        sections.storage(),
        name=f"{content['group']}/{content['seed']}",
        params=content["params"],
        tags=content["tags"],
        snapshot={"name": "snapshot", "digest": content["digests"]["snapshot"], "source": "data/snapshot"},
    )
    with run, TemporaryDirectory() as scratch:
        if place is None:
            place = Path(scratch) / content["group"] / f"{content['seed']}.json"
            write_files(content, place)
        place.write_text(json.dumps({**content, "run_id": run.run_id}), encoding="utf-8")
        for path in (place, *place.with_suffix("").iterdir()):
            run.artifact(path)
        finite = {key: value for key, value in content["metrics"].items() if value is not None}
        run.log({key: value for key, value in finite.items() if np.isfinite(value)}, 1)
        run.finish(status or ("FINISHED" if content["status"] == "finished" else "FAILED"))
    return run.run_id


def clone_run(database: Path, run_id: str, count: int, *, tags: dict[str, str] | None = None) -> list[str]:
    """Copies of a run's rows under new ids, which are returned: straight into the database, thousands in a second."""
    ids = [digest("clone", run_id, number)[:32] for number in range(count)]
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in ("runs", "tags", "params", "latest_metrics"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,)).fetchall()
            place = columns.index("run_uuid")
            marks = ", ".join("?" * len(columns))
            connection.executemany(
                f"INSERT INTO {table} VALUES ({marks})",
                ((*row[:place], new, *row[place + 1 :]) for new in ids for row in rows),
            )
        for key, value in (tags or {}).items():
            connection.executemany(
                "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", ((value, new, key) for new in ids)
            )
    return ids


def write_study(
    folder: Path,
    groups: tuple[str, ...] = GROUPS,
    seeds: tuple[int, ...] = (0, 1, 2),
    *,
    log: bool = True,
    scale: str = SCALE,
) -> None:
    if not (folder / "conf").exists():
        write_conf(folder, seeds)
    for group in groups:
        for seed in seeds:
            write_trial(folder, group, seed, log=log, scale=scale)
    write_snapshot_report(folder)


def write_snapshot_report(folder: Path) -> None:
    (folder / "reports").mkdir(exist_ok=True)
    sizes = {"topk": 300, "hidden": 1000, "attention": 600, "head": 50, "channels": 7}
    report = {
        "logical_digest": digest("snapshot"),
        "signal_bytes": sizes,
        "teacher_scores": TEACHER,
        "student_scores": STUDENT,
    }
    (folder / "reports" / "snapshot.json").write_text(json.dumps(report), encoding="utf-8")


def write_conf(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """conf/ as the comparison reads it: the committed plan with other seeds, and a file per group."""
    distill = folder / "conf" / "distill"
    distill.mkdir(parents=True, exist_ok=True)
    committed = (Path(__file__).parents[1] / "conf" / "analysis.yaml").read_text(encoding="utf-8")
    (folder / "conf" / "analysis.yaml").write_text(
        re.sub(r"(?m)^  default: \[.*\](?:\n  \w+: \[.*\])*$", f"  default: {list(seeds)}", committed, count=1),
        encoding="utf-8",
    )
    for group, components in COMPONENTS.items():
        lines = "".join(f"  {component}: ${{weights.{component}}}\n" for component in components)
        (distill / f"{group}.yaml").write_text(f"{group}:\n{lines}", encoding="utf-8")
