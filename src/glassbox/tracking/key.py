"""The key of a trial: a digest of exactly what its result depends on, so that equal keys mean the same experiment."""

import hashlib
import json
from pathlib import Path
from typing import Any

from glassbox.config.inputs import contents, model_inputs
from glassbox.config.settings import Settings
from glassbox.files import code_digest, read_json

CODE = "training/trial.py"
SECTIONS = ("student", "objective", "train", "evaluation")
OF_THE_TEACHER_ONLY = {"evaluation": {"teacher_shots"}}


def sections_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings that a trial reads, by section."""
    return {
        section: getattr(settings, section).model_dump(mode="json", exclude=OF_THE_TEACHER_ONLY.get(section))
        for section in SECTIONS
    }


def trial_key(
    settings: Settings,
    group: str | None,
    seed: int | None,
    snapshot_digest: str,
    tasks_digest: str,
    answers_digest: str | None = None,
) -> str:
    """sha256 in hex over snapshot, tasks, the sections a trial reads, its resolved weights, its seed and the code.

    `answers_digest` names the teacher's answers; it counts for a group that reads them, and for no other.
    """
    own = settings.distill[group] if group is not None else None
    facts = {
        "snapshot": snapshot_digest,
        "tasks": tasks_digest,
        "code": code_digest(CODE),
        "settings": sections_of(settings),
        "student": contents(model_inputs(settings.student)),
        "encoding": {"max_length": settings.snapshot.max_length, "overflow": settings.snapshot.overflow},
        "weights": own.model_dump(mode="json") if own is not None else None,
        "answers": answers_digest if group is not None and settings.reads_answers(group) else None,
        "group": group,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def study_key(settings: Settings, snapshot_digest: str, tasks_digest: str) -> str:
    """The same without group and seed: equal for all trials that may be compared."""
    return trial_key(settings, None, None, snapshot_digest, tasks_digest)


def recorded_answers(folder: Path) -> str | None:
    """The digest of the teacher's answers in data/answers; None where it was not asked."""
    return read_json(folder / "manifest.json").get("digest")
