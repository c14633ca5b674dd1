"""TOST, the smallest margin that passes, the posterior probability of the margin, and the minimum-effect test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.weightstats import ttost_paired

from glassbox.comparison.statistics.equivalence import equivalence, minimum_effect_p
from glassbox.comparison.statistics.estimates import Estimate, mean_estimate, t_interval

VALUES = np.asarray([0.4, -0.3, 0.9, 0.1, -0.2, 0.6, 0.2])


def test_tost_gives_what_lakens_published() -> None:
    """Lakens 2017, SPPS 8(4), the replication of Eskine: bounds of d = 0.43 give t(182) = -2.69, p = .004.

    Organic food n = 89, M 5.22, SD 0.83; control n = 95, M 5.25, SD 0.95; without equal variances df is 181.
    """
    parts = np.asarray([0.95**2 / 95, 0.83**2 / 89])
    df = parts.sum() ** 2 / (parts**2 / [94, 88]).sum()
    estimate = Estimate(np.asarray(5.25 - 5.22), np.asarray(np.sqrt(parts.sum())), np.asarray(df))
    margin = 0.43 * np.sqrt((0.95**2 + 0.83**2) / 2)
    assert (float(estimate.value) - margin) / float(estimate.standard_error) == pytest.approx(-2.69, abs=0.005)
    assert float(equivalence(estimate, margin).p) == pytest.approx(0.004, abs=0.0005)


@pytest.mark.parametrize("margin", [0.3, 0.6, 1.5])
def test_tost_agrees_with_statsmodels(margin: float) -> None:
    expected = ttost_paired(VALUES, np.zeros(7), -margin, margin)[0]
    assert float(equivalence(mean_estimate(VALUES), margin).p) == pytest.approx(float(expected))


def test_passing_is_the_ninety_percent_interval_lying_within_the_margin() -> None:
    estimate = mean_estimate(VALUES)
    widest = max(abs(float(limit)) for limit in t_interval(estimate, 0.9))
    assert float(equivalence(estimate, 1.0).smallest_margin) == pytest.approx(widest)
    assert float(equivalence(estimate, widest).p) == pytest.approx(0.05)


def test_the_probability_within_is_the_posteriors_mass() -> None:
    estimate = mean_estimate(VALUES)
    posterior = stats.t(6, float(estimate.value), float(estimate.standard_error))
    mass = integrate.quad(posterior.pdf, -0.5, 0.5)[0]
    assert float(equivalence(estimate, 0.5).probability_within) == pytest.approx(mass)


def test_a_difference_beyond_the_margin_is_shown_by_the_minimum_effect_test_only() -> None:
    estimate = mean_estimate(VALUES - 5.0)
    assert float(equivalence(estimate, 1.0).p) > 0.99
    assert float(minimum_effect_p(estimate, 1.0)) < 0.001
    assert float(minimum_effect_p(mean_estimate(VALUES), 1.0)) > 0.9


def test_the_minimum_effect_test_errs_at_most_as_often_as_it_says() -> None:
    values = np.random.default_rng(1).normal(0.5, 1.0, (20000, 7))
    assert np.mean(minimum_effect_p(mean_estimate(values), 0.5) <= 0.05) < 0.055


def test_what_cannot_be_tested_has_no_equivalence_either() -> None:
    found = equivalence(mean_estimate(np.zeros(7)), 1.0)
    assert all(np.isnan([found.p, found.smallest_margin, found.probability_within]))


def test_a_margin_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        equivalence(mean_estimate(VALUES), 0.0)
