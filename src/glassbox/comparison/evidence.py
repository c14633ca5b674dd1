"""What the statistics are made of: scores and item results as arrays, with the names of their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from glassbox.tracking.manifest import TrialRecord


@dataclass(frozen=True, eq=False)
class Items:
    """One task's test questions and whether each student answered them right.

    ids are in one order for all students. correct is 1, 0, or NaN where a trial has no item results. clusters number
    the groups of related questions (subjects of mmlu) from 0; None where the task has none.
    """

    ids: tuple[str, ...]
    correct: Float[np.ndarray, "groups seeds items"]
    clusters: Int[np.ndarray, " items"] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Test scores as shares of 1, NaN where a trial did not finish; `diverged` tells an outcome from a gap.

    `paired`: data order and initial weights were shared by all groups of a seed, and their digests said so. `teacher`
    and `start` are the test scores of the teacher and of the student before distillation, by task, where known.
    """

    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Float[np.ndarray, "groups tasks seeds"]
    diverged: Bool[np.ndarray, "groups seeds"]
    paired: bool
    items: Mapping[str, Items] = field(default_factory=dict)
    teacher: Mapping[str, float] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)


def score_table(
    trials: Sequence[TrialRecord], groups: Sequence[str], seeds: Sequence[int], metrics: Mapping[str, str]
) -> tuple[Float[np.ndarray, "groups tasks seeds"], Bool[np.ndarray, "groups seeds"]]:
    """Scores of the finished trials, and which trials diverged. metrics: task -> its test metric."""
    scores = np.full((len(groups), len(metrics), len(seeds)), np.nan)
    diverged = np.zeros((len(groups), len(seeds)), dtype=bool)
    for trial in trials:
        row, column = groups.index(trial.group), seeds.index(trial.seed)
        if trial.finished:
            scores[row, :, column] = [trial.metrics[metric] for metric in metrics.values()]
        else:
            diverged[row, column] = True
    return scores, diverged
