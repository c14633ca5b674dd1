"""One row an experiment: what its settings have of their own, and a group's mean score per task with its interval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from glassbox import tracking
from glassbox.report.tables import aligned, short_mean

PREFERRED = ("combined", "black_box")


def experiment_table(group: str | None) -> str:
    """The newest comparison of each experiment, the newest first; without a group, that with the most signals."""
    newest: dict[tuple[str, ...], tracking.RunRecord] = {}
    for record in tracking.find_comparisons():
        identity = tuple(record.tags.get(name, "") for name in ("study_key", "experiment", "differs"))
        newest.setdefault(identity, record)
    rows = [_row(record, results, group) for record in newest.values() if (results := _results(record)) is not None]
    tasks = list(dict.fromkeys(task for row in rows for task in row["scores"]))
    header = ["compared", "experiment", "differs from conf/", "group", "n", *tasks]
    cells = [
        [
            row["time"],
            row["experiment"],
            row["differs"],
            row["group"],
            row["n"],
            *(row["scores"].get(t, "") for t in tasks),
        ]
        for row in rows
    ]
    return "\n".join(aligned([header, *cells]))


def _results(record: tracking.RunRecord) -> dict[str, Any] | None:
    path = tracking.artifact(record.run_id, "results.json")
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _row(record: tracking.RunRecord, results: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    groups = [entry["group"] for entry in results["groups"]]
    chosen = group or next((each for each in PREFERRED if each in groups), groups[-1])
    means = [row for row in results["means"] if row["group"] == chosen]
    return {
        "time": datetime.fromtimestamp(record.started / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        "experiment": record.tags.get("experiment", ""),
        "differs": record.tags.get("differs", "nothing"),
        "group": chosen,
        "n": str(max((row["n"] for row in means), default=0)),
        "scores": {row["task"]: " ".join(short_mean(row)).strip() for row in means},
    }


def known_groups(records: Sequence[tracking.RunRecord]) -> list[str]:
    """The groups that these comparisons hold, by the metrics that they logged."""
    return list(dict.fromkeys(name.partition("/")[0] for record in records for name in record.metrics))
