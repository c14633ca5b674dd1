"""A tiny study in a folder of its own: the real models, lengths and code on a few samples, and nothing left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from glassbox.config import SPLITS, ModelSettings, Settings, StorageSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import Sample, load_samples, read_split, write_splits

TASKS = Path("data/tasks")
SNAPSHOT = Path("data/snapshot")
SCRATCH = Path(".glassbox")
MOVED = {"DVC_ROOT": None, "MLFLOW_TRACKING_URI": None, "MLFLOW_RUN_ID": None}


@contextmanager
def rehearsal(settings: Settings, splits: Mapping[str, Sequence[Sample]]) -> Iterator[Settings]:
    """Makes a temporary folder the working directory and the root, with `splits` as its tasks and a store of its own.

    Yields the settings as they hold there: models by absolute path, storage inside the folder.
    """
    conf = Path("conf").resolve()
    moved = settings.model_copy(
        update={
            "teacher": _absolute(settings.teacher),
            "student": _absolute(settings.student),
            "storage": StorageSettings(keep_students="all"),
        }
    )
    with TemporaryDirectory(prefix="glassbox-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        if conf.is_dir():
            shutil.copytree(conf, folder / "conf")
        write_splits(folder / TASKS, splits)
        with chdir(folder), _environment({**MOVED, "DVC_ROOT": str(folder)}):
            yield moved


def _absolute(settings: ModelSettings) -> ModelSettings:
    here = {
        name: str(Path(value).resolve())
        for name in ("model", "tokenizer")
        if (value := getattr(settings, name)) and Path(value).exists()
    }
    return settings.model_copy(update=here)


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def silent() -> Iterator[None]:
    """What the trials print is not shown."""
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink):
        yield


def samples_of(settings: Settings, tasks_folder: Path) -> dict[str, list[Sample]]:
    """All samples, from the prepared tasks where they are, else from the tasks' sources."""
    if all((tasks_folder / f"{split}.parquet").exists() for split in SPLITS):
        try:
            return {split: read_split(tasks_folder, split) for split in SPLITS}
        except GlassboxError:
            pass
    return load_samples(settings.prepare)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples, evenly from all tasks: the first of each, in turn."""
    by_task: dict[str, list[Sample]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, []).append(sample)
    chosen: list[Sample] = []
    for index in range(count):
        chosen += [mine[index] for mine in by_task.values() if index < len(mine)]
    return chosen[:count]
