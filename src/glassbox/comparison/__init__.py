"""The comparison of a study's trials: select, check, estimate, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox import tracking
from glassbox.comparison.comparability import refuse_incomparable, refuse_missing, task_metrics
from glassbox.comparison.plan import planned_weights, read_plan
from glassbox.comparison.report import console_table, dvc_metrics, write_reports
from glassbox.comparison.results import build_results, rounded
from glassbox.comparison.selection import KeyOf, select_trials
from glassbox.config import Settings
from glassbox.errors import MissingTrialsError

__all__ = ["Comparison", "compare_study"]


@dataclass(frozen=True)
class Comparison:
    """results: the content of results.json. page: the report. table: the same means as plain text."""

    results: dict[str, Any]
    page: Path
    table: str
    run_id: str


def compare_study(
    settings: Settings,
    key_of: KeyOf,
    *,
    allow_incomplete: bool = False,
    use: Mapping[str, str] | None = None,
    folder: Path = Path(),
) -> Comparison:
    """Compare the trials that the settings select and write folder/reports.

    key_of(settings, group, seed, snapshot digest, tasks digest) gives a trial's key.
    folder: where runs/, conf/ and reports/ lie. Raises
    IncomparableRunsError and MissingTrialsError, and then writes nothing.
    """
    plan = read_plan(folder / "conf", settings.scale)
    weights = planned_weights(folder / "conf", plan, settings)
    selection = select_trials(settings, weights, folder / "runs", key_of, use)
    if not allow_incomplete:
        refuse_missing(selection)
    if not any(trial.finished for trial in selection.trials):
        raise MissingTrialsError("No trial of this study has finished: there is nothing to compare. Run `dvc repro`.")
    metrics = task_metrics(settings, selection.trials)
    refuse_incomparable(selection, tuple(metrics.values()))
    reports = folder / "reports"
    results = rounded(build_results(settings, plan, weights, selection, metrics, reports / "snapshot.json"))
    page = write_reports(results, reports)
    summary = {f"{group}/{name}": mean for group, means in dvc_metrics(results).items() for name, mean in means.items()}
    run_id = tracking.log_comparison(reports, summary, results["source_run_ids"], settings.storage)
    return Comparison(results, page, console_table(results), run_id)
