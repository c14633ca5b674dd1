"""What students kept: shares above chance, flips against the teacher's own answers, agreement beside accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evidences import evidence, plan

from glassbox.comparison.evidence import Evidence
from glassbox.comparison.retention import retention, summary
from glassbox.report.retention import headline, retention_rows, shown_columns
from glassbox.tracking.items import marked, marks
from glassbox.tracking.manifest import TrialRecord

METRICS = {"sst2": "test/accuracy_sst2", "mmlu": "test/accuracy_mmlu", "gsm8k": "test/exact_match_gsm8k"}


class Trial:
    """As much of a trial's record as is read."""

    finished = True

    def __init__(self, group: str, seed: int, metrics: dict[str, float]) -> None:
        self.group, self.seed, self.metrics = group, seed, metrics


def trials(found: Evidence, **own: float) -> list[TrialRecord]:
    return [
        Trial(group, seed, {**{m: float(found.scores[g, t, s]) for t, m in enumerate(METRICS.values())}, **own})  # type: ignore[misc]
        for g, group in enumerate(found.groups)
        for s, seed in enumerate(found.seeds)
    ]


def gate(found: Evidence, accuracy: float = 0.9) -> dict[str, Any]:
    right = {task: np.arange(len(items.ids)) < accuracy * len(items.ids) for task, items in found.items.items()}
    scores = {metric: float(right[task].mean()) for task, metric in METRICS.items()}
    return {"teacher_scores": scores, "teacher_right": {task: marks(each.tolist()) for task, each in right.items()}}


@pytest.fixture(scope="module")
def found() -> Evidence:
    return evidence(seeds=3, questions=51)


def test_flips_and_shares_are_those_of_a_loop_over_questions(found: Evidence) -> None:
    told = retention(trials(found), found, plan(), METRICS, gate(found))
    row = next(r for r in told["trials"] if (r["group"], r["seed"], r["task"]) == ("attention", 1, "mmlu"))
    own = found.items["mmlu"].correct[found.groups.index("attention"), 1]
    teacher = [place < 0.9 * 51 for place in range(51)]
    assert row["lost"] == sum(a and not b for a, b in zip(teacher, own, strict=True))
    assert row["gained"] == sum(bool(b) and not a for a, b in zip(teacher, own, strict=True))
    assert row["score"] - np.mean(teacher) == pytest.approx((row["gained"] - row["lost"]) / 51)
    assert row["kept"] == pytest.approx((own.mean() - 0.25) / (np.mean(teacher) - 0.25))


def test_a_teacher_near_chance_or_unread_has_nothing_to_keep(found: Evidence) -> None:
    near = gate(found, accuracy=0.3)
    rows = retention(trials(found), found, plan(), METRICS, {**near, "teacher_unread": ["gsm8k"]})["trials"]
    kept = {task: [row["kept"] for row in rows if row["task"] == task] for task in METRICS}
    assert not any(kept["mmlu"] + kept["gsm8k"] + kept["sst2"])
    assert all(row["lost"] is not None for row in rows)


def test_agreement_is_reported_beside_accuracy_and_may_move_against_it(found: Evidence) -> None:
    agreeing = {f"retention/{name}_{task}": value for task in METRICS for name, value in AGREEING.items()}
    told = retention(trials(found, **agreeing), found, plan(), METRICS, gate(found))
    row = next(each for each in told["groups"] if (each["group"], each["task"]) == ("sft", "sst2"))
    assert (row["top1"]["mean"], row["kl"]["mean"], row["n"]) == (0.75, 0.125, 3)
    assert summary(told)["retention/sft/kl_sst2"] == 0.125
    assert not told["notes"]


AGREEING = {"kl": 0.125, "top1": 0.75, "top5": 0.5}


def test_no_measure_is_one_minus_a_divergence(found: Evidence) -> None:
    """A KL has no upper end: 1 - KL of a student 3 nats away would be a retention of -2."""
    far = {f"retention/{name}_{task}": value for task in METRICS for name, value in (("kl", 3.0), ("top1", 0.2))}
    told = retention(trials(found, **far), found, plan(), METRICS, gate(found))
    values = [row[name] for row in told["trials"] for name in row if isinstance(row[name], float)]
    assert -2.0 not in values and all(row["kl"] == 3.0 for row in told["trials"])


def test_across_tokenizers_only_flips_are_given_and_the_reason_said(found: Evidence) -> None:
    told = retention(trials(found), found, plan(), METRICS, gate(found))
    assert all(row["kl"] is None and row["lost"] is not None for row in told["trials"])
    assert "other tokens" in told["notes"][0]


def test_results_by_question_of_another_number_are_not_read_as_flips(found: Evidence) -> None:
    fewer = gate(found)
    fewer["teacher_right"]["mmlu"] = "ff"
    rows = retention(trials(found), found, plan(), METRICS, fewer)["trials"]
    assert all((row["lost"] is None) == (row["task"] == "mmlu") for row in rows)
    missing = replace(found, items={})
    assert all(row["lost"] is None for row in retention(trials(found), missing, plan(), METRICS, gate(found))["trials"])


@pytest.mark.parametrize("count", [0, 1, 8, 9, 51])
def test_marks_are_read_as_they_were_written(count: int) -> None:
    flags = [place % 3 == 0 for place in range(count)]
    assert marked(marks(flags), count) == flags
    assert marked(marks(flags), count + 8) is None


def test_the_pages_table_has_a_line_for_the_teacher_and_no_empty_column(results: dict[str, Any]) -> None:
    rows = retention_rows(results)
    teachers = [row for row in rows if row["group"] == "teacher"]
    assert [row["task"] for row in teachers] == [task["task"] for task in results["tasks"]]
    assert "bits_per_byte" not in shown_columns(rows) and "kept" in shown_columns(rows)
    assert "no agreement was measured" in headline(results)
