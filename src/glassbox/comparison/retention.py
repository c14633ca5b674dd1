"""What trained students kept of the teacher: its distribution on validation texts, its right answers on test.

The first are the trials' own metrics (training/retention.py). Of test: the share of the teacher's accuracy above
chance, (a - chance) / (a_T - chance), and flips, the questions that one of the two has right and the other wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence, is_perplexity
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.intervals import mean_interval
from glassbox.tracking.items import marked
from glassbox.tracking.manifest import TrialRecord

AGREEMENT = ("kl", "top1", "top5")
AT_LEAST_0, A_SHARE = (0.0, math.inf), (0.0, 1.0)
# What a measure can be at all, where its interval is cut; `kept` can be more than all of it, and less than nothing
LIMITS = {"top1": A_SHARE, "top5": A_SHARE, "perplexity": (1.0, math.inf), "kept": (-math.inf, math.inf)}
MEASURES = (*AGREEMENT, "perplexity", "kept", "lost", "gained", "bits_per_byte")
SURELY = 2.0  # standard errors above chance from which the teacher has something to keep


def retention(
    trials: Sequence[TrialRecord],
    evidence: Evidence,
    plan: Plan,
    metrics: Mapping[str, str],
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """`trials`: a row per finished trial and task; `groups`: a row per group and task, with each measure's mean over
    seeds and t interval; `teacher`: its own figures.

    A measure is None where it does not exist: agreement across tokenizers, `kept` of a teacher near chance or of a
    perplexity, flips without the teacher's results by question. metrics: task -> its test metric. gate: what `verify`
    reported.
    """
    rows = [
        _trial(trial, task, evidence, plan, metrics[task], gate)
        for trial in trials
        if trial.finished
        for task in metrics
    ]
    groups = [
        _group([row for row in rows if row["group"] == group and row["task"] == task], group, task, plan.confidence)
        for group in evidence.groups
        for task in metrics
    ]
    return {
        "trials": rows,
        "groups": groups,
        "teacher": _of_teacher(trials, metrics, gate),
        "notes": _notes(rows, metrics),
    }


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """{'retention/black_box/kl_mmlu': ...}: the means over seeds, for the comparison's run."""
    return {
        f"retention/{row['group']}/{name}_{row['task']}": row[name]["mean"]
        for row in found["groups"]
        for name in MEASURES
        if row[name]["mean"] is not None
    }


def _trial(
    trial: TrialRecord, task: str, evidence: Evidence, plan: Plan, metric: str, gate: Mapping[str, Any]
) -> dict[str, Any]:
    score = trial.metrics.get(metric)
    lost, gained, questions = _flips(trial, task, evidence, gate)
    return {
        "group": trial.group,
        "seed": trial.seed,
        "task": task,
        **{name: trial.metrics.get(f"retention/{name}_{task}") for name in (*AGREEMENT, "perplexity")},
        "score": score,
        "kept": None if score is None else _kept(score, task, plan, metric, evidence, gate),
        "lost": lost,
        "gained": gained,
        "questions": questions,
        "bits_per_byte": trial.metrics.get(f"{'test' if is_perplexity(metric) else 'retention'}/bits_per_byte_{task}"),
    }


def _kept(
    score: float, task: str, plan: Plan, metric: str, evidence: Evidence, gate: Mapping[str, Any]
) -> float | None:
    """Share of the teacher's accuracy above chance; None where that is not clearly above it."""
    teacher = (gate.get("teacher_scores") or {}).get(metric)
    chance = plan.tasks[task].chance if task in plan.tasks else None
    if teacher is None or chance is None or is_perplexity(metric) or task in gate.get("teacher_unread", ()):
        return None
    items = evidence.items.get(task)
    error = math.sqrt(chance * (1 - chance) / len(items.ids)) if items else 0.0
    room = teacher - chance
    return (score - chance) / room if room > SURELY * error and room > 0 else None


def _flips(
    trial: TrialRecord, task: str, evidence: Evidence, gate: Mapping[str, Any]
) -> tuple[int | None, int | None, int | None]:
    """Questions that the teacher has right and the student wrong, the reverse, and how many questions there are."""
    items, text = evidence.items.get(task), (gate.get("teacher_right") or {}).get(task)
    if items is None or text is None or task in evidence.nats:
        return None, None, None
    own = items.correct[evidence.groups.index(trial.group), evidence.seeds.index(trial.seed)]
    teacher = marked(text, len(items.ids))
    if teacher is None or not np.isfinite(own).all():
        return None, None, None
    theirs, mine = np.asarray(teacher), own > 0
    return int((theirs & ~mine).sum()), int((mine & ~theirs).sum()), len(items.ids)


def _group(rows: Sequence[Mapping[str, Any]], group: str, task: str, confidence: float) -> dict[str, Any]:
    found: dict[str, Any] = {"group": group, "task": task, "n": len(rows)}
    for name in MEASURES:
        values = [float(row[name]) for row in rows if row[name] is not None]
        band = mean_interval(values, confidence=confidence, bounds=LIMITS.get(name, AT_LEAST_0))
        found[name] = {"mean": band.mean, "lower": band.lower, "upper": band.upper, "n": band.n}
    questions = {row["questions"] for row in rows if row["questions"] is not None}
    return {**found, "questions": next(iter(questions), None)}


def _of_teacher(
    trials: Sequence[TrialRecord], metrics: Mapping[str, str], gate: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """Its test score, and what the trials found of it on the validation texts, which is the same for all of them."""
    scores = gate.get("teacher_scores") or {}
    known = {name: value for trial in trials for name, value in trial.metrics.items() if "/teacher_" in name}
    return {
        task: {
            "score": scores.get(metric),
            "perplexity": known.get(f"retention/teacher_perplexity_{task}"),
            "bits_per_byte": scores.get(
                f"test/bits_per_byte_{task}", known.get(f"retention/teacher_bits_per_byte_{task}")
            ),
        }
        for task, metric in metrics.items()
    }


def _notes(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> list[str]:
    notes = []
    if rows and all(row["kl"] is None for row in rows):
        notes.append(
            "No agreement with the teacher was measured: student and teacher cut texts into other tokens, or the "
            "trials are of an earlier version. Flips and bits per byte can be compared all the same."
        )
    if any(row["kept"] is None and not is_perplexity(metrics[row["task"]]) for row in rows):
        notes.append("No share kept is given where the teacher's score is unknown or not clearly above chance.")
    return notes
