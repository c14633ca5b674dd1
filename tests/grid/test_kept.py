"""Finished trials are kept by key, checked before they are used, and limited in size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import grids
import pytest

from glassbox import tracking
from glassbox.config.settings import Settings
from glassbox.grid import kept
from glassbox.grid.cells import Cell, cells_of, is_current


@pytest.fixture
def trial(project: Path) -> tuple[Settings, Cell]:
    """A published trial that is kept, and gone from runs/."""
    settings = grids.write_params(project)
    cell = cells_of(settings, ["sft"], [0])[0]
    grids.publish(cell, {"items.parquet": b"items"})
    kept.keep(cell.manifest, settings)
    shutil.rmtree("runs")
    return settings, cell


def test_a_kept_trial_comes_back_whole_and_its_run_is_restored_where_the_store_lost_it(trial) -> None:
    settings, cell = trial
    assert kept.has(cell, settings)
    assert kept.adopt(cell, settings) == "trained before, its run in MLflow was restored"
    assert is_current(cell)
    (record,) = tracking.find_by_key(cell.key)
    assert record.original_id == "run-of-another-store"
    shutil.rmtree("runs")
    assert kept.adopt(cell, settings) == "trained before"


@pytest.mark.parametrize("damage", ["other bytes", "a lost file", "another key"])
def test_a_damaged_kept_trial_is_removed_and_trained_again(trial, damage: str) -> None:
    settings, cell = trial
    folder = kept.folder_of(settings) / cell.key
    if damage == "other bytes":
        (folder / "files/items.parquet").write_bytes(b"other")
    elif damage == "a lost file":
        (folder / "files/items.parquet").unlink()
    else:
        manifest = (folder / "manifest.json").read_text(encoding="utf-8")
        (folder / "manifest.json").write_text(manifest.replace(cell.key, "0" * 64), encoding="utf-8")
    assert kept.adopt(cell, settings) == ""
    assert not kept.has(cell, settings) and not cell.manifest.exists()


def test_a_half_written_publication_is_not_kept(project: Path) -> None:
    settings = grids.write_params(project)
    cell = cells_of(settings, ["sft"], [0])[0]
    grids.publish(cell, {"items.parquet": b"items"})
    (project / "runs/sft/0/items.parquet").unlink()
    kept.keep(cell.manifest, settings)
    assert not kept.has(cell, settings)


def test_the_trials_unused_for_longest_make_room_and_the_newest_stays(project: Path) -> None:
    settings = grids.write_params(project, engine={"kept_gigabytes": 3e-5})
    cells = cells_of(settings, ["sft", "combined"], [0, 1])
    for age, cell in enumerate(cells):
        grids.publish(cell, {"items.parquet": bytes(12_000)})
        kept.keep(cell.manifest, settings)
        os.utime(kept.folder_of(settings) / cell.key, (1_000_000 + age, 1_000_000 + age))
    assert [kept.has(cell, settings) for cell in cells] == [False, False, True, True]
    assert kept.clear(settings).startswith("2 kept trials removed from ")
    assert not any(kept.has(cell, settings) for cell in cells)
