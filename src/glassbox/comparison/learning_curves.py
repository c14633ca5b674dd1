"""Learning curves: every metric over the steps, its mean over seeds and a pointwise t band."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from glassbox.comparison.statistics.intervals import mean_interval
from glassbox.tracking.manifest import TrialRecord

FILE = "history.parquet"
SHOWN = ("validation/", "train/loss_", "train/gradient_norm")
MOST_POINTS = 60

History = Mapping[str, Mapping[int, float]]


def learning_curves(trials: Sequence[TrialRecord], confidence: float) -> list[dict[str, Any]]:
    """A row per group, metric and step: n, mean, and the band mean +- t((1 + confidence) / 2, n - 1) s / sqrt(n).

    Diverged trials count as far as they came, so that n may fall with the step. At most 60 steps a metric are kept,
    the last among them. Trials without a history are left out.
    """
    by_group: dict[str, list[History]] = defaultdict(list)
    for trial in trials:
        by_group[trial.group].append(_history(trial))
    return [row for group, histories in by_group.items() for row in _group_rows(group, histories, confidence)]


def _history(trial: TrialRecord) -> History:
    """Metric -> step -> value, of the metrics that are shown."""
    path = trial.file(FILE)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    if path is not None:
        columns = parquet.read_table(path, columns=["step", "metric", "value"]).to_pydict()
        for step, metric, value in zip(columns["step"], columns["metric"], columns["value"], strict=True):
            if metric.startswith(SHOWN) and np.isfinite(value):
                found[metric][step] = value
    return found


def _group_rows(group: str, histories: Sequence[History], confidence: float) -> Iterator[dict[str, Any]]:
    for metric in sorted({metric for history in histories for metric in history}):
        curves = [history[metric] for history in histories if metric in history]
        for step in _thinned(sorted({step for curve in curves for step in curve})):
            values = [curve[step] for curve in curves if step in curve]
            band = mean_interval(values, confidence=confidence, bounds=(-math.inf, math.inf))
            limits = {"n": band.n, "mean": band.mean, "lower": band.lower, "upper": band.upper}
            yield {"group": group, "metric": metric, "step": step, **limits}


def _thinned(steps: Sequence[int]) -> list[int]:
    if len(steps) <= MOST_POINTS:
        return list(steps)
    return [steps[place] for place in np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)]
