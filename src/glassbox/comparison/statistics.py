"""Estimates of score arrays. Functions of arrays only: no files, no MLflow, no drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

DEGENERATE_DEVIATION = 1e-9


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds with its interval; None where n is too small to say. All but n in the scores' own unit.

    clipped: a limit lay outside the possible scores and was cut. degenerate: all scores are equal, the seed had no
    effect, and the interval has no width.
    """

    n: int
    mean: float | None
    deviation: float | None
    lower: float | None
    upper: float | None
    clipped: bool
    degenerate: bool


def mean_interval(
    scores: ArrayLike, *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
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
    mean = float(values.mean())
    if values.size == 1:
        return MeanInterval(1, mean, None, None, None, clipped=False, degenerate=False)
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, values.size - 1)) * deviation / np.sqrt(values.size)
    lower, upper = max(mean - half, bounds[0]), min(mean + half, bounds[1])
    return MeanInterval(
        n=int(values.size),
        mean=mean,
        deviation=deviation,
        lower=float(lower),
        upper=float(upper),
        clipped=bool(mean - half < bounds[0] or mean + half > bounds[1]),
        degenerate=deviation < DEGENERATE_DEVIATION,
    )
