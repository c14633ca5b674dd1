"""Whether the selected trials may be compared: one study, one objective per group, shared data order and weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from glassbox.comparison.selection import Selection, Trial
from glassbox.config import Settings
from glassbox.errors import IncomparableRunsError, MissingTrialsError

METRICS = ("accuracy", "exact_match")


@dataclass(frozen=True)
class Breach:
    """One value of a field that should have been the same, or sound, over all the trials named."""

    field: str
    value: str
    trials: tuple[Trial, ...]


def refuse_incomparable(selection: Selection, metrics: Sequence[str]) -> None:
    """Raise IncomparableRunsError with the table `field | value | groups | run ids` if anything does not fit."""
    breaches = [*_differing(selection), *_unsound(selection, metrics), *_identical_students(selection, metrics)]
    if breaches:
        raise IncomparableRunsError(
            "The trials cannot be compared, and no report is written. What does not fit:\n\n"
            f"{_table(breaches)}\n\n"
            "Run `dvc repro` to train again what is out of date; `dvc repro --force train` trains everything again."
        )


def refuse_missing(selection: Selection) -> None:
    """Raise MissingTrialsError if a cell of the grid has neither a finished nor a diverged trial."""
    missing = [name for name in selection.missing if PurePath(name).parts[0] not in selection.store_groups]
    if missing:
        planned = (len(selection.groups) - len(selection.store_groups)) * len(selection.seeds)
        raise MissingTrialsError(
            f"{len(missing)} of {planned} trials are missing: {', '.join(missing)}. "
            "Run `dvc repro` to train them, or `python src/compare.py --allow-incomplete` to compare what there is."
        )


def task_metrics(settings: Settings, trials: Sequence[Trial]) -> dict[str, str]:
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


def _differing(selection: Selection) -> list[Breach]:
    trials = selection.trials
    breaches = _one_value("study key", trials, lambda trial: trial.study_key)
    for digest in ("snapshot", "tasks"):
        breaches += _one_value(f"digest of the {digest}", trials, lambda trial, name=digest: trial.digests[name])
    for seed in selection.seeds:
        of_seed = [trial for trial in trials if trial.seed == seed]
        for digest in ("data_order", "initial_student"):
            field = f"{digest.replace('_', ' ')} of seed {seed}"
            breaches += _one_value(field, of_seed, lambda trial, name=digest: trial.digests[name])
    for group in selection.groups:
        field = f"objective of {group}"
        breaches += _one_value(field, selection.of(group), lambda trial: str(sorted(trial.objective.items())))
    return breaches


def _one_value(field: str, trials: Sequence[Trial], value_of: Callable[[Trial], str | None]) -> list[Breach]:
    by_value: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_value[str(value_of(trial))].append(trial)
    return [Breach(field, value, tuple(of)) for value, of in by_value.items()] if len(by_value) > 1 else []


def _unsound(selection: Selection, metrics: Sequence[str]) -> list[Breach]:
    breaches = []
    for trial in (trial for trial in selection.trials if trial.finished):
        for metric in metrics:
            value = trial.metrics.get(metric, math.nan)
            if not math.isfinite(value):
                breaches.append(Breach(metric, "not a number" if metric in trial.metrics else "absent", (trial,)))
            logged = selection.logged_metrics.get(trial.run_id, {}).get(metric, value)
            if math.isfinite(value) and not math.isclose(logged, value, rel_tol=1e-9, abs_tol=1e-12):
                breaches.append(Breach(metric, f"{value} in the manifest, {logged} in MLflow", (trial,)))
    return breaches


def _identical_students(selection: Selection, metrics: Sequence[str]) -> list[Breach]:
    """Two groups that end in the same weights, or in the same log-likelihoods of every item, are one under two names.

    Items say so only where a task has choices: generated answers alone may agree by chance.
    """
    breaches = []
    has_choices = any(metric.startswith("test/accuracy_") for metric in metrics)
    for digest in ("final_student", "items") if has_choices else ("final_student",):
        by_value: dict[str, list[Trial]] = defaultdict(list)
        for trial in selection.trials:
            if trial.finished and trial.digests[digest]:
                by_value[str(trial.digests[digest])].append(trial)
        for value, same in by_value.items():
            if len({trial.group for trial in same}) > 1:
                breaches.append(Breach(f"same {digest.replace('_', ' ')} in two groups", value, tuple(same)))
    return breaches


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
