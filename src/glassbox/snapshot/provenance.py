"""What a snapshot was made from: a change in any of it means another snapshot."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from glassbox.config import ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models import tokenizer_fingerprint
from glassbox.snapshot.schema import SCHEMA_VERSION, canonical_json
from glassbox.snapshot.storage import sha256_of
from glassbox.tasks import tasks_digest


def provenance_of(settings: Settings, tokenizer: PreTrainedTokenizerFast, tasks_folder: Path) -> dict[str, Any]:
    """Teacher (id, revision, sha256 of its configuration and weight files), tokenizer, tasks and capture settings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "teacher": {
            "model": settings.teacher.model,
            "revision": settings.teacher.revision,
            "dtype": settings.teacher.dtype,
            "initialisation": settings.teacher.initialisation,
            "files": model_files(settings.teacher),
        },
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "tasks": tasks_digest(tasks_folder),
        "settings": settings.snapshot.model_dump(mode="json", exclude={"processes"}),
    }


def model_files(settings: ModelSettings) -> dict[str, str]:
    """sha256 of config.json and of every weight file, by name."""
    config = cached_file(settings.model, "config.json", revision=settings.revision)
    if config is None:
        raise GlassboxError(f"'{settings.model}' has no config.json. Name a model folder or a hub id in teacher.model.")
    folder = Path(config).parent
    weights = [] if settings.initialisation == "random" else sorted(folder.glob("*.safetensors"))
    return {path.name: sha256_of(path) for path in [Path(config), *weights]}


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
        elif mine != theirs and f"{prefix}{name}" not in ("teacher.model", "teacher.revision"):
            differences.append(f"{prefix}{name}")
    return differences
