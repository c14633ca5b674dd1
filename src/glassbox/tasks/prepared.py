"""data/tasks as `prepare` leaves it, with a note of what it was drawn from: it counts for nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from glassbox.config.inputs import TOKENIZER_FILES, absolute, contents, digests_of, files_in
from glassbox.config.settings import SPLITS, ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.files import read_json, write_json
from glassbox.tasks.pools import Drawn
from glassbox.tasks.sample import Sample
from glassbox.tasks.sources import load_samples, refuse_missing_labels
from glassbox.tasks.splits import read_split, write_splits

ORIGIN = "origin.json"
TEMPLATE_FILES = (*TOKENIZER_FILES, "chat_template*", "additional_chat_templates/*")


def drawn_samples(settings: Settings, note: Callable[[Drawn], None] | None = None) -> dict[str, list[Sample]]:
    """Every split, read from the tasks' sources. Raises GlassboxError for whatever is wrong with them."""
    splits = load_samples(settings.prepare, note, settings.teacher)
    refuse_missing_labels(settings, splits)
    return splits


def write_prepared(folder: Path, settings: Settings, splits: dict[str, list[Sample]]) -> None:
    """The splits, and once they are whole what they were drawn from."""
    write_splits(folder, splits)
    write_json(folder / ORIGIN, {"drawn_from": origin(settings)})


def read_prepared(folder: Path, settings: Settings) -> dict[str, list[Sample]] | None:
    """The splits in `folder`; None where they are missing, damaged, or drawn by other settings or from other data."""
    noted = read_json(folder / ORIGIN).get("drawn_from")
    if noted is None or noted != origin(settings):
        return None
    try:
        splits = {split: read_split(folder, split) for split in SPLITS}
    except GlassboxError:
        return None
    refuse_missing_labels(settings, splits)
    return splits


def origin(settings: Settings) -> str:
    """sha256 in hex over what samples are drawn from: settings and bytes of every task, and the teacher's tokenizer.

    Local files count by name and content, wherever they lie.
    """
    here = absolute(settings)
    prepare = here.prepare
    tasks = {
        name: {
            **task.model_dump(mode="json"),
            "files": task.files and {split: _contents([path]) for split, path in task.files.model_dump().items()},
        }
        for name, task in prepare.tasks.items()
    }
    facts = {"seed": prepare.seed, "tasks": tasks, "hub": _contents([prepare.hub]), "cut_by": _cut_by(here.teacher)}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _contents(names: list[str | None]) -> list[tuple[str, str]]:
    return contents(digests_of(files_in(names)))


def _cut_by(teacher: ModelSettings) -> list[tuple[str, str]] | list[str | None]:
    """What cuts running text and puts conversations: files of a folder, or a name on the hub and its revision."""
    name = teacher.tokenizer or teacher.model
    folder = Path(name)
    if not folder.is_dir():
        return [name, teacher.revision]
    return _contents([str(path) for pattern in TEMPLATE_FILES for path in folder.glob(pattern)])
