"""A whole small project for tests: real tasks, tiny models, a real snapshot, in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sections
from miniatures import save_model_folder, tiny_tokenizer

from glassbox.config.settings import Settings
from glassbox.snapshot.capture import capture
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits

ROOT = Path(__file__).resolve().parent.parent


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return result


def shrunk_settings(folder: Path, **changes: Any) -> Settings:
    """The study at `scale=faithful`, shrunk to seconds."""
    values = sections.FAITHFUL
    counts = {"train": 8, "validation": 4, "test": 4}
    small = {
        "seeds": [0, 1],
        "teacher": {"model": str(folder / "models/teacher")},
        "student": {"model": str(folder / "models/student")},
        "prepare": {"tasks": dict.fromkeys(("sst2", "mmlu", "gsm8k"), counts)},
        "train": {"epochs": 2, "threads": 1, "logging_interval": 1, "micro_batch_size": 4},
        "snapshot": {"audit_positions": 20},
        "evaluation": {"max_new_tokens": 8},
        "storage": {"keep_students": "all"},
    }
    return Settings.model_validate(merged(merged(values, small), changes))


def settings_with(folder: Path, groups: dict[str, dict[str, Any]], **changes: Any) -> Settings:
    """The same with groups of their own beside the control, and one seed."""
    both = [*sections.FAITHFUL["groups"], *groups]
    found = shrunk_settings(folder, **{"groups": both, "distill": groups, "seeds": [0], **changes})
    names = ("sft", *groups)
    return found.model_copy(update={"groups": names, "distill": {name: found.distill[name] for name in names}})


def make_project(folder: Path) -> None:
    """Models, tasks and a captured snapshot under `folder`."""
    tokenizer = tiny_tokenizer()
    save_model_folder(folder / "models/teacher", tokenizer, width=48, heads=4, key_heads=4, seed=1)
    save_model_folder(folder / "models/student", tokenizer, width=32, heads=4, key_heads=2, seed=2)
    settings = shrunk_settings(folder)
    write_splits(folder / "data/tasks", load_samples(settings.prepare))
    capture(settings, folder / "data/tasks", folder / "data/snapshot", folder / ".glassbox")
