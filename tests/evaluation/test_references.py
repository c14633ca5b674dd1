"""Scores of teacher and untrained student, and what is said where the teacher's score measures a format."""

from __future__ import annotations

from pathlib import Path

import pytest
from snapshots import Study, make_study

from glassbox.evaluation.references import measure_student, measure_teacher


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("references"))


def report(study: Study, **evaluation: int) -> dict:
    settings = study.settings
    changed = settings.evaluation.model_copy(update={"max_new_tokens": 12, **evaluation})
    return measure_teacher(settings.model_copy(update={"evaluation": changed}), study.tasks)


def test_a_teacher_that_never_writes_the_mark_is_not_read_as_one_without_head_room(study: Study) -> None:
    found = report(study)
    assert found["teacher_shots"] == 0
    assert found["teacher_scores"]["test/exact_match_gsm8k"] == 0.0
    assert found["teacher_in_format"] == {"gsm8k": 0.0}
    assert found["teacher_unread"] == ["gsm8k"]
    (note,) = (each for each in found["teacher_notes"] if "in 0% of its gsm8k answers at 0 shots" in each)
    assert "no head-room can be read from it" in note
    assert "-S evaluation.teacher_shots=8" in note


def test_shots_are_reported_with_the_samples_that_were_shown_and_repeat(study: Study) -> None:
    found = report(study, teacher_shots=3)
    assert found["teacher_shots"] == 3
    assert {task: len(ids) for task, ids in found["teacher_exemplars"].items()} == {"sst2": 3, "mmlu": 3, "gsm8k": 3}
    assert all(
        sample_id.startswith(f"{t}/train/") for t, ids in found["teacher_exemplars"].items() for sample_id in ids
    )
    assert found["teacher_fewer_shots"] == {"sst2": 0, "mmlu": 0, "gsm8k": 0}
    assert found == report(study, teacher_shots=3, batch_size=2)
    assert "raise evaluation.teacher_shots" in found["teacher_notes"][0]


@pytest.mark.long
@pytest.mark.slow
def test_no_student_is_shown_anything(study: Study, tmp_path: Path) -> None:
    settings = study.settings
    shown = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"teacher_shots": 3})})
    assert measure_student(shown, study.tasks) == measure_student(settings, study.tasks)
