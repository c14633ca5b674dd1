"""Answers on disk: read back as written, and refused where they are not what their manifest names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from projects import shrunk_settings

from glassbox.config.settings import Group
from glassbox.errors import GlassboxError
from glassbox.files import read_json
from glassbox.snapshot.labels import (
    ANSWERS_FILE,
    Answer,
    answers_digest,
    read_teacher_labels,
    write_data_labels,
    write_table,
    write_teacher_labels,
)
from glassbox.tracking.key import recorded_answers, trial_key

ANSWERS = [
    Answer("gsm8k/train/b", "gsm8k", " 12 - 5 = 7\n#### 7", True, True),
    Answer("gsm8k/train/a", "gsm8k", "", True, False),
    Answer("sst2/train/c", "sst2", " positive", True, False),
]
FACTS = {"provenance": {"tasks": "tasks digest"}}


def test_answers_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_teacher_labels(tmp_path / "seqkd", ANSWERS, FACTS)
    labels = read_teacher_labels(tmp_path / "seqkd", "tasks digest")
    assert labels.answers == {answer.sample_id: answer for answer in ANSWERS}
    assert labels.digest == answers_digest(ANSWERS) == answers_digest(ANSWERS[::-1])


@pytest.mark.parametrize("change", [{"answer": " 8"}, {"ended": False}, {"correct": False}, {"sample_id": "x"}])
def test_the_digest_names_everything_about_an_answer(change: dict) -> None:
    assert answers_digest([replace(ANSWERS[0], **change), *ANSWERS[1:]]) != answers_digest(ANSWERS)


def test_a_group_of_the_datas_labels_says_so_and_no_more(tmp_path: Path) -> None:
    write_data_labels(tmp_path / "sft")
    assert [path.name for path in (tmp_path / "sft").iterdir()] == ["manifest.json"]
    assert read_json(tmp_path / "sft/manifest.json") == {"labels": "data"}
    with pytest.raises(GlassboxError, match="holds no answers of the teacher.*dvc repro answers"):
        read_teacher_labels(tmp_path / "sft", "tasks digest")


def test_absent_changed_and_foreign_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match="holds no answers"):
        read_teacher_labels(tmp_path / "seqkd", "tasks digest")
    write_teacher_labels(tmp_path / "seqkd", ANSWERS, FACTS)
    with pytest.raises(GlassboxError, match="belong to other samples"):
        read_teacher_labels(tmp_path / "seqkd", "other tasks")
    write_table(tmp_path / "seqkd" / ANSWERS_FILE, ANSWERS[:2])
    with pytest.raises(GlassboxError, match="holds other answers"):
        read_teacher_labels(tmp_path / "seqkd", "tasks digest")
    (tmp_path / "seqkd" / ANSWERS_FILE).write_bytes(b"no table")
    with pytest.raises(GlassboxError, match="cannot be read as the teacher's answers"):
        read_teacher_labels(tmp_path / "seqkd", "tasks digest")


def test_the_recorded_answers_are_those_of_the_folder_that_has_them(tmp_path: Path) -> None:
    assert recorded_answers(tmp_path) is None
    write_data_labels(tmp_path)
    assert recorded_answers(tmp_path) is None
    write_teacher_labels(tmp_path, ANSWERS, FACTS)
    assert recorded_answers(tmp_path) == answers_digest(ANSWERS)


def test_answers_are_part_of_the_key_of_the_group_that_learns_from_them_and_of_no_other(tmp_path: Path) -> None:
    groups = {"sft": Group(task=1.0), "seqkd": Group(task=1.0, labels="teacher")}
    settings = shrunk_settings(tmp_path).model_copy(update={"distill": groups})
    keys = {
        group: {trial_key(settings, group, 0, "snapshot", "tasks", answers) for answers in (None, "first", "second")}
        for group in groups
    }
    assert len(keys["sft"]) == 1
    assert len(keys["seqkd"]) == 3
