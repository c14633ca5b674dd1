"""Run a stage's script, or train one trial, in a process that kills itself at a named point.

    python points.py before-rename '*/data/snapshot' src/snapshot.py
    python points.py after-rename '*/runs/sft/0' sft/0

The product knows nothing of it: the rename itself, or MLflow's copy, is replaced in this process alone.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_rename(rename: Callable[..., Any], when: str, pattern: str) -> Callable[..., Any]:
    """A rename that kills this process, or asks it to end, where its target matches."""

    def renamed(source: Any, target: Any, **more: Any) -> Any:
        meant = fnmatch(os.path.abspath(os.fspath(target)), pattern)
        if meant and when == "before-rename":
            die()
        if meant and when == "term-before-rename":
            os.kill(os.getpid(), signal.SIGTERM)
        rename(source, target, **more)
        if meant and when == "after-rename":
            die()

    return renamed


def plant(when: str, pattern: str) -> None:
    if when == "in-artifact":
        _kill_inside_the_copy(pattern)
    else:
        os.replace = killing_rename(os.replace, when, pattern)
        os.rename = killing_rename(os.rename, when, pattern)


def _kill_inside_the_copy(pattern: str) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    whole = LocalArtifactRepository.log_artifact

    def half(self: Any, local_file: str, artifact_path: str | None = None) -> None:
        if not fnmatch(local_file, pattern):
            return whole(self, local_file, artifact_path)
        folder = Path(self.artifact_dir) / (artifact_path or "")
        folder.mkdir(parents=True, exist_ok=True)
        content = Path(local_file).read_bytes()
        (folder / Path(local_file).name).write_bytes(content[: len(content) // 2])
        die()

    LocalArtifactRepository.log_artifact = half  # type: ignore[method-assign]


def train_one(name: str) -> None:
    """The trial of a cell, as a worker trains it."""
    from glassbox.config.settings import load_settings
    from glassbox.grid.attempt import attempt
    from glassbox.grid.cells import cells_of
    from glassbox.tracking import readable_client
    from glassbox.training import trial  # noqa: F401

    readable_client()
    settings = load_settings("params.yaml")
    group, seed = name.split("/")
    (cell,) = cells_of(settings, [group], [int(seed)])
    print(attempt(settings, cell, "params.yaml"))


def main() -> None:
    when, pattern, target = sys.argv[1:4]
    source = Path("src").resolve()
    sys.path[:1] = [str(source)]
    plant(when, pattern)
    if target.endswith(".py"):
        sys.argv = [target, *sys.argv[4:]]
        runpy.run_path(target, run_name="__main__")
    else:
        train_one(target)


if __name__ == "__main__":
    main()
