"""Where each task's samples come from: one dispatch over the settings."""

from __future__ import annotations

from collections.abc import Callable

from glassbox.config import SPLITS, PrepareSettings, TaskSettings
from glassbox.tasks import files, hub
from glassbox.tasks.pools import Pool, draw, requests
from glassbox.tasks.sample import Sample


def load_samples(prepare: PrepareSettings, report: Callable[[str], None] = print) -> dict[str, list[Sample]]:
    """The samples of every split, all tasks in the order of the settings; no prompt is in two splits.

    `report` receives a line for each pool from which duplicates were dropped.
    """
    wanted = []
    for task, settings in prepare.tasks.items():
        wanted += requests(task, _pools(task, settings, prepare.seed), settings)
    return draw(wanted, prepare.seed, report)


def _pools(task: str, settings: TaskSettings, seed: int) -> dict[str, Pool]:
    if settings.source == "hub":
        return hub.pools(task)
    if settings.source == "embedded":
        from glassbox.tasks import embedded

        generated = embedded.load(task, settings, seed)
        return {split: Pool(f"the embedded {task} {split} generator", tuple(generated[split])) for split in SPLITS}
    return files.pools(task, settings)
