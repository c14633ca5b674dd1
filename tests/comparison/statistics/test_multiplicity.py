"""Holm's adjustment and the intersection-union test."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from glassbox.comparison.statistics.multiplicity import holm, intersection_union


def test_holm_adjusts_a_published_example() -> None:
    """Wikipedia, "Holm-Bonferroni method", adjusted p-values of 0.01, 0.04, 0.03, 0.005."""
    assert holm(np.asarray([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_agrees_with_statsmodels_on_many_families_at_once() -> None:
    families = np.random.default_rng(1).uniform(0, 0.4, (4, 5))
    families[0, :2] = 0.01
    expected = [multipletests(family, method="holm")[1] for family in families]
    assert holm(families) == pytest.approx(np.asarray(expected))


def test_a_planned_test_that_was_not_run_stays_in_the_count() -> None:
    found = holm(np.asarray([0.02, np.nan, 0.03]))
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx(multipletests([0.02, 1.0, 0.03], method="holm")[1][[0, 2]])
    assert found[0] == pytest.approx(0.06)


def test_all_must_hold_so_the_largest_p_decides_and_a_missing_one_leaves_none() -> None:
    assert intersection_union(np.asarray([0.01, 0.04])) == 0.04
    assert np.isnan(intersection_union(np.asarray([0.01, np.nan])))
