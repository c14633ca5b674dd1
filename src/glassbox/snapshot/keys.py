"""Keys of the stages that ask the teacher: equal keys mean that nothing they depend on has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassbox.config.inputs import contents, digests_of, files_in, intact, model_inputs, tokenizer_inputs
from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER
from glassbox.files import code_digest
from glassbox.snapshot.further import BY_GROUPS, further_facts
from glassbox.tasks.splits import tasks_digest
from glassbox.tracking.key import recorded_answers

MANIFEST = "manifest.json"


def snapshot_key(settings: Settings, tasks_folder: Path) -> str:
    """sha256 in hex over teacher, tasks, capture settings and code; of the student its tokenizer alone counts."""
    return _key(
        snapshot=settings.snapshot.model_dump(mode="json", exclude={"processes", *BY_GROUPS}),
        further=further_facts(settings),
        teacher=settings.teacher.model_dump(mode="json"),
        teacher_files=contents(model_inputs(settings.teacher)),
        student_tokenizer=settings.student.tokenizer or settings.student.model,
        student_tokenizer_files=contents(tokenizer_inputs(settings.student)),
        student_revision=settings.student.revision,
        audit_seed=settings.prepare.seed,
        tasks=tasks_digest(tasks_folder),
        answers=recorded_answers(ANSWERS_FOLDER) if settings.captures_answers else None,
        code=code_digest("snapshot/capture.py"),
    )


def verify_key(settings: Settings, snapshot_folder: Path, tasks_folder: Path) -> str:
    """sha256 in hex over the bytes of the snapshot, what it was made from, both models, and all that the gate reads."""
    sections = ("verify", "snapshot", "objective", "evaluation", "teacher", "student")
    return _key(
        files=digests_of(files_in([str(snapshot_folder)])),
        settings={name: getattr(settings, name).model_dump(mode="json") for name in sections},
        models=[contents(model_inputs(model)) for model in (settings.teacher, settings.student)],
        seed=settings.seeds[0],
        threads=settings.train.threads,
        tasks=tasks_digest(tasks_folder),
        code=code_digest("snapshot/verify.py", "evaluation/references.py", "tasks/reading.py"),
    )


def is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a folder holds every file that the snapshot's manifest names, as it names it."""
    files = {folder / name: each["sha256"] for name, each in manifest.get("files", {}).items()}
    return intact(files) == files.keys()


def _key(**facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
