"""A tiny study in a folder of its own: the real models, lengths and code on a few samples, and nothing left behind."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from unittest.mock import patch

import yaml

from glassbox.config.inputs import absolute
from glassbox.config.settings import Settings, StorageSettings
from glassbox.config.storage import TASKS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.tasks.prepared import drawn_samples, read_prepared
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import write_splits

SCRIPTS = Path(__file__).resolve().parents[2]
PARAMS = Path("params.yaml")
MOVED = {"DVC_ROOT": None, "MLFLOW_TRACKING_URI": None, "MLFLOW_RUN_ID": None}


@contextmanager
def rehearsal(settings: Settings, splits: Mapping[str, Sequence[Sample]]) -> Iterator[Settings]:
    """Makes a temporary folder the working directory and the root, with `splits` as its tasks and a store of its own.

    Yields the settings as they hold there: models and data by absolute path, storage inside the folder.
    """
    conf = Path("conf").resolve()
    store = StorageSettings(cache=None, scratch=None, artifacts=None, remote=None, keep_students="all")
    moved = absolute(settings).model_copy(update={"storage": store})
    with TemporaryDirectory(prefix="glassbox-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        if conf.is_dir():
            shutil.copytree(conf, folder / "conf")
        write_splits(folder / TASKS_FOLDER, splits)
        with chdir(folder), _environment({**MOVED, "DVC_ROOT": str(folder)}):
            write_params(moved)
            yield moved


def write_params(settings: Settings) -> None:
    """The settings as the scripts read them."""
    PARAMS.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")


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


def run_stage(name: str, *options: str) -> list[str]:
    """Run a stage's script as DVC would, in this process; returns the lines that it printed.

    Raises GlassboxError with its last words where it fails.
    """
    code: Any = 0
    with captured_output() as output, patch.object(sys, "argv", [f"{name}.py", *options]):
        try:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
    if code:
        raise GlassboxError("\n".join(output.lines[-12:]) or f"src/{name}.py ended with exit code {code}.")
    return output.lines


def samples_of(settings: Settings, tasks_folder: Path) -> dict[str, list[Sample]]:
    """All samples, from the prepared tasks where they are of these settings and data, else from the sources."""
    prepared = read_prepared(tasks_folder, settings)
    return drawn_samples(settings) if prepared is None else prepared


class Output:
    """Filled when the capture ends. A progress bar's redrawing counts as lines too."""

    text = ""

    @property
    def lines(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]+", self.text) if line.strip()]


@contextmanager
def captured_output() -> Iterator[Output]:
    output = Output()
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        streams = (sys.stdout, sys.stderr)
        for stream in streams:
            stream.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with redirect_stdout(file), redirect_stderr(file):
                yield output
        finally:
            file.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            output.text = file.read()
