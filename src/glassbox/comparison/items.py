"""The test questions of every trial: read, checked against manifest and score, and brought into one order."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowException

from glassbox.comparison.evidence import Items, is_perplexity, linearised
from glassbox.tracking.items import FILE, items_digest, read_items
from glassbox.tracking.manifest import TrialRecord

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Answers:
    """One trial's answers: task -> question id -> right or wrong, and task -> question id -> cluster.

    likelihoods: a digest of all log-likelihoods in id order, None where nothing was scored by choices. choices: task ->
    number of choices, 0 where answers are generated. texts: task -> block id -> (log-likelihood, tokens), of tasks
    whose items are blocks of running text; these are never right.
    """

    correct: Mapping[str, Mapping[str, bool]]
    clusters: Mapping[str, Mapping[str, str]]
    likelihoods: str | None
    choices: Mapping[str, int]
    texts: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)

    def shown(self, task: str, metric: str) -> float:
        """The test score that the items give; NaN without any."""
        if is_perplexity(metric):
            blocks = self.texts.get(task, {}).values()
            tokens = sum(count for _, count in blocks)
            return math.exp(-math.fsum(likelihood for likelihood, _ in blocks) / tokens) if tokens else math.nan
        judged = self.correct.get(task, {})
        return sum(judged.values()) / len(judged) if judged else math.nan


@dataclass(frozen=True)
class Fault:
    """What is wrong with the item results of a trial."""

    field: str
    value: str
    trial: TrialRecord


def read_answers(trials: Sequence[TrialRecord], metrics: Mapping[str, str]) -> tuple[dict[str, Answers], list[Fault]]:
    """Trial name -> its answers, for finished trials that have them, and what is wrong with any of them."""
    answers: dict[str, Answers] = {}
    faults: list[Fault] = []
    for trial in (trial for trial in trials if trial.finished):
        path = trial.file(FILE)
        if path is None:
            if trial.files and FILE in trial.files and trial.source == "manifest":
                faults.append(Fault(FILE, "missing", trial))
            continue
        rows = _rows(trial, path)
        if isinstance(rows, Fault):
            faults.append(rows)
            continue
        if unusable := sorted({repr(row.get("cluster")) for row in rows if not _is_cluster(row.get("cluster"))}):
            told = f"{', '.join(unusable[:3])} is no name of a cluster: leave it empty for a question without one"
            faults.append(Fault("cluster", told, trial))
            continue
        answers[trial.name] = _answers(rows)
        faults += _faults_of_rows(trial, rows, answers[trial.name], metrics)
    return answers, [*faults, *_differing_questions(trials, answers)]


def _rows(trial: TrialRecord, path: Path) -> list[dict[str, Any]] | Fault:
    """The rows of an item file, or what is wrong with the file."""
    recorded = (trial.files or {}).get(FILE)
    try:
        if recorded and hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
            return Fault(FILE, "not the file that the manifest names", trial)
        return read_items(path)
    except (OSError, ArrowException):
        return Fault(FILE, "damaged", trial)


def _is_cluster(value: Any) -> bool:
    """Whether it is a name, or empty. A missing value that a table library wrote as NaN or -1 is neither."""
    return value is None or (isinstance(value, str) and value.strip().lower() not in ("nan", "none", "<na>", "-1"))


def _answers(rows: Sequence[Mapping[str, Any]]) -> Answers:
    correct: dict[str, dict[str, bool]] = defaultdict(dict)
    clusters: dict[str, dict[str, str]] = defaultdict(dict)
    choices: dict[str, int] = {}
    texts: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    digest, scored = hashlib.sha256(), False
    for row in sorted(rows, key=lambda row: row["sample_id"]):
        correct[row["task"]][row["sample_id"]] = row["correct"]
        clusters[row["task"]][row["sample_id"]] = row.get("cluster") or ""
        likelihoods = row["log_likelihoods"]
        if row.get("tokens"):
            texts[row["task"]][row["sample_id"]] = (likelihoods[0], row["tokens"])
        choices[row["task"]] = 0 if row.get("tokens") else len(likelihoods)
        scored = scored or bool(likelihoods)
        digest.update(row["sample_id"].encode() + struct.pack(f"<{len(likelihoods)}d", *likelihoods))
    return Answers(correct, clusters, digest.hexdigest() if scored else None, choices, texts)


def _faults_of_rows(
    trial: TrialRecord, rows: Sequence[Mapping[str, Any]], answers: Answers, metrics: Mapping[str, str]
) -> Iterator[Fault]:
    if trial.digests["items"] and items_digest(rows) != trial.digests["items"]:
        yield Fault(FILE, "not the results that the trial recorded the digest of", trial)
    if len(rows) != sum(len(of) for of in answers.correct.values()):
        yield Fault(FILE, "one question is there twice", trial)
    for task, metric in metrics.items():
        found, score = answers.shown(task, metric), trial.metrics.get(metric, math.nan)
        if not abs(found - score) <= TOLERANCE * max(1.0, abs(score)):
            told = (
                f"{found:g} is that of its blocks" if is_perplexity(metric) else f"{found:g} of the questions are right"
            )
            yield Fault(metric, f"{score:g} is the score, {told}", trial)


def _differing_questions(trials: Sequence[TrialRecord], answers: Mapping[str, Answers]) -> Iterator[Fault]:
    """Trials whose questions are not those of the first trial."""
    known = [trial for trial in trials if trial.name in answers]
    for trial in known[1:]:
        for task, judged in answers[trial.name].correct.items():
            expected = answers[known[0].name].correct.get(task, {})
            if judged.keys() != expected.keys():
                differ = len(judged.keys() ^ expected.keys())
                yield Fault(f"questions of {task}", f"{differ} differ from those of {known[0].name}", trial)


def item_table(
    answers: Mapping[str, Answers], groups: Sequence[str], seeds: Sequence[int], tasks: Sequence[str]
) -> dict[str, Items]:
    """Task -> its questions, in id order, and who answered them right; tasks without item results are left out."""
    tables = {}
    for task in tasks:
        known = next((each for each in answers.values() if each.correct.get(task)), None)
        if known is None:
            continue
        ids = tuple(sorted(known.correct[task]))
        correct = np.full((len(groups), len(seeds), len(ids)), np.nan)
        for row, group in enumerate(groups):
            for column, seed in enumerate(seeds):
                if f"{group}/{seed}" in answers:
                    correct[row, column] = _values(answers[f"{group}/{seed}"], task, ids)
        tables[task] = Items(ids, correct, _cluster_numbers(known.clusters[task], ids))
    return tables


def _values(answers: Answers, task: str, ids: Sequence[str]) -> Sequence[float] | np.ndarray:
    """1 or 0 for every question; of running text every block's part in the score."""
    if task not in answers.texts:
        return [answers.correct[task][each] for each in ids]
    likelihoods, tokens = np.asarray([answers.texts[task][each] for each in ids], dtype=np.float64).T
    return linearised(likelihoods, tokens)


def _cluster_numbers(names: Mapping[str, str], ids: Sequence[str]) -> np.ndarray | None:
    """Clusters numbered from 0; a question without one is a cluster of its own, and None where no question has one."""
    if not any(names.values()):
        return None
    return np.unique([names[each] or f"\x1f{each}" for each in ids], return_inverse=True)[1]
