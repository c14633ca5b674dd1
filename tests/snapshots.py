"""A small captured snapshot for tests: a tiny teacher, a handful of samples of three kinds, real files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sections
from miniatures import save_model_folder, tiny_tokenizer

from glassbox.config.settings import ModelSettings, Settings
from glassbox.snapshot.capture import build_manifest, capture, write_manifest
from glassbox.snapshot.reader import read_manifest
from glassbox.snapshot.schema import Format, Row
from glassbox.snapshot.storage import part_rows, write_part
from glassbox.tasks.sample import Sample, make_sample
from glassbox.tasks.splits import write_splits


@dataclass(frozen=True)
class Study:
    settings: Settings
    tasks: Path
    scratch: Path
    folder: Path

    def capture(self) -> Path:
        capture(self.settings, self.tasks, self.folder, self.scratch)
        return self.folder

    def with_snapshot(self, **changes: Any) -> Study:
        snapshot = self.settings.snapshot.model_copy(update=changes)
        return replace(self, settings=self.settings.model_copy(update={"snapshot": snapshot}))


def sample(split: str, index: int) -> Sample:
    kind = index % 3
    if kind == 0:
        label = (" negative", " positive")[index % 2]
        prompt = f"Review: film {index} is {'not ' * (index % 4)}good\nSentiment:"
        return make_sample("sst2", split, prompt, label, (" negative", " positive"), label)
    if kind == 1:
        choices = (" A", " B", " C", " D")
        prompt = f"Question: What is {index} + 4?\nA. 5\nB. 6\nC. {index + 4}\nD. 8\nAnswer:"
        return make_sample("mmlu", split, prompt, " C", choices, " C")
    prompt = f"Question: Tom has {index} apples and eats 5. How many are left?\nAnswer:"
    return make_sample("gsm8k", split, prompt, f" {index} - 5 = {index - 5}\n#### {index - 5}", (), str(index - 5))


def make_study(root: Path, samples: int = 18, **snapshot: Any) -> Study:
    """A study under `root`, not yet captured: `samples` for training, six each for validation and test."""
    teacher = save_model_folder(root / "teacher", tiny_tokenizer())
    splits = {
        "train": [sample("train", index) for index in range(samples)],
        "validation": [sample("validation", index) for index in range(1000, 1006)],
        "test": [sample("test", index) for index in range(2000, 2006)],
    }
    write_splits(root / "tasks", splits)
    settings = Settings.model_validate(sections.FAITHFUL)
    model = ModelSettings(model=str(teacher), dtype="float32")
    settings = settings.model_copy(
        update={
            "teacher": model,
            "student": model,
            "snapshot": settings.snapshot.model_copy(update={"max_length": 256, "batch_size": 4, **snapshot}),
        }
    )
    return Study(settings, root / "tasks", root / "scratch", root / "snapshot")


def rewrite(folder: Path, change: Callable[[Sequence[Row]], Sequence[Row]]) -> None:
    """Write a snapshot's first part again with changed rows and digests that agree with them."""
    manifest = read_manifest(folder)
    path = folder / manifest["parts"][0]
    rows = [row for _, row in part_rows(path)]
    copies = [
        replace(row, **{name: bytes(value) for name, value in vars(row).items() if isinstance(value, memoryview)})
        for row in rows
    ]
    del rows
    write_part(path, list(change(copies)))
    layout = Format.from_json(manifest["format"])
    write_manifest(
        folder, build_manifest(folder, manifest["parts"], layout, manifest["provenance"], manifest["counts"])
    )
