"""How many labels a group's signals are worth: its score at a label share, read off the control's curve over shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

REPETITIONS = 2000
Scores = Mapping[float, Mapping[int, float]]
"""Label share -> seed -> score, as a share of 1."""


@dataclass(frozen=True)
class Worth:
    """The label share at which the control is as good, and its interval; infinite where it is beyond all labels."""

    share: float
    low: float
    high: float

    def labels(self, samples: int) -> str:
        """In numbers of labelled samples."""
        return f"{_count(self.share, samples)} ({_count(self.low, samples)} to {_count(self.high, samples)})"


def _count(share: float, samples: int) -> str:
    return f"more than all {samples:,}" if math.isinf(share) else f"{round(share * samples):,}"


def share_of_equal(control: Sequence[tuple[float, float]], score: float) -> float:
    """The label share at which the control reaches `score`, infinite past its best.

    The control's means over shares are made monotone (isotonic regression) and joined over the logarithm of the share
    (PCHIP, which keeps that); under its least share the curve is taken as level.
    """
    shares, means = (np.array(values) for values in zip(*sorted(control), strict=True))
    level = isotonic_regression(means).x
    if score <= level[0]:
        return float(shares[0])
    if score > level[-1]:
        return math.inf
    places = np.linspace(math.log(shares[0]), 0.0 if shares[-1] == 1.0 else math.log(shares[-1]), 2001)
    curve = PchipInterpolator(np.log(shares), level)(places)
    return float(np.exp(places[int(np.argmax(curve >= score - 1e-12))]))


def worth(control: Scores, group: Mapping[int, float], *, confidence: float = 0.95, seed: int = 0) -> Worth:
    """What `group`'s mean score at one share is worth in the control's labels.

    The interval is a percentile bootstrap over seeds: a seed that is drawn counts in every mean that has it, so that
    the pairs stay together. With few seeds such intervals are narrow: at seven they cover about 85 %.
    """
    seeds = sorted(group)
    estimate = share_of_equal(_means(control, seeds), _mean(group, seeds))
    generator = np.random.Generator(np.random.PCG64(seed))
    found = []
    for _ in range(REPETITIONS):
        drawn = [seeds[index] for index in generator.integers(len(seeds), size=len(seeds))]
        found.append(share_of_equal(_means(control, drawn), _mean(group, drawn)))
    tail = (1 - confidence) / 2
    low, high = (float(np.sort(found)[min(len(found) - 1, int(q * len(found)))]) for q in (tail, 1 - tail))
    return Worth(estimate, low, high)


def _means(scores: Scores, seeds: Sequence[int]) -> list[tuple[float, float]]:
    """The mean of every share over the drawn seeds that it has; over all of its own where it has none of them."""
    means = []
    for share, by_seed in scores.items():
        own = [by_seed[seed] for seed in seeds if seed in by_seed] or list(by_seed.values())
        means.append((share, float(np.mean(own))))
    return means


def _mean(scores: Mapping[int, float], seeds: Sequence[int]) -> float:
    return float(np.mean([scores[seed] for seed in seeds]))
