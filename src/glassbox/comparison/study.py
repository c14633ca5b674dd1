"""A study's comparison from its trials to its report: select, check, infer, write, log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from glassbox import tracking
from glassbox.comparison.comparability import pairing, refuse_incomparable, refuse_missing, task_metrics
from glassbox.comparison.evidence import Evidence, is_perplexity, score_of, score_table
from glassbox.comparison.inference import infer
from glassbox.comparison.items import Answers, item_table, read_answers
from glassbox.comparison.learning_curves import FILE as HISTORY
from glassbox.comparison.plan import Plan, PlannedTask, plan_or_derived, planned_weights
from glassbox.comparison.results import Study, build_results, references
from glassbox.comparison.retention import summary as retained
from glassbox.comparison.selection import KeyOf, select_trials
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError, MissingTrialsError
from glassbox.files import parse_json
from glassbox.report.description import description
from glassbox.report.figures.gains import NAME as FIRST_FIGURE
from glassbox.report.report import set_aside, write_reports
from glassbox.report.tables import dvc_metrics

QUESTIONS = Path("data/tasks/test.parquet")
EARLIER = Path(".glassbox/earlier_report")


@dataclass(frozen=True)
class Comparison:
    """results: the content of results.json. page: the report."""

    results: dict[str, Any]
    page: Path
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
    folder: where runs/, conf/ and reports/ lie. Raises IncomparableRunsError and MissingTrialsError; it then writes
    nothing, and moves an earlier report to EARLIER, so that it does not look like the present one.
    """
    reports = folder / "reports"
    try:
        results = results_of(settings, key_of, allow_incomplete=allow_incomplete, use=use, folder=folder)
    except GlassboxError as error:
        if set_aside(reports, folder / EARLIER):
            told = f"An earlier report was in reports/; it is not of these trials and lies in {EARLIER} now."
            raise type(error)(f"{error}\n\n{told}") from error
        raise
    page = write_reports(results, reports)
    summary = {f"{group}/{name}": mean for group, means in dvc_metrics(results).items() for name, mean in means.items()}
    summary |= retained(results["retention"])
    tags = {"plan": results["plan"]["digest"], "study_key": results["study_key"]}
    first = reports / "figures" / f"{FIRST_FIGURE}.png"
    figure = tracking.artifact_address(f"figures/{first.name}") if first.is_file() else None
    note = description(results, figure)
    run_id = tracking.log_comparison(reports, summary, results["source_run_ids"], tags, settings.storage, note)
    return Comparison(results, page, run_id)


def results_of(
    settings: Settings,
    key_of: KeyOf,
    *,
    allow_incomplete: bool = False,
    use: Mapping[str, str] | None = None,
    folder: Path = Path(),
) -> dict[str, Any]:
    """The content of results.json, with nothing written; arguments and errors are those of `compare_study`."""
    plan = plan_or_derived(folder / "conf", settings)
    planned = planned_weights(folder / "conf", plan, settings)
    selection = select_trials(settings, planned, folder / "runs", key_of, use)
    if not allow_incomplete:
        refuse_missing(selection)
    if not any(trial.finished for trial in selection.trials):
        raise MissingTrialsError("No trial of this study has finished: there is nothing to compare. Run `dvc repro`.")
    gate, data = (_read_report(folder / "reports" / name) for name in ("snapshot.json", "tasks.json"))
    metrics = task_metrics(settings, selection.trials)
    for trial in selection.trials:
        trial.whole_file(HISTORY)
    answers, faults = read_answers(selection.trials, metrics)
    refuse_incomparable(selection, tuple(metrics.values()), answers, faults, gate.get("logical_digest"), plan.replicas)
    plan = _with_own_tasks(plan, metrics, answers)
    paired, pairing_text = pairing(selection)
    known = references(gate, metrics)
    scores, diverged = score_table(selection.trials, selection.groups, selection.seeds, metrics)
    evidence = Evidence(
        groups=selection.groups,
        tasks=tuple(metrics),
        seeds=selection.seeds,
        scores=scores,
        diverged=diverged,
        paired=paired,
        items=item_table(answers, selection.groups, selection.seeds, tuple(metrics)),
        teacher={
            task: score_of(metrics[task], score)
            for task, score in known["teacher"].items()
            if task not in gate.get("teacher_unread", ())
        },
        start={task: score_of(metrics[task], score) for task, score in known["initial_student"].items()},
        nats=frozenset(task for task, metric in metrics.items() if is_perplexity(metric)),
    )
    study = Study(settings, plan, planned, selection, metrics, evidence, pairing_text, gate, data)
    inferred = infer(plan, evidence)
    return build_results(study, {**inferred, "flips": _with_prompts(inferred["flips"], folder / QUESTIONS)})


def _with_prompts(flips: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The flips with the prompt and answer of each example, where the test questions are here."""
    if not path.is_file():
        return flips
    rows = parquet.read_table(path, columns=["sample_id", "prompt", "answer"]).to_pylist()
    known = {row["sample_id"]: row for row in rows}

    def told(side: Mapping[str, Any]) -> dict[str, Any]:
        return {**side, "examples": [known.get(each, {"sample_id": each}) for each in side["examples"]]}

    return [{**row, "gained": told(row["gained"]), "lost": told(row["lost"])} for row in flips]


def _read_report(path: Path) -> dict[str, Any]:
    """What `verify` reported of the snapshot, or `prepare` of the tasks; empty where it did not run."""
    try:
        return parse_json(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise GlassboxError(f"{path} is damaged ({error}): delete it, then `dvc repro`.") from error


def _with_own_tasks(plan: Plan, metrics: Mapping[str, str], answers: Mapping[str, Answers]) -> Plan:
    """The plan for the study's tasks, with what their trials tell of those that it does not name."""
    found = {}
    for task, metric in metrics.items():
        choices = next((each.choices[task] for each in answers.values() if task in each.choices), 0)
        chance = None if is_perplexity(metric) else 1 / choices if choices else 0.0
        own = PlannedTask(metric.removeprefix("test/").removesuffix(f"_{task}"), chance)
        found[task] = plan.tasks.get(task, own)
    return plan.for_tasks(found)
