"""What the trials give for one contrast: its value on every seed, and its estimate in both scopes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.inference.contrasts import TEACHER, Contrast
from glassbox.comparison.statistics.estimates import (
    DEGENERATE_DEVIATION,
    Estimate,
    mean_estimate,
    t_interval,
    welch_estimate,
)
from glassbox.comparison.statistics.scopes import Table, item_variance, scope_interval, two_scopes

SAME_SCORE = 1e-6
CLIPPED, FEW_SEEDS = "V_I < V_E", "few seeds"


@dataclass(frozen=True, eq=False)
class Observation:
    """One contrast's scores: per group its weighted sum over tasks, NaN on a seed that lacks one of them.

    The contrast's weights are multiplied in, so that the sum over groups is its value on a seed. constant: the part
    of the teacher, who has no seeds. n_dropped: seeds left out because a trial diverged. resolution: per group, the
    variance that rounding to whole questions gives its part; 0 where the number of questions is not known. absent: why
    nothing can be estimated; None where it can.
    """

    by_group: Mapping[str, Float[np.ndarray, " seeds"]]
    constant: float = 0.0
    n_dropped: int = 0
    resolution: Mapping[str, float] = field(default_factory=dict)
    absent: str | None = None

    @property
    def complete(self) -> Bool[np.ndarray, " seeds"]:
        return np.asarray(np.isfinite(np.stack(list(self.by_group.values()))).all(axis=0))

    @property
    def values(self) -> Float[np.ndarray, " pairs"]:
        """The contrast's value on every seed that has all it needs; empty where nothing was observed."""
        if not self.by_group:
            return np.zeros(0)
        return np.sum(list(self.by_group.values()), axis=0)[self.complete] + self.constant

    @property
    def constant_over_seeds(self) -> bool:
        """Whether every seed gave the same value: the spread over seeds is below what scores can show."""
        values = self.values
        return values.size > 1 and bool(values.std(ddof=1) < DEGENERATE_DEVIATION)

    @property
    def identical(self) -> bool:
        """Whether the value is 0 on every seed: the scores compared are the same."""
        return self.constant_over_seeds and bool(np.abs(self.values).max() < DEGENERATE_DEVIATION)

    def at_resolution(self, estimate: Estimate) -> bool:
        """Whether the standard error is the floor that whole questions set, not the spread over seeds."""
        values = self.values
        floor = sum(self.resolution.values())
        return bool(estimate.testable) and values.size > 1 and bool(values.var(ddof=1) < floor)

    def samples(self, *, paired: bool) -> dict[str, Float[np.ndarray, " n"]]:
        """Each group's weighted scores: on the complete seeds, or, unpaired, on all of its own."""
        kept = {group: self.complete if paired else np.isfinite(scores) for group, scores in self.by_group.items()}
        return {group: scores[kept[group]] for group, scores in self.by_group.items()}

    def estimate(self, *, paired: bool) -> Estimate:
        """Over seeds on these same items: of the complete pairs, or Welch's of independent groups."""
        if paired:
            return mean_estimate(self.values, sum(self.resolution.values()))
        samples = self.samples(paired=False)
        estimate = welch_estimate(list(samples.values()), [self.resolution.get(group, 0.0) for group in samples])
        return replace(estimate, value=estimate.value + self.constant)


@dataclass(frozen=True, eq=False)
class Scopes:
    """The estimate over seeds alone and over seeds and questions, with V_I and V_E, summed over tasks."""

    seeds: Estimate
    both: Estimate
    items: float
    residual: float

    def interval(self, confidence: float) -> tuple[float, float]:
        lower, upper = scope_interval(self.seeds, self.both, confidence)
        return float(lower), float(upper)

    def coincide(self, confidence: float) -> str | None:
        """Why the wider interval is the seeds' own, where it is: the questions add nothing, or there are few seeds."""
        if self.items <= self.residual:
            return CLIPPED
        return FEW_SEEDS if self.interval(confidence)[1] > float(t_interval(self.both, confidence)[1]) else None


def observe(contrast: Contrast, evidence: Evidence) -> Observation:
    """The scores that a contrast weighs, from evidence on the contrast's own scale."""
    absent = _absent(contrast, evidence)
    if absent:
        return Observation({}, absent=absent)
    tasks = [evidence.tasks.index(task) for task in contrast.tasks]
    task_weights = np.asarray(list(contrast.tasks.values()))
    rows = [evidence.groups.index(group) for group in contrast.groups]
    by_group = {
        group: contrast.weights[group] * (task_weights @ evidence.scores[row, tasks])
        for group, row in zip(contrast.groups, rows, strict=True)
    }
    teacher = contrast.weights.get(TEACHER, 0.0)
    constant = sum(teacher * weight * evidence.teacher[task] for task, weight in contrast.tasks.items() if teacher)
    found = Observation(by_group, float(constant), resolution=_resolution(contrast, evidence))
    n, diverged = int(found.complete.sum()), evidence.diverged[rows].any(axis=0)
    found = replace(found, n_dropped=int((diverged & ~found.complete).sum()))
    if n < 2:
        seeds = "no seed has" if n == 0 else "only one seed has"
        return replace(found, absent=f"{seeds} a score of every group, and a test needs two")
    return found


def _resolution(contrast: Contrast, evidence: Evidence) -> dict[str, float]:
    """Per group sum_k w_k^2 / (12 items_k^2) over its weighted tasks; empty unless all their questions are counted."""
    if any(task not in evidence.items or task in evidence.nats for task in contrast.tasks):
        return {}
    steps = sum((weight / len(evidence.items[task].ids)) ** 2 for task, weight in contrast.tasks.items())
    return {group: contrast.weights[group] ** 2 * steps / 12 for group in contrast.groups}


def observe_items(
    contrast: Contrast, evidence: Evidence, observation: Observation, *, paired: bool, clustered: bool
) -> Scopes | None:
    """The estimate on questions like these beside that on these. None without item results for every seed counted.

    clustered: questions of one cluster are taken as related, where the task has clusters.
    """
    parts = []
    for task in contrast.tasks:
        tables = _tables(contrast, evidence, observation, task, paired=paired)
        if tables is None:
            return None
        parts.append(item_variance(tables, _clusters(evidence, task) if clustered else None))
    seeds = observation.estimate(paired=paired)
    found = two_scopes(seeds, parts)
    if not found.testable:
        return None
    items, residual = (float(sum(getattr(part, name) for part in parts)) for name in ("items", "residual"))
    return Scopes(seeds, found, items, residual)


def has_clusters(contrast: Contrast, evidence: Evidence) -> bool:
    return any(_clusters(evidence, task) is not None for task in contrast.tasks)


def _clusters(evidence: Evidence, task: str) -> Int[np.ndarray, " items"] | None:
    """The task's clusters where it has two at least."""
    clusters = evidence.items[task].clusters if task in evidence.items else None
    return clusters if clusters is not None and np.unique(clusters).size > 1 else None


def unmatched_items(evidence: Evidence) -> Iterator[str]:
    """Tasks whose item results do not average to the scores: they are of other runs, or of other questions."""
    for task, items in evidence.items.items():
        if task in evidence.tasks:
            means = items.correct.mean(axis=-1)
            gaps = np.abs(means - evidence.scores[:, evidence.tasks.index(task)])
            if (gaps[np.isfinite(gaps)] > SAME_SCORE).any():
                yield task


def _absent(contrast: Contrast, evidence: Evidence) -> str | None:
    groups = [group for group in contrast.groups if group not in evidence.groups]
    tasks = [task for task in contrast.tasks if task not in evidence.tasks]
    if groups:
        return f"{', '.join(groups)} did not run"
    if tasks:
        return f"{', '.join(tasks)} is not among the study's tasks"
    if len({task in evidence.nats for task in contrast.tasks}) > 1:
        texts = ", ".join(task for task in contrast.tasks if task in evidence.nats)
        return f"the perplexity of {texts} and shares of right answers have no unit in common"
    unknown = [task for task in contrast.tasks if TEACHER in contrast.weights and task not in evidence.teacher]
    return f"the teacher's score on {', '.join(unknown)} is not known" if unknown else None


def _tables(
    contrast: Contrast, evidence: Evidence, observation: Observation, task: str, *, paired: bool
) -> list[Table] | None:
    """D[s, i] of one task with all weights in: one table of the complete seeds, or one per group of its own seeds."""
    items = evidence.items.get(task)
    if items is None or len(items.ids) < 2 or TEACHER in contrast.weights:
        return None
    tables = []
    for group, scores in observation.by_group.items():
        kept = observation.complete if paired else np.isfinite(scores)
        correct = items.correct[evidence.groups.index(group)][kept]
        tables.append(contrast.weights[group] * contrast.tasks[task] * correct)
    if any(len(table) < 2 or not np.isfinite(table).all() for table in tables):
        return None
    return [np.sum(tables, axis=0)] if paired else tables
