"""Whether the selected trials may be compared: one study, one objective per group, shared data order and weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from glassbox.comparison.items import Answers, Fault
from glassbox.comparison.selection import Selection
from glassbox.config.settings import Settings
from glassbox.errors import IncomparableRunsError, MissingTrialsError
from glassbox.tasks.sample import METRICS
from glassbox.tracking.manifest import TrialRecord

MOST_NAMED = 10
UNRECORDED = ("", "unknown")
AGAIN = "Run `dvc repro` to train again what is out of date; `dvc repro --force train` trains everything again."
APART = (
    "Two groups with one student are one group under two names, and training again gives the same. Give one of them "
    "another weight in conf/, leave it out (`-S 'distill=[...]'`), or name it under `replicas` in conf/analysis.yaml "
    "where it repeats the other on purpose; then `dvc repro`."
)


@dataclass(frozen=True)
class Breach:
    """One value of a field that should have been the same, or sound, over all the trials named."""

    field: str
    value: str
    trials: tuple[TrialRecord, ...]


def refuse_incomparable(
    selection: Selection,
    metrics: Sequence[str],
    answers: Mapping[str, Answers],
    faults: Sequence[Fault],
    snapshot: str | None,
    replicas: Mapping[str, str] | None = None,
) -> None:
    """Raise IncomparableRunsError with the table `field | value | groups | run ids` if anything does not fit.

    snapshot: the digest that `verify` last passed, where it is known. replicas: groups that repeat another one, which
    may be equal to it.
    """
    unfit = [
        *_differing(selection),
        *_of_another_snapshot(selection, snapshot),
        *_unsound(selection, metrics),
        *_by_value(faults),
    ]
    equal = [
        *_identical(selection, "same final student in two groups", _final_student, replicas or {}),
        *_identical(selection, "same log-likelihoods in two groups", partial(_likelihoods, answers), replicas or {}),
    ]
    if unfit or equal:
        remedies = [AGAIN] if unfit else []
        remedies += [APART] if equal else []
        raise IncomparableRunsError(
            "The trials cannot be compared, and no report is written. What does not fit:\n\n"
            f"{_table([*unfit, *equal])}\n\n" + "\n".join(remedies)
        )


def refuse_missing(selection: Selection) -> None:
    """Raise MissingTrialsError if a cell of the grid has neither a finished nor a diverged trial."""
    if selection.missing:
        planned = (len(selection.groups) - len(selection.store_groups)) * len(selection.seeds)
        cells = [f"{name} (MLflow: {known})" if known else name for name, known in selection.missing.items()]
        more = f" and {len(cells) - MOST_NAMED} more" if len(cells) > MOST_NAMED else ""
        raise MissingTrialsError(
            f"{len(cells)} of {planned} trials are missing: {', '.join(cells[:MOST_NAMED])}{more}. "
            "Run `dvc repro` to train them, or `python src/compare.py --allow-incomplete` to compare what there is."
        )


def task_metrics(settings: Settings, trials: Sequence[TrialRecord]) -> dict[str, str]:
    """Task -> the test metric that its finished trials logged, in the settings' order."""
    logged = {key for trial in trials if trial.finished for key in trial.metrics}
    found = {}
    for task in settings.prepare.tasks:
        names = [f"test/{metric}_{task}" for metric in METRICS if f"test/{metric}_{task}" in logged]
        if len(names) != 1:
            raise IncomparableRunsError(
                f"Task '{task}' has {'no' if not names else 'more than one'} test metric in the finished trials "
                f"({', '.join(names) or f'test/accuracy_{task} or test/exact_match_{task} was expected'}): "
                "run `dvc repro --force train`."
            )
        found[task] = names[0]
    return found


def pairing(selection: Selection) -> tuple[bool, str]:
    """Whether every trial says which data order and initial student it had, so that pairs by seed are verified."""
    shared = ("data_order", "initial_student")
    silent = [trial.name for trial in selection.trials if not all(trial.digests[name] for name in shared)]
    if silent:
        return False, f"nominal: {', '.join(silent)} recorded no digest of data order or initial student"
    return True, "verified: for every seed, data order and initial student are the same over all groups"


def _differing(selection: Selection) -> list[Breach]:
    trials = selection.trials
    breaches = _one_value("study key", trials, lambda trial: trial.study_key)
    for digest in ("snapshot", "tasks"):
        breaches += _one_value(f"digest of the {digest}", trials, lambda trial, name=digest: trial.digests[name])
    for seed in selection.seeds:
        of_seed = [trial for trial in trials if trial.seed == seed]
        for digest in ("label_rank", "initial_student"):
            field = f"{digest.replace('_', ' ')} of seed {seed}"
            recorded = [trial for trial in of_seed if trial.digests[digest]]
            breaches += _one_value(field, recorded, lambda trial, name=digest: trial.digests[name])
        for share in sorted({labelled(trial) for trial in of_seed}):
            where = "" if share == "1" else f" at a label share of {share}"
            recorded = [trial for trial in of_seed if labelled(trial) == share and trial.digests["data_order"]]
            field = f"data order of seed {seed}{where}"
            breaches += _one_value(field, recorded, lambda trial: trial.digests["data_order"])
        recorded = [trial for trial in of_seed if trial.precision not in UNRECORDED]
        breaches += _one_value(f"precision of seed {seed}", recorded, lambda trial: trial.precision)
    for group in selection.groups:
        field = f"objective of {group}"
        breaches += _one_value(field, selection.of(group), lambda trial: str(sorted(trial.objective.items())))
        answers = f"teacher's answers of {group}"
        breaches += _one_value(answers, selection.of(group), lambda trial: trial.digests["answers"])
    return breaches


def labelled(trial: TrialRecord) -> str:
    """The share of samples that had labels."""
    return trial.objective.get("labelled", "1")


def _one_value(
    field: str, trials: Sequence[TrialRecord], value_of: Callable[[TrialRecord], str | None]
) -> list[Breach]:
    by_value: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        by_value[str(value_of(trial))].append(trial)
    return [Breach(field, value, tuple(of)) for value, of in by_value.items()] if len(by_value) > 1 else []


def _of_another_snapshot(selection: Selection, snapshot: str | None) -> list[Breach]:
    """Trials of a snapshot that is not the verified one, whose teacher the report would show beside them."""
    others = [trial for trial in selection.trials if snapshot and trial.digests["snapshot"] != snapshot]
    field = "snapshot that `verify` did not pass"
    return [Breach(field, str(others[0].digests["snapshot"]), tuple(others))] if others else []


def _unsound(selection: Selection, metrics: Sequence[str]) -> list[Breach]:
    breaches = []
    for trial in (trial for trial in selection.trials if trial.finished):
        for metric in metrics:
            value = trial.metrics.get(metric, math.nan)
            if not math.isfinite(value):
                breaches.append(Breach(metric, "not a number" if metric in trial.metrics else "absent", (trial,)))
            logged = selection.logged.get(trial.run_id, {}).get(metric, value)
            if math.isfinite(value) and not math.isclose(logged, value, rel_tol=1e-9, abs_tol=1e-12):
                breaches.append(Breach(metric, f"{value} in the manifest, {logged} in MLflow", (trial,)))
    return breaches


def _by_value(faults: Sequence[Fault]) -> list[Breach]:
    grouped: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for fault in faults:
        grouped[fault.field, fault.value].append(fault.trial)
    return [Breach(field, value, tuple(trials)) for (field, value), trials in grouped.items()]


def _likelihoods(answers: Mapping[str, Answers], trial: TrialRecord) -> str | None:
    return answers[trial.name].likelihoods if trial.name in answers else None


def _final_student(trial: TrialRecord) -> str | None:
    return trial.digests["final_student"]


def _identical(
    selection: Selection, field: str, value_of: Callable[[TrialRecord], str | None], replicas: Mapping[str, str]
) -> list[Breach]:
    """Two groups that end in the same weights, or in the same log-likelihoods of every question, are one group under
    two names. Equal scores alone are no such sign."""
    by_value: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in selection.trials:
        if trial.finished and (value := value_of(trial)):
            by_value[value].append(trial)
    shared = {value: same for value, same in by_value.items() if len(_distinct(same, replicas)) > 1}
    return [Breach(field, value, tuple(same)) for value, same in shared.items()]


def _distinct(trials: Sequence[TrialRecord], replicas: Mapping[str, str]) -> set[str]:
    """Their groups; one that repeats another counts as that one."""
    return {replicas.get(trial.group, trial.group) for trial in trials}


def _table(breaches: Sequence[Breach]) -> str:
    rows = [("field", "value", "groups", "run ids")]
    for breach in breaches:
        groups = ", ".join(dict.fromkeys(trial.group for trial in breach.trials))
        runs = ", ".join(trial.run_id[:8] for trial in breach.trials[:4])
        more = len(breach.trials) - 4
        rows.append((breach.field, _short(breach.value), groups, f"{runs} and {more} more" if more > 0 else runs))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


def _short(value: str) -> str:
    is_digest = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return value[:16] if is_digest else value
