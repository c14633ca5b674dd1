"""What a snapshot was made from: a change in any of it means another snapshot."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, Settings
from glassbox.files import sha256_of
from glassbox.models.files import commit_of, model_files
from glassbox.models.loading import loaded_dtype
from glassbox.models.tokenizers import tokenizer_fingerprint
from glassbox.snapshot.further import BY_GROUPS, further_facts
from glassbox.snapshot.schema import SCHEMA_VERSION, canonical_json
from glassbox.tasks.splits import tasks_digest

IDS = ("teacher.model", "teacher.revision", "teacher.commit")


def provenance_of(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, tasks_folder: Path, answers: str | None = None
) -> dict[str, Any]:
    """Teacher (id, revision, commit, sha256 of configuration and weight files), tokenizer, tasks, capture settings, and
    the digest of the teacher's answers where these were captured too."""
    return {
        "schema_version": SCHEMA_VERSION,
        "teacher": teacher_facts(settings.teacher),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "tasks": tasks_digest(tasks_folder),
        "answers": answers,
        "settings": settings.snapshot.model_dump(mode="json", exclude={"processes", *BY_GROUPS})
        | further_facts(settings),
    }


def teacher_facts(settings: ModelSettings) -> dict[str, Any]:
    """Id, revision, commit, how it is loaded, and the sha256 of its configuration and weight files."""
    files = model_files(settings)
    return {
        "model": settings.model,
        "revision": settings.revision,
        "commit": commit_of(files),
        "dtype": str(loaded_dtype(settings)).removeprefix("torch."),
        "initialisation": settings.initialisation,
        "files": {path.name: sha256_of(path) for path in files},
    }


def provenance_key(provenance: dict[str, Any]) -> str:
    """Names the folder of an unfinished capture: parts made from anything else lie elsewhere."""
    return hashlib.sha256(canonical_json(provenance)).hexdigest()[:16]


def provenance_differences(recorded: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    """The entries that differ, by dotted name; ids, which may name the same bytes elsewhere, are not compared."""
    differences = []
    for name in sorted(recorded.keys() | current.keys()):
        mine, theirs = recorded.get(name), current.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            differences += provenance_differences(mine, theirs, f"{prefix}{name}.")
        elif mine != theirs and f"{prefix}{name}" not in IDS:
            differences.append(f"{prefix}{name}")
    return differences
