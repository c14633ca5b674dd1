"""Power of the t test and of TOST, against published tables and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from glassbox.comparison.statistics.equivalence import equivalence
from glassbox.comparison.statistics.estimates import mean_estimate
from glassbox.comparison.statistics.power import (
    equivalence_power,
    minimum_detectable,
    seeds_for_equivalence,
    seeds_to_detect,
    t_power,
)


def test_seven_pairs_find_1_27_deviations_and_1_62_at_holms_first_step_of_three() -> None:
    assert minimum_detectable(6) / math.sqrt(7) == pytest.approx(1.27, abs=0.005)
    assert minimum_detectable(6, 0.05 / 3) / math.sqrt(7) == pytest.approx(1.62, abs=0.005)


def test_power_of_pairs_is_what_gpower_prints() -> None:
    """Faul et al. 2007 (G*Power 3), paired t test, d_z 0.5, alpha 0.05, power 0.8: n = 34, actual power 0.8077775."""
    assert seeds_to_detect(0.5, 1.0) == 34
    assert t_power(0.5 * math.sqrt(34), 33) == pytest.approx(0.8077775, abs=5e-8)


def test_power_is_what_r_documents() -> None:
    """R, help(power.t.test): power.t.test(n = 20, delta = 1, sd = 1) gives 0.8689528, two samples, df 38."""
    assert t_power(1 / math.sqrt(2 / 20), 38) == pytest.approx(0.8689528, abs=1e-6)


@pytest.mark.parametrize("n", [3, 7, 20])
@pytest.mark.parametrize("sides", ["two-sided", "larger"])
def test_power_agrees_with_statsmodels(n: int, sides: str) -> None:
    expected = TTestPower().power(0.9, n, 0.05, alternative=sides)
    assert t_power(0.9 * math.sqrt(n), n - 1, two_sided=sides == "two-sided") == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("df", [1, 2, 6, 30])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_the_minimum_detectable_effect_has_the_power_it_says(df: int, alpha: float) -> None:
    assert t_power(minimum_detectable(df, alpha, 0.8), df, alpha) == pytest.approx(0.8, abs=1e-6)


def test_power_of_tost_is_what_powertost_prints() -> None:
    """R, PowerTOST's vignette: sampleN.TOST(CV = 0.30), 2x2 crossover, ratio 0.95: n = 40, power 0.815845."""
    within = math.sqrt(math.log(1 + 0.3**2))
    error = within * math.sqrt(2 / 40)
    power = equivalence_power(math.log(1.25) / error, 38, 0.05, math.log(0.95) / error)
    assert power == pytest.approx(0.815845, abs=5e-7)


def test_one_point_has_three_percent_power_where_the_deviation_is_two() -> None:
    assert equivalence_power(1.0 / (2.0 / math.sqrt(7)), 6) == pytest.approx(0.03, abs=0.005)


@pytest.mark.parametrize(("margin", "deviation"), [(0.01, 0.008), (0.01, 0.02)])
def test_power_of_tost_is_how_often_it_passes(margin: float, deviation: float) -> None:
    values = np.random.default_rng(5).normal(0, deviation, (40_000, 7))
    passed = np.mean(equivalence(mean_estimate(values), margin).p <= 0.05)
    assert equivalence_power(margin * math.sqrt(7) / deviation, 6) == pytest.approx(passed, abs=0.008)


def test_the_fewest_seeds_have_the_power_and_one_fewer_has_not() -> None:
    n = seeds_for_equivalence(1.0, 1.0)
    assert n is not None
    assert equivalence_power(math.sqrt(n), n - 1) >= 0.8 > equivalence_power(math.sqrt(n - 1), n - 2)
    assert (seeds_to_detect(100.0, 0.001), seeds_to_detect(0.0001, 1.0)) == (2, None)
