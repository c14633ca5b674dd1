"""What a reader should know before believing a figure: which trials there are and what was checked of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.selection import Selection
from glassbox.comparison.trials import Trial


def integrity(selection: Selection, evidence: Evidence) -> dict[str, Any]:
    trials = selection.trials
    shared = {name: sorted({str(trial.digests[name]) for trial in trials}) for name in ("snapshot", "tasks")}
    missing = [*selection.missing, *selection.gaps]
    return {
        "planned": len(trials) + len(missing),
        "finished": sum(trial.finished for trial in trials),
        "diverged": [trial.name for trial in trials if not trial.finished],
        "missing": missing,
        "from_store": [trial.name for trial in trials if trial.source == "store"],
        "lost_runs": list(selection.lost_runs),
        "cut_off": dict(selection.cut_off),
        "out_of_date": list(selection.out_of_date),
        "ignored_files": list(selection.ignored_files),
        "without_items": without_items(selection, evidence),
        "precision": sorted({trial.precision for trial in trials}),
        "digests": shared,
        "liveness": liveness(trials),
        "seconds": math.fsum(trial.seconds for trial in trials if trial.seconds is not None),
    }


def without_items(selection: Selection, evidence: Evidence) -> list[str]:
    """Finished trials that have no results by question for some task."""
    absent = []
    for trial in (trial for trial in selection.trials if trial.finished):
        row, column = evidence.groups.index(trial.group), evidence.seeds.index(trial.seed)
        tables = [evidence.items.get(task) for task in evidence.tasks]
        if any(table is None or np.isnan(table.correct[row, column]).any() for table in tables):
            absent.append(trial.name)
    return absent


def liveness(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row per group and component whose trials recorded it: medians over seeds of each figure."""
    by_cell: dict[tuple[str, str], list[Mapping[str, float | None]]] = defaultdict(list)
    for trial in trials:
        for component, figures in (trial.liveness or {}).items():
            by_cell[trial.group, component].append(figures)
    return [
        {"group": group, "component": component, "n": len(recorded), **_medians(recorded)}
        for (group, component), recorded in by_cell.items()
    ]


def _medians(recorded: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    values = {name: [each[name] for each in recorded if each.get(name) is not None] for name in recorded[0]}
    return {name: median(known) if known else None for name, known in values.items()}  # type: ignore[type-var]
