"""What the statistics are made of: scores and item results as arrays, with the names of their axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from glassbox.tasks.sample import PERPLEXITY
from glassbox.tracking.manifest import TrialRecord


@dataclass(frozen=True, eq=False)
class Items:
    """One task's test questions and whether each student answered them right.

    ids are in one order for all students. correct is 1, 0, or NaN where a trial has no item results; of running text it
    is a block's part in the score (`linearised`). clusters number the groups of related questions (subjects of mmlu)
    from 0; None where the task has none.
    """

    ids: tuple[str, ...]
    correct: Float[np.ndarray, "groups seeds items"]
    clusters: Int[np.ndarray, " items"] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Test scores, NaN where a trial did not finish; `diverged` tells an outcome from a gap. More is always better.

    A score is a share of 1, or of the tasks in `nats` minus the mean negative log-likelihood of a token, so that a
    difference is the log of a ratio of perplexities.
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
    nats: frozenset[str] = frozenset()


def is_perplexity(metric: str) -> bool:
    """Whether a test metric ('test/perplexity_wikitext') is a perplexity."""
    return metric.rpartition("/")[2].startswith(f"{PERPLEXITY}_")


def score_of(metric: str, value: float) -> float:
    """A metric's value as the statistics take it: of a perplexity minus its logarithm."""
    return -math.log(value) if is_perplexity(metric) else value


def linearised(log_likelihoods: Float[np.ndarray, " items"], tokens: Float[np.ndarray, " items"]) -> np.ndarray:
    """Each block's part in R = sum of log-likelihoods / sum of tokens: R + (l_i - R n_i) / mean n.

    Their mean is R, and their variance that of a ratio of sums (Cochran, Sampling Techniques, 1977, ch. 6).
    """
    ratio = log_likelihoods.sum() / tokens.sum()
    return np.asarray(ratio + (log_likelihoods - ratio * tokens) / tokens.mean())


def score_table(
    trials: Sequence[TrialRecord], groups: Sequence[str], seeds: Sequence[int], metrics: Mapping[str, str]
) -> tuple[Float[np.ndarray, "groups tasks seeds"], Bool[np.ndarray, "groups seeds"]]:
    """Scores of the finished trials, and which trials diverged. metrics: task -> its test metric."""
    scores = np.full((len(groups), len(metrics), len(seeds)), np.nan)
    diverged = np.zeros((len(groups), len(seeds)), dtype=bool)
    for trial in trials:
        row, column = groups.index(trial.group), seeds.index(trial.seed)
        if trial.finished:
            scores[row, :, column] = [score_of(metric, trial.metrics[metric]) for metric in metrics.values()]
        else:
            diverged[row, column] = True
    return scores, diverged
