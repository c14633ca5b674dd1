"""What a group's score is worth in the control's labels."""

from __future__ import annotations

import math

import pytest

from glassbox.comparison.label_curve import share_of_equal, worth

CONTROL = [(0.03, 0.30), (0.1, 0.40), (0.3, 0.60), (1.0, 0.80)]


@pytest.mark.parametrize(("share", "score"), CONTROL)
def test_a_score_on_the_curve_is_worth_the_share_it_was_measured_at(share: float, score: float) -> None:
    assert share_of_equal(CONTROL, score) == pytest.approx(share, rel=0.01)


def test_between_shares_the_worth_lies_between_them_and_rises_with_the_score() -> None:
    found = [share_of_equal(CONTROL, score) for score in (0.45, 0.5, 0.55)]
    assert 0.1 < found[0] < found[1] < found[2] < 0.3


def test_past_the_controls_best_the_answer_is_beyond_all_labels_and_under_its_least_the_least_share() -> None:
    assert math.isinf(share_of_equal(CONTROL, 0.81))
    assert share_of_equal(CONTROL, 0.1) == 0.03


def test_a_curve_with_a_dip_is_made_monotone_first() -> None:
    dip = [(0.03, 0.30), (0.1, 0.50), (0.3, 0.40), (1.0, 0.80)]
    assert share_of_equal(dip, 0.45) <= 0.3
    assert share_of_equal(dip, 0.46) > 0.1


def test_seeds_stay_paired_in_the_interval_and_the_words_name_labels() -> None:
    """Each seed shifts control and group alike: paired, the worth does not vary at all."""
    shifts = {seed: 0.02 * (seed - 3) for seed in range(7)}
    control = {share: {seed: score + shift for seed, shift in shifts.items()} for share, score in CONTROL}
    found = worth(control, {seed: 0.6 + shift for seed, shift in shifts.items()})
    assert found.share == pytest.approx(0.3, rel=0.01)
    assert (found.low, found.high) == (pytest.approx(0.3, rel=0.02), pytest.approx(0.3, rel=0.02))
    assert found.labels(1000) == "300 (300 to 300)" or found.labels(1000).startswith("30")
    spread = worth(control, {seed: 0.6 - shift for seed, shift in shifts.items()})
    assert spread.low < 0.28 < 0.32 < spread.high


def test_beyond_all_labels_is_a_legal_answer() -> None:
    control = {share: dict.fromkeys(range(3), score) for share, score in CONTROL}
    assert (
        worth(control, dict.fromkeys(range(3), 0.95)).labels(500)
        == "more than all 500 (more than all 500 to more than all 500)"
    )
