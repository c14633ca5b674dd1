"""A small study made up for the tests of the comparison: manifests, their files, and their runs in MLflow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from glassbox import tracking
from glassbox.config import Settings, StorageSettings, load_settings

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
LEVELS = {"sst2": 0.93, "mmlu": 0.71, "gsm8k": 0.42}
TEACHER = {"test/accuracy_sst2": 0.99, "test/accuracy_mmlu": 0.93, "test/exact_match_gsm8k": 0.81}
STUDENT = {"test/accuracy_sst2": 0.88, "test/accuracy_mmlu": 0.61, "test/exact_match_gsm8k": 0.30}


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()


def objective(group: str) -> dict[str, float]:
    return {component: WEIGHTS[component] for component in COMPONENTS.get(group, ("task",))}


def settings(groups: tuple[str, ...] = GROUPS, seeds: tuple[int, ...] = (0, 1, 2), scale: str = "small") -> Settings:
    committed = load_settings(Path(__file__).parents[1] / "params.yaml")
    values = {
        **committed.model_dump(mode="json"),
        "scale": scale,
        "groups": groups,
        "seeds": seeds,
        "weights": WEIGHTS,
        "distill": {group: objective(group) for group in groups},
        "storage": {},
    }
    return Settings.model_validate(values)


def key_of(settings: Settings, group: str, seed: int, snapshot_digest: str, tasks_digest: str) -> str:
    """Stands where glassbox.trial_key stands in production, but does not change when the code does."""
    return digest("key", sorted(settings.distill[group].model_dump().items()), seed, snapshot_digest, tasks_digest)


def manifest(group: str, seed: int, **changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng([seed, GROUPS.index(group) if group in GROUPS else 9])
    gain = 0.02 * (GROUPS.index(group) if group in GROUPS else 0)
    scores = {
        METRICS[task]: round(LEVELS[task] + gain * 0.5 + 0.012 * generator.standard_normal(), 4) for task in METRICS
    }
    content = {
        "schema": 1,
        "group": group,
        "seed": seed,
        "status": "finished",
        "key": key_of(settings((group,)), group, seed, digest("snapshot"), digest("tasks")),
        "study_key": digest("study"),
        "run_id": digest("run", group, seed)[:32],
        "metrics": {"train/loss_total": 1.25, **scores},
        "params": {"group": group, "seed": seed, **{f"weight_{k}": v for k, v in objective(group).items()}},
        "tags": {},
        "digests": {
            "snapshot": digest("snapshot"),
            "tasks": digest("tasks"),
            "data_order": digest("order", seed),
            "initial_student": digest("initial", seed),
            "final_student": digest("final", group, seed),
            "items": digest("items", group, seed),
        },
        "precision": "no",
        "seconds": 20.5,
        "versions": {},
        "files": {},
        "teacher": TEACHER,
    }
    content.update(changes)
    named = {f"{name}_digest": value for name, value in content["digests"].items() if value}
    known = {name: str(content[name]) for name in ("group", "seed", "key", "study_key", "precision")}
    content["tags"] = {**named, **known, "outcome": content["status"]}
    return content


def write_trial(folder: Path, group: str, seed: int, *, log: bool = True, **changes: Any) -> dict[str, Any]:
    """Write runs/<group>/<seed>.json with its history and items and, with `log`, its run in MLflow."""
    content = manifest(group, seed, **changes)
    beside = folder / "runs" / group / str(seed)
    beside.mkdir(parents=True)
    history = {"step": [0, 1], "metric": ["train/loss_total"] * 2, "value": [2.0, 1.25]}
    parquet.write_table(pa.table(history), beside / "history.parquet")
    parquet.write_table(pa.table({"sample_id": ["a"], "correct": [True]}), beside / "items.parquet")
    if log:
        content["run_id"] = log_trial(content)
    (folder / "runs" / group / f"{seed}.json").write_text(json.dumps(content), encoding="utf-8")
    return content


def log_trial(content: dict[str, Any]) -> str:
    run = tracking.TrialRun(
        StorageSettings(),
        name=f"{content['group']}/{content['seed']}",
        params=content["params"],
        tags=content["tags"],
        snapshot={"name": "snapshot", "digest": content["digests"]["snapshot"], "source": "data/snapshot"},
    )
    with run:
        run.log({key: value for key, value in content["metrics"].items() if value is not None}, 1)
        run.finish("FINISHED" if content["status"] == "finished" else "FAILED")
    return run.run_id


def write_study(
    folder: Path, groups: tuple[str, ...] = GROUPS, seeds: tuple[int, ...] = (0, 1, 2), *, log: bool = True
) -> None:
    for group in groups:
        for seed in seeds:
            write_trial(folder, group, seed, log=log)
    write_snapshot_report(folder)
    if not (folder / "conf").exists():
        write_conf(folder, seeds)


def write_snapshot_report(folder: Path) -> None:
    (folder / "reports").mkdir(exist_ok=True)
    report = {"teacher_scores": TEACHER, "student_scores": STUDENT}
    (folder / "reports" / "snapshot.json").write_text(json.dumps(report), encoding="utf-8")


def write_conf(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """conf/ as the comparison reads it: the committed plan with other seeds, and a file per group."""
    distill = folder / "conf" / "distill"
    distill.mkdir(parents=True, exist_ok=True)
    committed = (Path(__file__).parents[1] / "conf" / "analysis.yaml").read_text(encoding="utf-8")
    (folder / "conf" / "analysis.yaml").write_text(
        committed.replace("default: [0, 1, 2, 3, 4, 5, 6]", f"default: {list(seeds)}"), encoding="utf-8"
    )
    for group, components in COMPONENTS.items():
        lines = "".join(f"  {component}: ${{weights.{component}}}\n" for component in components)
        (distill / f"{group}.yaml").write_text(f"{group}:\n{lines}", encoding="utf-8")
