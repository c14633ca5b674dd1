"""Weights and temperatures that are a number or a curve over progress."""

from __future__ import annotations

import pytest
import sections

from glassbox.config.curves import highest, is_constant, points_of, value_at
from glassbox.config.settings import Weights


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.0), (0.2, 0.0), (0.3, 0.0), (0.4, 0.05), (0.5, 0.1), (0.9, 0.1), (1.0, 0.1)],
)
def test_a_curve_is_linear_between_its_points_and_level_outside_them(progress: float, expected: float) -> None:
    assert value_at(points_of("0:0, 0.3:0, 0.5:0.1"), progress) == pytest.approx(expected, abs=1e-15)


def test_a_point_on_a_curve_is_met_exactly_and_a_level_curve_is_its_constant() -> None:
    assert value_at(points_of("0.1:0.3, 0.7:0.1"), 0.1) == 0.3
    assert value_at(points_of("0.1:0.3, 0.7:0.1"), 0.7) == 0.1
    level = points_of("0:0.7, 1:0.7")
    assert {value_at(level, step / 383) for step in range(384)} == {0.7} == {value_at(points_of(0.7), 0.5)}


def test_before_its_first_point_a_curve_has_the_first_value() -> None:
    assert value_at(points_of("0.5:2, 0.6:1"), 0.0) == 2.0


def test_what_a_curve_reaches_and_whether_it_moves() -> None:
    assert highest("0:0, 0.5:0.3, 1:0.1") == 0.3 and highest(0.2) == 0.2
    assert is_constant("0:2, 1:2") and is_constant(2.0) and not is_constant("0:2, 1:1")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.5", "'0.5' is no point of a curve"),
        ("0:0.5", "at least two points"),
        ("0:0, half:1", "'half:1' is no point"),
        ("0:0, 1.5:1", "between 0 and 1"),
        ("-0.1:0, 1:1", "between 0 and 1"),
        ("0.5:0, 0.2:1", "ascends"),
        ("0:0, 0:1", "no two points share one"),
        ("0:0, 1:-1", "at least 0"),
        ("0:0, 1:inf", "finite"),
        ("0:0, nan:1", "between 0 and 1"),
        ("", "is no point"),
        (-0.1, "at least 0"),
        (float("nan"), "finite"),
        (True, "a number, or a curve like"),
        (None, "a number, or a curve like"),
        ([0, 1], "a number, or a curve like"),
    ],
)
def test_what_is_no_weight_is_refused_with_the_reason(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Weights(hidden=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, "0:2, 1:0", -1])
def test_a_temperature_is_above_zero_all_the_way(value: float | str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        sections.objective(temperature=value)


def test_a_component_counts_where_its_curve_ever_does() -> None:
    weights = Weights(task=1, hidden="0:0, 0.5:0.1", attention="0:0, 1:0")
    assert weights.active == {"task": 1.0, "hidden": "0:0, 0.5:0.1"}
