"""A trial's key changes with what its result depends on, and with nothing else."""

from __future__ import annotations

import pytest
from projects import ROOT

from glassbox.config.settings import Section, Settings, load_settings
from glassbox.tracking.key import trial_key

SETTINGS = load_settings(ROOT / "params.yaml")


def key(settings: Settings) -> str:
    return trial_key(settings, "combined", 0, "snapshot", "tasks")


def with_setting(path: str, value: object) -> Settings:
    section, name = path.split(".")
    changed: Section = getattr(SETTINGS, section).model_copy(update={name: value})
    return SETTINGS.model_copy(update={section: changed})


def test_what_the_teacher_alone_is_shown_is_no_part_of_a_trial() -> None:
    assert key(with_setting("evaluation.teacher_shots", 8)) == key(SETTINGS)


@pytest.mark.parametrize(
    ("path", "value"),
    [("evaluation.max_new_tokens", 64), ("train.gradient_checkpointing", True), ("student.revision", "main")],
)
def test_what_a_trial_reads_is_part_of_it(path: str, value: object) -> None:
    assert key(with_setting(path, value)) != key(SETTINGS)
