"""What would make a number say more than it can: no spread, equal groups, tasks on which nobody beats guessing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.alternatives import CEILING
from glassbox.comparison.inference.analysis import Analysis
from glassbox.comparison.inference.contrasts import Contrast
from glassbox.comparison.inference.observation import observe
from glassbox.comparison.plan import Plan
from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION, t_test
from glassbox.comparison.statistics.multiplicity import holm


def equal_scores(evidence: Evidence) -> list[dict[str, Any]]:
    """Pairs of groups with the same score on every seed that both finished, two at least, on one task."""
    found = []
    for task in evidence.tasks:
        scores = evidence.scores[:, evidence.tasks.index(task)]
        for first, second in combinations(range(len(evidence.groups)), 2):
            gaps = np.abs(scores[first] - scores[second])
            gaps = gaps[np.isfinite(gaps)]
            if gaps.size > 1 and (gaps < DEGENERATE_DEVIATION).all():
                found.append({"task": task, "groups": [evidence.groups[first], evidence.groups[second]]})
    return found


def extremes(means: list[dict[str, Any]], analyses: Mapping[str, Analysis]) -> dict[str, str]:
    """Key -> `99 % or more` or `1 % or less`, of tested contrasts all of whose groups lie there on all their tasks.

    There is no room for a difference, so that being equivalent is easy and says little.
    """
    scores = {(row["group"], row["task"]): row["mean"] for row in means}
    found = {}
    for key, each in analyses.items():
        contrast = each.contrast
        if each.estimate is None or contrast.test == "descriptive" or contrast.scale != "points":
            continue
        own = [scores[group, task] for group in contrast.groups for task in contrast.tasks]
        if min(own) >= CEILING - DEGENERATE_DEVIATION:
            found[key] = f"{100 * CEILING:g} % or more"
        elif max(own) <= 1 - CEILING + DEGENERATE_DEVIATION:
            found[key] = f"{100 * (1 - CEILING):g} % or less"
    return found


def tasks_at_ends(means: list[dict[str, Any]], uninformative: list[str], control: str) -> dict[str, str]:
    """Task -> where every distilling group is on it, of tasks at their ceiling or floor: no difference shows there."""
    found = dict.fromkeys(uninformative, "near chance")
    for task in dict.fromkeys(row["task"] for row in means):
        own = [row for row in means if row["task"] == task and row["unit"] == "share"]
        scores = [row["mean"] for row in own if row["group"] != control and row["n"]]
        if scores and min(scores) >= CEILING - DEGENERATE_DEVIATION:
            found[task] = f"at {100 * CEILING:g} % or more"
        elif scores and max(scores) <= 1 - CEILING + DEGENERATE_DEVIATION:
            found[task] = f"at {100 * (1 - CEILING):g} % or less"
    return found


def assay(evidence: Evidence, plan: Plan) -> dict[str, Any]:
    """Whether any planned group beats the control on any task, by one-sided t tests and Holm's method over all of them.

    It is whether this study can detect a benefit at all: where none is seen, being equivalent is worth little (assay
    sensitivity, ICH E10). Optional groups are no candidates: they are controls of other kinds.
    """
    candidates = [group for group in evidence.groups if group in plan.groups and group != plan.control]
    if plan.control not in evidence.groups or not candidates:
        return {"shown": None, "by": [], "text": ""}
    pairs = [(group, task) for group in candidates for task in evidence.tasks]
    p = {f"{group} on {task}": _gain_p(evidence, group, plan.control, task) for group, task in pairs}
    adjusted = dict(zip(p, holm(np.asarray(list(p.values()))), strict=True))
    by = [name for name, value in adjusted.items() if value <= plan.alpha]
    told = "This study has not shown that it can detect any benefit of distilling: no group beats"
    return {"shown": bool(by), "by": by, "text": "" if by else f"{told} {plan.control} anywhere."}


def _gain_p(evidence: Evidence, group: str, control: str, task: str) -> float:
    contrast = Contrast(group, group, "", "", {group: 1.0, control: -1.0}, {task: 1.0}, "greater", "points", "", None)
    observation = observe(contrast, evidence)
    if observation.absent:
        return math.nan
    return float(t_test(observation.estimate(paired=evidence.paired), "greater")[1])


def extreme_note(place: str) -> str:
    return f"every group of it is at {place}, where equivalence is easy"


def guards(
    means: list[dict[str, Any]],
    analyses: Mapping[str, Analysis],
    evidence: Evidence,
    uninformative: list[str],
    at_extremes: Mapping[str, str],
) -> dict[str, Any]:
    without_spread = [
        key for key, each in analyses.items() if each.estimate is not None and not (each.testable or each.identical)
    ]
    return {
        "uninformative_tasks": uninformative,
        "degenerate": without_spread,
        "equal_scores": equal_scores(evidence),
        "extremes": dict(at_extremes),
        "equal_seeds": [
            {"group": row["group"], "task": row["task"], "statement": row["statement"]}
            for row in means
            if row["degenerate"]
        ],
    }


def guard_notes(found: Mapping[str, Any], unmatched: list[str], evidence: Evidence) -> list[str]:
    notes = [
        f"{task}: every group is within two standard errors of chance. The task is uninformative; "
        "that groups are alike on it says nothing."
        for task in found["uninformative_tasks"]
    ]
    for (task, place), count in Counter((key.split("/")[1], place) for key, place in found["extremes"].items()).items():
        notes.append(
            f"{task}: every group is at {place} in the contrasts that are marked so ({count}). Equivalence is easy "
            "there: the task leaves no room for a difference, and being equivalent says little of the signals."
        )
    for each in found["equal_seeds"]:
        notes.append(
            f"{each['group']} on {each['task']}: all scores are equal, the seed had no effect: {each['statement']}."
        )
    if found["degenerate"]:
        keys = ", ".join(found["degenerate"])
        notes.append(f"Degenerate, every seed gave the same difference, no p and no g: {keys}.")
    for each in found["equal_scores"]:
        notes.append(f"{' and '.join(each['groups'])} have equal scores on {each['task']} on every seed.")
    for task in unmatched:
        notes.append(f"{task}: the item results do not average to the scores, so nothing is said of other questions.")
    if not evidence.paired:
        notes.append("Pairing is nominal: no digests show that seeds share data order and weights. Tests are Welch's.")
    return notes
