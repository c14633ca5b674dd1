"""The power planner: what the plan's seeds find, how many it would take, and what it refuses to plan with."""

from __future__ import annotations

import math
from dataclasses import replace

import evidences
import numpy as np
import pytest

from glassbox.comparison.inference import infer
from glassbox.comparison.power import power_rows, power_table, study_deviations
from glassbox.comparison.statistics.equivalence import equivalence
from glassbox.comparison.statistics.estimates import mean_estimate
from glassbox.comparison.statistics.power import equivalence_power, minimum_detectable, t_power
from glassbox.errors import GlassboxError

PLAN = evidences.plan("paper")


def test_one_deviation_for_all_gives_every_planned_test_its_power() -> None:
    rows = {row["key"]: row for row in power_rows(PLAN, 0.02, 0.01)}
    found = rows["Q1/mmlu"]
    shift = 0.01 * math.sqrt(7) / 0.02
    assert (found["n"], found["family_size"], found["seeds_planned"]) == (7, 3, 34)
    assert (found["power_planned"], found["power_holm"]) == pytest.approx(
        (t_power(shift, 6), t_power(shift, 6, 0.05 / 3))
    )
    assert found["minimum_detectable_planned"] == pytest.approx(1.2726 * 0.02, rel=1e-4)
    assert t_power(0.01 * math.sqrt(found["seeds_holm"]) / 0.02, found["seeds_holm"] - 1, 0.05 / 3) >= 0.8
    assert not {"Q3s/mmlu", "F2/mmlu", "Q4/mmlu-sst2/logit"} & set(rows)


def test_the_answer_comes_first() -> None:
    first = power_table(power_rows(PLAN, 0.016, 0.01), PLAN).splitlines()[0]
    least = 100 * minimum_detectable(6, 0.05 / 3) * 0.016 / math.sqrt(7)
    assert first.startswith(f"With 7 seeds: differences from {least:.1f} points; for 1 point: ")
    assert first.endswith("seeds (the tests of Q1 at 80 % power, at Holm's first step).")


def test_tost_is_planned_under_the_holm_step_that_verdicts_apply() -> None:
    """Simulated: three tasks, no difference; how often one of them is called equivalent after Holm's first step."""
    margin, deviation = 0.01, 0.006
    (row,) = [each for each in power_rows(PLAN, deviation, 0.01) if each["key"] == "Q2/sst2"]
    values = np.random.default_rng(0).normal(0, deviation, (40_000, 7))
    passed = (3 * equivalence(mean_estimate(values), margin).p <= 0.05).mean()
    assert row["equivalence_power"] == pytest.approx(passed, abs=0.01)


def test_equivalence_is_planned_against_each_tasks_margin() -> None:
    rows = {row["key"]: row for row in power_rows(PLAN, 0.02, 0.01)}
    assert rows["Q2/mmlu"]["equivalence_power"] == pytest.approx(0.01, abs=0.005)
    expected = equivalence_power(0.015 * math.sqrt(7) / 0.02, 6, 0.05 / 3)
    assert rows["Q2/gsm8k"]["equivalence_power"] == pytest.approx(expected)
    assert rows["Q2/gsm8k"]["seeds_equivalence"] < rows["Q2/mmlu"]["seeds_equivalence"]
    assert "power_planned" not in rows["alike/sst2/combined-attention"]


def test_a_finished_studys_own_deviations_are_used_contrast_by_contrast() -> None:
    contrasts = infer(PLAN, evidences.evidence())["contrasts"]
    deviations = study_deviations(contrasts)
    rows = power_rows(PLAN, deviations, 0.01)
    own = {row["key"]: row["deviation"] for row in contrasts if row["status"] == "run"}
    assert rows and all(row["deviation"] == own[row["key"]] for row in rows)
    assert not any(row["key"].startswith("R") for row in rows)


def test_the_table_speaks_in_points_and_says_what_its_columns_are() -> None:
    text = power_table(power_rows(PLAN, 0.02, 0.01), PLAN)
    line = next(line for line in text.splitlines() if line.startswith("Q1/mmlu "))
    assert line.split() == "Q1/mmlu 2.00 20 % 9 % 2.55 3.25 34 45 1 1 % 49".split()
    assert "What 7 seeds can show, in percentage points." in text
    assert "> 10,000" in power_table(power_rows(PLAN, 0.9, 0.0001), PLAN)


@pytest.mark.parametrize("number", [0.0, -0.01, math.nan, math.inf, 1.5])
def test_numbers_that_cannot_be_meant_are_refused(number: float) -> None:
    with pytest.raises(GlassboxError, match="must lie above 0 and below 100"):
        power_rows(PLAN, number, 0.01)
    with pytest.raises(GlassboxError, match="difference to detect"):
        power_rows(PLAN, 0.02, number)


def test_a_study_without_deviations_and_a_plan_of_one_seed_are_refused() -> None:
    with pytest.raises(GlassboxError, match="Name a finished study"):
        power_rows(PLAN, {}, 0.01)
    with pytest.raises(GlassboxError, match="a test needs two"):
        power_rows(replace(PLAN, seeds=(0,)), 0.02, 0.01)
