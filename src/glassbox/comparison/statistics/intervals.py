"""The mean of one group's scores with its interval, and the interval of a share of right answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from glassbox.comparison.statistics.estimates import mean_estimate, t_interval


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds with its interval; None where n is too small to say. All but n in the scores' own unit.

    clipped: a limit lay outside the possible scores and was cut. degenerate: all scores are equal, the seed had no
    effect; the limits are then Clopper and Pearson's for one score of so many questions, or None where the number of
    questions is not known. There is never an interval without width.
    """

    n: int
    mean: float | None
    deviation: float | None
    lower: float | None
    upper: float | None
    clipped: bool
    degenerate: bool


def mean_interval(
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    items: int | None = None,
) -> MeanInterval:
    """Mean of scores [n], one per seed, and its Student t interval: mean +- t((1 + confidence) / 2, n - 1) s/sqrt(n).

    The interval answers: where would the mean lie over other seeds, on these same items? s has n - 1 in its
    denominator. Raises ValueError for scores that are not finite or not one-dimensional.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores must be a one-dimensional array of finite numbers, not {values!r}")
    if values.size == 0:
        return MeanInterval(0, None, None, None, None, clipped=False, degenerate=False)
    estimate = mean_estimate(values)
    mean = float(estimate.value)
    if values.size == 1:
        return MeanInterval(1, mean, None, None, None, clipped=False, degenerate=False)
    degenerate = not bool(estimate.testable)
    if degenerate:
        limits = exact_share_interval(round(mean * items), items, confidence) if items else (None, None)
        return MeanInterval(int(values.size), mean, 0.0, *limits, clipped=False, degenerate=True)
    lower, upper = (float(limit) for limit in t_interval(estimate, confidence))
    return MeanInterval(
        n=int(values.size),
        mean=mean,
        deviation=float(values.std(ddof=1)),
        lower=max(lower, bounds[0]),
        upper=min(upper, bounds[1]),
        clipped=lower < bounds[0] or upper > bounds[1],
        degenerate=False,
    )


def exact_share_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share count / n (Clopper and Pearson 1934; SciPy's binomtest).

    It holds the truth at least as often as it says, for any n and also where the count is 0 or n.
    """
    interval = stats.binomtest(count, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def share_interval(right: int, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share right / items (Wilson 1927; SciPy's binomtest).

    It answers: where would one fixed model's share lie on other questions like these? For the teacher, which has no
    seeds.
    """
    interval = stats.binomtest(right, items).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
