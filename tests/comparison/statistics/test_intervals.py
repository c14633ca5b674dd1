"""Means over seeds and their intervals, against numbers worked out by hand and by SciPy's own interval."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from glassbox.comparison.statistics import mean_interval


def test_the_interval_of_three_scores_is_the_one_worked_out_by_hand() -> None:
    estimate = mean_interval([0.5, 0.6, 0.7])
    half = 4.302652729696142 * 0.1 / math.sqrt(3)
    assert (estimate.n, estimate.clipped, estimate.degenerate) == (3, False, False)
    assert estimate.mean == pytest.approx(0.6)
    assert estimate.deviation == pytest.approx(0.1)
    assert estimate.lower == pytest.approx(0.6 - half)
    assert estimate.upper == pytest.approx(0.6 + half)


def test_the_interval_agrees_with_scipy() -> None:
    scores = np.random.default_rng(3).normal(0.5, 0.02, 7)
    estimate = mean_interval(scores, confidence=0.9)
    expected = stats.ttest_1samp(scores, 0.0).confidence_interval(0.9)
    assert (estimate.lower, estimate.upper) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    intervals = [mean_interval(generator.normal(0.5, 0.02, 7)) for _ in range(1500)]
    covered = np.mean([interval.lower <= 0.5 <= interval.upper for interval in intervals])
    assert 0.93 < covered < 0.97


def test_limits_beyond_the_scale_are_cut_and_said_to_be() -> None:
    estimate = mean_interval([0.97, 0.99, 1.0])
    assert estimate.upper == 1.0 and estimate.clipped


def test_equal_scores_are_degenerate() -> None:
    estimate = mean_interval([0.4] * 7)
    assert estimate.degenerate and (estimate.lower, estimate.upper) == (None, None)
    exact = stats.binomtest(40, 100).proportion_ci(0.95, method="exact")
    counted = mean_interval([0.4] * 7, items=100)
    assert (counted.lower, counted.upper) == pytest.approx((exact.low, exact.high))


def test_one_score_has_a_mean_and_no_interval_and_none_has_neither() -> None:
    one, none = mean_interval([0.4]), mean_interval([])
    assert (one.n, one.mean, one.deviation, one.lower, one.upper) == (1, 0.4, None, None, None)
    assert (none.n, none.mean) == (0, None)


@pytest.mark.parametrize("scores", [[0.1, float("nan")], [0.1, float("inf")], [[0.1, 0.2]]])
def test_scores_that_are_not_finite_or_not_flat_are_refused(scores: list) -> None:
    with pytest.raises(ValueError, match="one-dimensional array of finite numbers"):
        mean_interval(scores)


def test_the_statistics_need_neither_mlflow_nor_torch_nor_pandas() -> None:
    modules = "equivalence, estimates, effects, intervals, multiplicity, power, resampling, scopes"
    code = (
        f"import sys; from glassbox.comparison.statistics import {modules}; "
        "print(sorted({'mlflow', 'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
