"""The content of reports/results.json: the one source that tables, figures and the page are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from glassbox.comparison import notes
from glassbox.comparison.costs import gain_intervals, group_cost, unequal_load
from glassbox.comparison.evidence import Evidence, score_of
from glassbox.comparison.learning_curves import learning_curves
from glassbox.comparison.notes import integrity
from glassbox.comparison.plan import Plan, baseline_of, derived_plan, plan_lines
from glassbox.comparison.retention import retention
from glassbox.comparison.selection import Selection
from glassbox.comparison.varies import variation
from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Group, Settings
from glassbox.tracking.manifest import DIGESTS, TrialRecord

SCHEMA = 4
PLAN_PATH = "conf/analysis.yaml"
REFERENCES = {"teacher": "teacher_scores", "initial_student": "student_scores"}
LIBRARIES = ("numpy", "scipy")


@dataclass(frozen=True)
class Study:
    """All that a comparison is made of.

    metrics: task -> its test metric. gate, data: reports/snapshot.json and reports/tasks.json, or empty.
    """

    settings: Settings
    plan: Plan
    planned: Mapping[str, Group]
    selection: Selection
    metrics: Mapping[str, str]
    evidence: Evidence
    pairing: str
    gate: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def objective(self, group: str) -> Group:
        distill = self.settings.distill
        return distill[group] if group in distill else self.planned[group]


def build_results(study: Study, inferred: Mapping[str, Any]) -> dict[str, Any]:
    """All that the reports show, as plain JSON values: scores are shares of 1. inferred: what `infer` returned."""
    settings, plan, selection = study.settings, study.plan, study.selection
    checked = integrity(selection, study.evidence)
    costs = [_cost(study, group, inferred["means"]) for group in selection.groups]
    results = {
        "schema": SCHEMA,
        "scale": settings.scale,
        "study_key": next((trial.study_key for trial in selection.trials), None),
        "alpha": plan.alpha,
        "confidence": plan.confidence,
        "plan": _plan(study),
        "tasks": [_task(study, task) for task in study.metrics],
        "groups": [_group(study, group) for group in selection.groups],
        "components": _components(study),
        "seeds": list(selection.seeds),
        "references": references(study.gate, study.metrics),
        "labelled": settings.train.labelled,
        "faint": notes.faint(checked["liveness"]),
        "teacher_shots": study.gate.get("teacher_shots", 0),
        "trials": _trials(study),
        "curves": learning_curves(selection.trials, plan.confidence),
        "data": [{"task": task, "split": split, **row} for task, of in study.data.items() for split, row in of.items()],
        "costs": costs,
        "unequal_load": unequal_load(costs),
        "retention": retention(selection.trials, study.evidence, plan, study.metrics, study.gate),
        "plan_lines": _plan_lines(study),
        "pairing": {"verified": study.evidence.paired, "text": study.pairing},
        "varies": variation(selection.trials),
        "banners": notes.banners(plan, selection),
        "notes": [
            *notes.notes(plan, settings.scale, selection, checked),
            *_teacher_notes(study),
            *study.gate.get("teacher_notes", ()),
            *notes.unscored_notes(selection.trials, _questions(study)),
        ],
        "integrity": checked,
        "source_run_ids": sorted(trial.run_id for trial in selection.trials),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    answers = [
        _with_faint_components(answer, inferred["contrasts"], checked["liveness"]) for answer in inferred["answers"]
    ]
    return rounded({**results, **inferred, "answers": answers})


def _components(study: Study) -> list[str]:
    """Those that some group has, in the order of the table of components."""
    used = {name for group in study.selection.groups for name in study.objective(group).active}
    return [name for name in COMPONENTS if name in used]


def _with_faint_components(
    answer: Mapping[str, Any], contrasts: list[dict[str, Any]], liveness: list[dict[str, Any]]
) -> dict[str, Any]:
    """The answer with a last sentence that names the signals of its groups that hardly move the student."""
    groups = {group for row in contrasts if row["id"] == answer["id"] for group in row["weights"]}
    faint = notes.faint_components(liveness, groups)
    told = [f"Note: {'; '.join(faint)}: a signal at such a weight says little about the signal."] if faint else []
    return {**answer, "sentences": [*answer["sentences"], *told]}


def _teacher_notes(study: Study) -> list[str]:
    chance = {task: planned.chance for task, planned in study.plan.tasks.items()}
    known = references(study.gate, study.metrics)
    return notes.teacher_notes(known, chance, _questions(study), study.gate.get("label_probability", {}))


def _questions(study: Study) -> dict[str, int]:
    return {task: len(items.ids) for task, items in study.evidence.items.items()}


def rounded(value: Any) -> Any:
    """The same value with every float at 12 significant digits, so that two calls write the same bytes."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def references(gate: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Test scores of the teacher and of the student before distillation, by task, as far as `verify` reported them."""
    return {
        reference: {task: float(scores[key]) for task, key in metrics.items() if key in scores}
        for reference, section in REFERENCES.items()
        for scores in [gate.get(section) or {}]
    }


def _plan(study: Study) -> dict[str, Any]:
    plan, trials = study.plan, study.selection.trials
    digests = sorted({trial.plan for trial in trials})
    return {
        "path": PLAN_PATH,
        "digest": plan.digest,
        "state": notes.plan_state(plan, study.selection),
        "trial_digests": {digest: [trial.name for trial in trials if trial.plan == digest] for digest in digests},
        "control": plan.control,
        "baseline": _baseline(study),
        "groups": list(plan.groups),
        "optional_groups": list(plan.optional_groups),
        "seeds": list(plan.seeds),
        "seen_seeds": list(plan.seen_seeds),
        "seen_note": plan.seen_note,
        "margin_scale": plan.margin_scale,
    }


def _plan_lines(study: Study) -> list[str]:
    """The lines that would make this study a planned one; none where it has a plan."""
    if study.plan.derived:
        return plan_lines(study.plan)
    if study.plan.is_of_other_tasks:
        return plan_lines(derived_plan(study.settings).for_tasks(study.plan.tasks))
    return []


def _baseline(study: Study) -> str:
    """Among what the plan names and what ran, so that it does not change where it did not run."""
    groups = dict.fromkeys((*study.plan.groups, *study.selection.groups))
    return baseline_of({group: study.objective(group).active for group in groups}, study.plan.control)


def _task(study: Study, task: str) -> dict[str, Any]:
    plan, items, metric = study.plan, study.evidence.items.get(task), study.metrics[task]
    clusters = None if items is None else items.clusters
    return {
        "task": task,
        "metric": metric.removeprefix("test/").removesuffix(f"_{task}"),
        "key": metric,
        "embedded": study.settings.prepare.tasks[task].source == "embedded",
        "planned": task not in plan.unplanned,
        "unit": "nats" if plan.tasks[task].in_nats else "share",
        "chance": plan.tasks[task].chance,
        "margin": plan.margins.get(task),
        "margin_reason": plan.margin_reasons.get(task),
        "n_items": None if items is None else len(items.ids),
        "n_clusters": None if clusters is None else int(np.unique(clusters).size),
    }


def _group(study: Study, group: str) -> dict[str, Any]:
    from_store = sum(trial.source == "store" for trial in study.selection.of(group))
    return {
        "group": group,
        "weights": study.objective(group).active,
        "learning_rate": study.objective(group).learning_rate,
        "shuffled": list(study.objective(group).shuffled),
        "source": "store" if group in study.selection.store_groups else "manifest",
        "n_from_store": from_store,
        "optional": group in study.plan.optional_groups,
    }


def _cost(study: Study, group: str, means: list[dict[str, Any]]) -> dict[str, Any]:
    by_cell = {(row["group"], row["task"]): row["mean"] for row in means}
    gain = {}
    for task, key in study.metrics.items():
        mean, control = by_cell.get((group, task)), by_cell.get((study.plan.control, task))
        gain[task] = None if mean is None or control is None else score_of(key, mean) - score_of(key, control)
    cost = group_cost(
        list(study.objective(group).active),
        study.selection.of(group),
        study.gate.get("signal_bytes"),
        study.settings.objective.logits_target,
    )
    intervals = gain_intervals(study.evidence, group, study.plan.control, study.plan.confidence)
    return {"group": group, **cost, "gain": gain, "gain_interval": intervals}


def _trials(study: Study) -> list[dict[str, Any]]:
    """A row per planned trial, the missing ones included."""
    selection, metrics = study.selection, study.metrics
    rows = [_trial(trial, metrics) for trial in selection.trials]
    rows += [_missing(name, metrics) for name in (*selection.missing, *selection.gaps)]
    order = {group: position for position, group in enumerate(selection.groups)}
    return sorted(rows, key=lambda row: (order[row["group"]], row["seed"]))


def _trial(trial: TrialRecord, metrics: Mapping[str, str]) -> dict[str, Any]:
    known = {name: value for name, value in trial.metrics.items() if np.isfinite(value)}
    return {
        "group": trial.group,
        "seed": trial.seed,
        "status": trial.status,
        "source": trial.source,
        "run_id": trial.run_id,
        "key": trial.key,
        "plan": trial.plan,
        "precision": trial.precision,
        "seconds": trial.seconds,
        "peak_memory_bytes": trial.peak_memory_bytes,
        "liveness": trial.liveness,
        "digests": trial.digests,
        "losses": {name: value for name, value in known.items() if name.partition("/")[2].startswith("loss_")},
        "scores": {task: known.get(key) if trial.finished else None for task, key in metrics.items()},
        "validation_scores": {task: known.get(key.replace("test/", "validation/")) for task, key in metrics.items()},
        "ties": {task: known[f"test/ties_{task}"] for task in metrics if f"test/ties_{task}" in known},
        "cut_off": {task: known[f"test/cut_off_{task}"] for task in metrics if f"test/cut_off_{task}" in known},
    }


def _missing(name: str, metrics: Mapping[str, str]) -> dict[str, Any]:
    group, seed = name.rsplit("/", 1)
    nothing = dict.fromkeys(
        ("source", "run_id", "key", "plan", "precision", "seconds", "peak_memory_bytes", "liveness")
    )
    return {
        "group": group,
        "seed": int(seed),
        "status": "missing",
        **nothing,
        "digests": dict.fromkeys(DIGESTS),
        "losses": {},
        "scores": dict.fromkeys(metrics),
        "validation_scores": dict.fromkeys(metrics),
        "ties": {},
        "cut_off": {},
    }
