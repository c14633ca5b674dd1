"""The content of reports/results.json: the one source that tables, figures and the page are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glassbox.comparison.plan import Plan
from glassbox.comparison.selection import DIGESTS, Selection, Trial
from glassbox.comparison.statistics import MeanInterval, mean_interval
from glassbox.config import Group, Settings

SCHEMA = 1
CONFIDENCE = 0.95
REFERENCES = {"teacher": "teacher_scores", "initial_student": "student_scores"}


def build_results(
    settings: Settings,
    plan: Plan,
    planned: Mapping[str, Group],
    selection: Selection,
    metrics: Mapping[str, str],
    snapshot_report: Path,
) -> dict[str, Any]:
    """All that the reports show, as plain JSON values. metrics: task -> its test metric. Scores are shares of 1."""
    means = _means(selection, metrics)
    return {
        "schema": SCHEMA,
        "scale": settings.scale,
        "study_key": next((trial.study_key for trial in selection.trials), None),
        "confidence": CONFIDENCE,
        "tasks": [_task(settings, task, metric) for task, metric in metrics.items()],
        "groups": [_group(planned, settings, selection, group) for group in selection.groups],
        "seeds": list(selection.seeds),
        "means": means,
        "references": _references(snapshot_report, metrics),
        "trials": _trials(selection, metrics),
        "banners": _banners(settings, plan, selection),
        "notes": _notes(selection, means, metrics),
        "integrity": _integrity(selection),
        "source_run_ids": sorted(trial.run_id for trial in selection.trials),
    }


def rounded(value: Any) -> Any:
    """The same value with every float at 12 significant digits, so that two calls write the same bytes."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def _task(settings: Settings, task: str, metric: str) -> dict[str, Any]:
    embedded = settings.prepare.tasks[task].source == "embedded"
    name = metric.removeprefix("test/").removesuffix(f"_{task}")
    return {"task": task, "metric": name, "key": metric, "embedded": embedded}


def _group(planned: Mapping[str, Group], settings: Settings, selection: Selection, group: str) -> dict[str, Any]:
    objective = settings.distill[group] if group in settings.distill else planned[group]
    source = "store" if group in selection.store_groups else "manifest"
    return {"group": group, "weights": objective.active, "shuffled": list(objective.shuffled), "source": source}


def _means(selection: Selection, metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for group in selection.groups:
        trials = selection.of(group)
        for task, metric in metrics.items():
            estimate: MeanInterval = mean_interval(
                [trial.metrics[metric] for trial in trials if trial.finished], confidence=CONFIDENCE
            )
            diverged = sum(not trial.finished for trial in trials)
            rows.append({"group": group, "task": task, **asdict(estimate), "n_diverged": diverged})
    return rows


def _references(snapshot_report: Path, metrics: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Test scores of the teacher and of the student before distillation, by task, as far as `verify` reported them."""
    report = json.loads(snapshot_report.read_text(encoding="utf-8")) if snapshot_report.is_file() else {}
    found: dict[str, dict[str, float]] = {}
    for reference, section in REFERENCES.items():
        scores = report.get(section) or {}
        found[reference] = {task: float(scores[key]) for task, key in metrics.items() if key in scores}
    return found


def _trials(selection: Selection, metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row per planned trial, the missing ones included."""
    rows = [_trial(trial, metrics) for trial in selection.trials]
    for name in selection.missing:
        group, seed = name.rsplit("/", 1)
        empty = {"source": None, "run_id": None, "key": None, "precision": None, "seconds": None}
        row = {"group": group, "seed": int(seed), "status": "missing", **empty}
        rows.append({**row, "digests": dict.fromkeys(DIGESTS), "scores": dict.fromkeys(metrics)})
    order = {group: position for position, group in enumerate(selection.groups)}
    return sorted(rows, key=lambda row: (order[row["group"]], row["seed"]))


def _trial(trial: Trial, metrics: Mapping[str, str]) -> dict[str, Any]:
    return {
        "group": trial.group,
        "seed": trial.seed,
        "status": trial.status,
        "source": trial.source,
        "run_id": trial.run_id,
        "key": trial.key,
        "precision": trial.precision,
        "seconds": trial.seconds,
        "digests": trial.digests,
        "scores": {task: trial.metrics[key] if trial.finished else None for task, key in metrics.items()},
    }


def _banners(settings: Settings, plan: Plan, selection: Selection) -> list[str]:
    banners = []
    if selection.missing:
        missing = ", ".join(selection.missing)
        banners.append(
            f"Incomplete: {len(selection.missing)} trials are missing ({missing}). Means are over what there is."
        )
    left_out = [f"seed {seed}" for seed in plan.seeds if seed not in settings.seeds]
    left_out += [f"group {group}" for group in selection.absent_groups if group in plan.groups]
    if left_out:
        banners.append(f"Partial, exploratory: the plan also holds {', '.join(left_out)}.")
    return banners


def _notes(selection: Selection, means: list[dict[str, Any]], metrics: Mapping[str, str]) -> list[str]:
    notes = []
    if selection.store_groups:
        names = ", ".join(selection.store_groups)
        notes.append(
            f"From the store: {names}. Not selected now; their trials of this same study were found in MLflow."
        )
    if selection.lost_runs:
        names = ", ".join(selection.lost_runs)
        notes.append(
            f"The MLflow store misses the runs of {names}. Their results are in this report; "
            "`python src/restore.py` writes them into the store again."
        )
    diverged = [trial.name for trial in selection.trials if not trial.finished]
    if diverged:
        notes.append(f"Diverged: {', '.join(diverged)}. They have no score; means are over the finished trials.")
    if selection.ignored_files:
        names = ", ".join(f"runs/{name}" for name in selection.ignored_files)
        notes.append(f"Not part of this grid, ignored: {names}.")
    for row in means:
        if row["degenerate"]:
            notes.append(f"{row['group']} on {row['task']}: all {row['n']} scores are equal, the seed had no effect.")
    precisions = sorted({trial.precision for trial in selection.trials})
    if len(precisions) > 1:
        notes.append(f"Trials ran in different precisions: {', '.join(precisions)}.")
    return notes


def _integrity(selection: Selection) -> dict[str, Any]:
    trials = selection.trials
    shared = {name: sorted({str(trial.digests[name]) for trial in trials}) for name in ("snapshot", "tasks")}
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return {
        "planned": len(trials) + len(selection.missing),
        "finished": sum(trial.finished for trial in trials),
        "diverged": [trial.name for trial in trials if not trial.finished],
        "missing": list(selection.missing),
        "from_store": [trial.name for trial in trials if trial.source == "store"],
        "lost_runs": list(selection.lost_runs),
        "ignored_files": list(selection.ignored_files),
        "precision": sorted({trial.precision for trial in trials}),
        "digests": shared,
        "shared_per_seed": "data order and initial student weights are equal over all groups for every seed",
        "seconds": math.fsum(seconds),
    }
