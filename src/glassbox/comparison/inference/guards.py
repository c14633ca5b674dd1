"""What would make a number say more than it can: no spread, equal groups, tasks on which nobody beats guessing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.analysis import Analysis
from glassbox.comparison.statistics.estimates import DEGENERATE_DEVIATION


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


def guards(
    means: list[dict[str, Any]], analyses: Mapping[str, Analysis], evidence: Evidence, uninformative: list[str]
) -> dict[str, Any]:
    without_spread = [key for key, each in analyses.items() if each.estimate is not None and not each.testable]
    return {
        "uninformative_tasks": uninformative,
        "degenerate": without_spread,
        "equal_scores": equal_scores(evidence),
        "equal_seeds": [{"group": row["group"], "task": row["task"]} for row in means if row["degenerate"]],
    }


def guard_notes(found: Mapping[str, Any], unmatched: list[str], evidence: Evidence) -> list[str]:
    notes = [
        f"{task}: every group is within two standard errors of chance. The task is uninformative; "
        "that groups are alike on it says nothing."
        for task in found["uninformative_tasks"]
    ]
    for each in found["equal_seeds"]:
        notes.append(f"{each['group']} on {each['task']}: all scores are equal, the seed had no effect.")
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
