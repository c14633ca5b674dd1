"""Which questions one group answers and another does not: what a difference is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.analysis import Analysis
from glassbox.comparison.inference.contrasts import plain_pair

MOST_SEEDS_APART = 0.5  # of the seeds on which two groups differ, from which a question counts as flipped
EXAMPLES = 3


def item_flips(analyses: Mapping[str, Analysis], evidence: Evidence) -> list[dict[str, Any]]:
    """A row per plain difference A - B on one task: questions that A has right and B wrong on most seeds, or reversed.

    examples: ids of those on which they differ most, the first by id where several do.
    """
    rows = []
    for key, found in analyses.items():
        pair, task = plain_pair(found.contrast), next(iter(found.contrast.tasks))
        if found.estimate is None or pair is None or task not in evidence.items or found.contrast.scale != "points":
            continue
        items, kept = evidence.items[task], found.observation.complete
        right, other = (items.correct[evidence.groups.index(group)][kept] for group in pair)
        apart = right.mean(axis=0) - other.mean(axis=0)
        if np.isfinite(apart).all():
            row = {"key": key, "task": task, "groups": list(pair), "questions": len(items.ids)}
            rows.append({**row, "gained": _flipped(items.ids, apart), "lost": _flipped(items.ids, -apart)})
    return rows


def _flipped(ids: tuple[str, ...], apart: np.ndarray) -> dict[str, Any]:
    order = sorted(np.flatnonzero(apart > MOST_SEEDS_APART), key=lambda item: (-apart[item], ids[item]))
    return {"count": len(order), "examples": [ids[item] for item in order[:EXAMPLES]]}
