"""The embedded models, and a small snapshot of the embedded tasks that the project's own code captures for a moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from glassbox.config.settings import ModelSettings, Settings
from glassbox.snapshot.capture import capture
from glassbox.snapshot.reader import Snapshot
from glassbox.tasks.sample import Sample
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import write_splits
from params import composition

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Embedded:
    """What a study has after its stage `snapshot`; the folders live as long as `embedded` is open."""

    settings: Settings
    tasks: Path
    folder: Path

    @property
    def snapshot(self) -> Snapshot:
        """Opened anew, with nothing in its cache."""
        return Snapshot(self.folder)


def embedded_settings(**samples: int) -> Settings:
    """The committed `scale=faithful` from anywhere; `samples` of each task, such as train=32, replace its own."""
    settings = Settings.model_validate(yaml.safe_load(composition(REPOSITORY / "conf", ["scale=faithful"])))
    tasks = {name: task.model_copy(update=samples) for name, task in settings.prepare.tasks.items()}
    changes: dict[str, Any] = {
        "teacher": _absolute(settings.teacher),
        "student": _absolute(settings.student),
        "prepare": settings.prepare.model_copy(update={"tasks": tasks}),
    }
    return settings.model_copy(update=changes)


def _absolute(model: ModelSettings) -> ModelSettings:
    return model.model_copy(update={"model": str(REPOSITORY / model.model)})


@contextmanager
def embedded(train: int = 64, validation: int = 8, test: int = 8) -> Iterator[Embedded]:
    """Tasks and snapshot with that many samples of each of the three tasks, in a temporary folder."""
    settings = embedded_settings(train=train, validation=validation, test=test)
    with captured(settings, load_samples(settings.prepare)) as made:
        yield made


@contextmanager
def captured(settings: Settings, splits: Mapping[str, Sequence[Sample]]) -> Iterator[Embedded]:
    """The same with samples of one's own; those for training and validation are captured."""
    with TemporaryDirectory(prefix="glassbox-") as name:
        made = Embedded(settings, Path(name) / "tasks", Path(name) / "snapshot")
        write_splits(made.tasks, splits)
        capture(settings, made.tasks, made.folder, Path(name) / "scratch")
        yield made
