"""Each group's mean on each task in both scopes, and the tasks on which nobody beats guessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.contrasts import Contrast
from glassbox.comparison.inference.observation import has_clusters, observe, observe_items
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION
from glassbox.comparison.statistics.intervals import MeanInterval, mean_interval

NEAR_CHANCE = 2.0


def group_means(evidence: Evidence, plan: Plan) -> list[dict[str, Any]]:
    """One row per group and task. near_chance: within two standard errors of chance, of the widest scope there is."""
    return [_row(evidence, plan, group, task) for group in evidence.groups for task in evidence.tasks]


def in_own_unit(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is reported: perplexities in the place of minus nats per token, with their limits turned round.

    The mean is then the geometric one over seeds. deviation stays that of the nats.
    """
    if row["unit"] != "nats":
        return dict(row)

    def told(of: Mapping[str, Any]) -> dict[str, Any]:
        lower, upper = (None if of[name] is None else math.exp(-of[name]) for name in ("upper", "lower"))
        return {**of, "lower": lower, "upper": upper}

    mean = None if row["mean"] is None else math.exp(-row["mean"])
    return {**told(row), "mean": mean, "items": told(row["items"]) if row["items"] else None}


def uninformative_tasks(means: list[dict[str, Any]], evidence: Evidence) -> list[str]:
    """Tasks on which every group with a score is near chance: there, being alike says nothing about the signals."""
    found = []
    for task in evidence.tasks:
        rows = [row for row in means if row["task"] == task and row["n"] > 0]
        if rows and all(row["near_chance"] for row in rows):
            found.append(task)
    return found


def _row(evidence: Evidence, plan: Plan, group: str, task: str) -> dict[str, Any]:
    position = evidence.groups.index(group), evidence.tasks.index(task)
    scores = evidence.scores[position]
    in_nats = task in evidence.nats
    questions = len(evidence.items[task].ids) if task in evidence.items and not in_nats else None
    bounds = (-np.inf, np.inf) if in_nats else (0.0, 1.0)
    summary = mean_interval(scores[np.isfinite(scores)], confidence=plan.confidence, items=questions, bounds=bounds)
    items, error = _items(evidence, plan, group, task)
    if error is None and summary.deviation is not None:
        error = summary.deviation / np.sqrt(summary.n)
    chance = plan.tasks[task].chance if task in plan.tasks else None
    near = summary.mean is not None and error is not None and chance is not None
    return {
        "group": group,
        "task": task,
        "unit": "nats" if in_nats else "share",
        "n": summary.n,
        "mean": summary.mean,
        "deviation": summary.deviation,
        "lower": summary.lower,
        "upper": summary.upper,
        "clipped": summary.clipped,
        "degenerate": summary.degenerate,
        "statement": _statement(summary, questions),
        "n_diverged": int(evidence.diverged[position[0]].sum()),
        "items": items,
        "near_chance": bool(near and abs(summary.mean - chance) <= NEAR_CHANCE * error + DEGENERATE_DEVIATION),  # type: ignore[operator]
    }


def _statement(summary: MeanInterval, questions: int | None) -> str | None:
    """'all 500 right on every seed; at least 99.3 % by Clopper-Pearson', in the place of an interval without width."""
    if not summary.degenerate or summary.mean is None:
        return None
    if questions is None or summary.lower is None or summary.upper is None:
        return "the same score on every seed"
    right = round(summary.mean * questions)
    low, high = (f"{100 * limit:.1f} %" for limit in (summary.lower, summary.upper))
    if right == questions:
        return f"all {questions} right on every seed; at least {low} by Clopper-Pearson"
    if right == 0:
        return f"none of {questions} right on every seed; at most {high} by Clopper-Pearson"
    return f"{right} of {questions} right on every seed; {low} to {high} by Clopper-Pearson"


def _items(evidence: Evidence, plan: Plan, group: str, task: str) -> tuple[dict[str, Any] | None, float | None]:
    """The interval on questions like these, clipped to possible scores, and its standard error."""
    alone = Contrast(group, group, "", "", {group: 1.0}, {task: 1.0}, "descriptive", "points", "", None)
    observation = observe(alone, evidence)
    if observation.absent:
        return None, None
    clustered = has_clusters(alone, evidence)
    scope = observe_items(alone, evidence, observation, paired=True, clustered=clustered)
    if scope is None:
        return None, None
    lower, upper = scope.interval(plan.confidence)
    in_nats = task in evidence.nats
    within = (lower, upper) if in_nats else (max(lower, 0.0), min(upper, 1.0))
    limits = {"lower": within[0], "upper": within[1], "df": float(scope.both.df)}
    marks = {
        "clipped": (lower, upper) != within,
        "clustered": clustered,
        "coincides": scope.coincide(plan.confidence),
    }
    return {**limits, **marks}, float(scope.both.standard_error)
