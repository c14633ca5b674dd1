"""Estimates, t tests and t intervals, against numbers published for known data and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from glassbox.comparison.statistics.estimates import (
    mean_estimate,
    pair_correlation,
    t_interval,
    t_test,
    welch_estimate,
)

# Student's sleep data: extra hours of ten patients under two drugs (R's `datasets::sleep`)
FIRST = np.asarray([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.asarray([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_the_paired_difference_is_the_one_r_prints_for_the_sleep_data() -> None:
    """R: t.test(Pair(extra[group == 1], extra[group == 2]) ~ 1)."""
    estimate = mean_estimate(FIRST - SECOND)
    t, p = t_test(estimate)
    assert (float(t), float(estimate.df), float(p)) == (
        pytest.approx(-4.0621, abs=5e-5),
        9,
        pytest.approx(0.002833, abs=5e-7),
    )
    assert [float(limit) for limit in t_interval(estimate)] == pytest.approx([-2.4598858, -0.7001142], abs=5e-8)


def test_welchs_difference_is_the_one_r_prints_for_the_sleep_data() -> None:
    """R: t.test(extra ~ group, data = sleep)."""
    estimate = welch_estimate([FIRST, -SECOND])
    t, p = t_test(estimate)
    found = (float(t), float(estimate.df), float(p))
    assert found == (
        pytest.approx(-1.8608, abs=5e-5),
        pytest.approx(17.776, abs=5e-4),
        pytest.approx(0.07939, abs=5e-6),
    )
    assert [float(limit) for limit in t_interval(estimate)] == pytest.approx([-3.3654832, 0.2054832], abs=5e-8)


def test_welchs_estimate_of_three_groups_follows_the_formula() -> None:
    generator = np.random.default_rng(1)
    samples = [weight * generator.normal(0, 1, n) for weight, n in ((0.5, 4), (0.5, 6), (-1.0, 9))]
    parts = [sample.var(ddof=1) / sample.size for sample in samples]
    df = sum(parts) ** 2 / sum(part**2 / (sample.size - 1) for part, sample in zip(parts, samples, strict=True))
    estimate = welch_estimate(samples)
    assert float(estimate.value) == pytest.approx(sum(sample.mean() for sample in samples))
    assert (float(estimate.standard_error), float(estimate.df)) == pytest.approx((sum(parts) ** 0.5, df))


@pytest.mark.parametrize("alternative", ["two_sided", "greater", "less"])
def test_p_agrees_with_scipy_on_every_side(alternative: str) -> None:
    values = np.random.default_rng(2).normal(0.2, 1.0, 8)
    expected = stats.ttest_1samp(values, 0.1, alternative=alternative.replace("_", "-"))
    t, p = t_test(mean_estimate(values), alternative, null=0.1)  # type: ignore[arg-type]
    assert (float(t), float(p)) == pytest.approx((expected.statistic, expected.pvalue))


def test_many_samples_at_once_give_what_each_gives_alone() -> None:
    values = np.random.default_rng(3).normal(0, 1, (5, 4, 7))
    together = t_test(mean_estimate(values))[1]
    for place in np.ndindex(5, 4):
        assert together[place] == pytest.approx(float(t_test(mean_estimate(values[place]))[1]))


def test_a_deviation_under_a_billionth_allows_no_test_and_no_interval() -> None:
    estimate = mean_estimate(0.25 + np.asarray([0.0, 1e-10, 0.0, 1e-10]))
    assert not estimate.testable
    assert all(np.isnan([*t_test(estimate), *t_interval(estimate)]))
    assert mean_estimate(0.25 + np.asarray([0.0, 1e-8, 0.0, 1e-8])).testable


def test_one_value_has_no_standard_error_and_none_is_refused() -> None:
    assert np.isnan(mean_estimate(np.asarray([0.5])).standard_error)
    with pytest.raises(ValueError, match="no values"):
        mean_estimate(np.asarray([]))


def test_the_correlation_of_pairs_is_pearsons() -> None:
    assert float(pair_correlation(FIRST, SECOND)) == pytest.approx(stats.pearsonr(FIRST, SECOND).statistic)


@pytest.mark.parametrize("second", [np.full(10, 0.5), FIRST[:2]])
def test_there_is_no_correlation_without_spread_or_with_two_pairs(second: np.ndarray) -> None:
    assert np.isnan(pair_correlation(FIRST[: second.size], second))
