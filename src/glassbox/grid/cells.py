"""The cells of the grid, groups x seeds, with the keys of their trials; none of it imports torch or mlflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glassbox.config.inputs import intact
from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER, RUNS_FOLDER, SNAPSHOT_FOLDER, TASKS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.files import read_json
from glassbox.tracking.key import recorded_answers, trial_key

SNAPSHOT_MANIFEST = SNAPSHOT_FOLDER / "manifest.json"


@dataclass(frozen=True, order=True)
class Cell:
    """One group with one seed, and the key of the trial that belongs there now."""

    group: str
    seed: int
    key: str

    @property
    def name(self) -> str:
        return f"{self.group}/{self.seed}"

    @property
    def manifest(self) -> Path:
        return RUNS_FOLDER / self.group / f"{self.seed}.json"


def cells_of(settings: Settings, groups: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """Every seed's trials side by side, so that an unfinished study has as many seeds of each group as can be.

    The groups with the most components come first: what is too large for the memory fails at once, and the study's
    time, told by the first steps, is not told by those of the cheapest control.
    """
    from glassbox.tasks.splits import tasks_digest

    groups = sorted(groups, key=lambda group: -len(settings.distill[group].active))
    snapshot, tasks = _snapshot_digest(), tasks_digest(TASKS_FOLDER)
    answers = recorded_answers(ANSWERS_FOLDER)
    return [
        Cell(group, seed, trial_key(settings, group, seed, snapshot, tasks, answers))
        for seed in seeds
        for group in groups
    ]


def _snapshot_digest() -> str:
    from glassbox.snapshot.keys import is_whole

    if not SNAPSHOT_MANIFEST.is_file():
        raise GlassboxError(f"There is no snapshot in {SNAPSHOT_MANIFEST.parent.resolve()}: run `dvc repro snapshot`.")
    manifest = read_json(SNAPSHOT_MANIFEST)
    if "logical_digest" not in manifest:
        raise GlassboxError(f"{SNAPSHOT_MANIFEST} is damaged: `dvc repro` makes the snapshot again.")
    if not is_whole(SNAPSHOT_FOLDER, manifest):
        raise GlassboxError(
            f"{SNAPSHOT_FOLDER} does not hold the files that its manifest names: `dvc repro` makes the snapshot again."
        )
    return manifest["logical_digest"]


def current(cells: Iterable[Cell]) -> set[Cell]:
    """Those whose trials runs/ holds, with every file as its manifest names it."""
    named = {}
    for cell in cells:
        manifest = read_json(cell.manifest)
        if manifest.get("key") == cell.key:
            folder = cell.manifest.with_suffix("")
            named[cell] = {folder / name: digest for name, digest in manifest["files"].items()}
    whole = intact({path: digest for files in named.values() for path, digest in files.items()})
    return {cell for cell, files in named.items() if files.keys() <= whole}


def is_current(cell: Cell) -> bool:
    return cell in current([cell])
