"""Local model folders and data files that settings name, and the digests that make them part of keys.

A model on the hub is pinned by its revision, which is a setting; a folder here may change under the same name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from glassbox.config.settings import ModelSettings, PrepareSettings, Settings, TaskFiles
from glassbox.config.storage import root
from glassbox.files import read_json, sha256_of, write_synced

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


def local_inputs(settings: Settings) -> dict[str, dict[str, str]]:
    """For teacher, student and tasks: the sha256 of every local file that the settings name, by path."""
    return {
        "teacher": model_inputs(settings.teacher),
        "student": model_inputs(settings.student),
        "tasks": task_inputs(settings.prepare),
    }


def model_inputs(settings: ModelSettings) -> dict[str, str]:
    """Every file in the folders of a model and its tokenizer; empty where both lie on the hub."""
    return digests_of(files_in([settings.model, settings.tokenizer]))


def tokenizer_inputs(settings: ModelSettings) -> dict[str, str]:
    """The files of a model's tokenizer alone; empty where it lies on the hub."""
    folder = Path(settings.tokenizer or settings.model)
    return digests_of(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file())


def contents(digests: dict[str, str]) -> list[tuple[str, str]]:
    """Names and digests without their folders: the same model in another folder is the same model."""
    return sorted((Path(path).name, digest) for path, digest in digests.items())


def task_inputs(settings: PrepareSettings) -> dict[str, str]:
    """Every file that a task names, files in a folder that it names, and a local copy of the hub."""
    named = [name for task in settings.tasks.values() if task.files for name in task.files.model_dump().values()]
    return digests_of(files_in([*named, settings.hub]))


def absolute(settings: Settings) -> Settings:
    """The same settings for another working directory: local models and data by the absolute path that they have here,
    under the working directory or the repository's root."""

    def found(path: str | None) -> str | None:
        places = [] if path is None else [folder / Path(path).expanduser() for folder in (Path.cwd(), root())]
        return next((str(place.resolve()) for place in places if place.exists()), path)

    models = {
        role: model.model_copy(update={"model": found(model.model), "tokenizer": found(model.tokenizer)})
        for role, model in (("teacher", settings.teacher), ("student", settings.student))
    }
    prepare = settings.prepare
    tasks = {
        name: task.model_copy(
            update={"files": TaskFiles.model_validate({k: found(v) for k, v in task.files.model_dump().items()})}
        )
        if task.files
        else task
        for name, task in prepare.tasks.items()
    }
    data = {"folder": found(prepare.folder), "hub": found(prepare.hub), "tasks": tasks}
    return settings.model_copy(update={**models, "prepare": prepare.model_copy(update=data)})


def files_in(names: Iterable[str | None]) -> list[Path]:
    """The files among `names` and in the folders among them; what is hidden inside such a folder does not count."""
    found: set[Path] = set()
    for place in (Path(name) for name in names if name):
        if place.is_file():
            found.add(place)
        inside = (path for path in place.rglob("*") if path.is_file())
        found |= {path for path in inside if not any(part.startswith(".") for part in path.relative_to(place).parts)}
    return sorted(found)


def digests_of(paths: Iterable[Path]) -> dict[str, str]:
    """sha256 by path; a file is read once per size, time and inode (kept in .glassbox/digests.json)."""
    place = root() / ".glassbox" / "digests.json"
    known = read_json(place)
    found, fresh = {}, {}
    for path in sorted(set(paths)):
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = os.path.abspath(path)
        entry = known.get(name, [])
        if entry[:3] != state:
            fresh[name] = entry = [*state, sha256_of(path)]
        found[path.as_posix()] = str(entry[3])
    if fresh:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_synced(place, json.dumps(read_json(place) | fresh).encode())
    return found


def intact(files: Mapping[Path, str]) -> set[Path]:
    """Those of these files, each with its sha256, that are there and are still the same."""
    found = digests_of(path for path in files if path.is_file())
    return {path for path, digest in files.items() if found.get(path.as_posix()) == digest}
