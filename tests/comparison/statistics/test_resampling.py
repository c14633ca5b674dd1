"""The sign-flip test and the bootstrap interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from glassbox.comparison.statistics.resampling import bca_interval, sign_flip_floor, sign_flip_p

# Darwin's maize: cross- less self-fertilised height of fifteen pairs, in eighths of an inch
MAIZE = np.asarray([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=np.float64)
GAINS = np.asarray([0.4, -0.3, 0.9, 0.1, -0.2, 0.6, 0.2])


def test_the_sign_flip_test_gives_fishers_number_for_darwins_maize() -> None:
    """Fisher 1935, The Design of Experiments, section 21: 1,726 of 32,768 sums are as large, 5.267 %."""
    assert float(sign_flip_p(MAIZE)) == 1726 / 32768


@pytest.mark.parametrize("alternative", ["two_sided", "greater", "less"])
def test_the_sign_flip_test_agrees_with_scipys_permutation_test(alternative: str) -> None:
    expected = stats.permutation_test(
        (GAINS,), np.mean, permutation_type="samples", alternative=alternative.replace("_", "-"), n_resamples=np.inf
    )
    assert float(sign_flip_p(GAINS, alternative)) == pytest.approx(expected.pvalue)  # type: ignore[arg-type]


def test_its_floor_is_two_in_two_to_the_n() -> None:
    assert float(sign_flip_p(np.arange(1.0, 8.0))) == sign_flip_floor(7) == 2 / 128
    assert float(sign_flip_p(np.arange(1.0, 8.0), "greater")) == sign_flip_floor(7, "greater") == 1 / 128


def test_more_values_than_can_be_flipped_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16"):
        sign_flip_p(np.arange(17.0))


def test_bca_is_scipys_and_the_generator_given_decides_it() -> None:
    first, again, other = (bca_interval(GAINS, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert first is not None and first[0] < GAINS.mean() < first[1]


@pytest.mark.parametrize("values", [np.full(7, 0.1), np.asarray([0.1, 0.2])])
def test_there_is_no_bootstrap_without_spread_or_with_two_values(values: np.ndarray) -> None:
    assert bca_interval(values, np.random.default_rng(0)) is None
