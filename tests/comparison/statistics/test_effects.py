"""Effect sizes without a unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from glassbox.comparison.statistics.effects import (
    head_room_share,
    probability_of_superiority,
    small_sample_factor,
    standardised_by_differences,
    standardised_by_groups,
    superiority_over_all_pairs,
)

# Hedges 1981, J. Educ. Stat. 6(2), table 1: the exact factor for 2 to 10 degrees of freedom, the last digit within one
HEDGES = [0.5642, 0.7236, 0.7979, 0.8408, 0.8686, 0.8882, 0.9027, 0.9139, 0.9228]


def test_the_small_sample_factor_is_hedges_table() -> None:
    assert [small_sample_factor(df) for df in range(2, 11)] == pytest.approx(HEDGES, abs=1e-4)
    assert math.isnan(small_sample_factor(1))


def test_the_factor_makes_g_unbiased() -> None:
    values = np.random.default_rng(1).normal(0.8, 1.0, (200_000, 7))
    assert standardised_by_differences(values).mean() == pytest.approx(0.8, abs=0.01)


def test_g_by_differences_and_by_groups_are_what_a_hand_works_out() -> None:
    first, second = np.asarray([3.0, 5.0, 4.0]), np.asarray([1.0, 4.0, 4.0])
    factor = 0.5641895835477563
    assert float(standardised_by_differences(first - second)) == pytest.approx(factor * 1.0)
    assert float(standardised_by_groups(first, second)) == pytest.approx(factor * 1.0 / math.sqrt((1.0 + 3.0) / 2))


def test_without_spread_there_is_no_g() -> None:
    assert np.isnan(standardised_by_differences(np.full(7, 0.3)))
    assert np.isnan(standardised_by_groups(np.full(7, 0.3), np.full(7, 0.1)))


def test_ties_count_one_half_even_when_floats_miss_zero() -> None:
    values = np.asarray([0.1, -0.2, 0.0, (0.1 + 0.2) - 0.3])
    assert float(probability_of_superiority(values)) == (1 + 0.5 + 0.5) / 4


def test_superiority_over_all_pairs_is_mann_whitneys_u() -> None:
    first, second = np.asarray([1.0, 2.0, 3.0, 5.0]), np.asarray([2.0, 2.5, 0.0])
    u = stats.mannwhitneyu(first, second).statistic
    assert superiority_over_all_pairs(first, second) == pytest.approx(u / 12)


def test_a_share_of_head_room_needs_a_teacher_who_is_surely_above() -> None:
    assert head_room_share(0.02, 0.5, 0.9, 0.87) == pytest.approx(0.05)
    assert head_room_share(0.02, 0.99, 1.0, 0.985) is None
