"""Which trials are due, and how quickly that is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grids
import pytest

from glassbox.errors import GlassboxError
from glassbox.files import read_json, write_json
from glassbox.grid import attempt as attempts
from glassbox.grid.cells import Cell, cells_of, is_current


def test_a_trial_is_due_until_runs_hold_its_key_and_every_file(project: Path) -> None:
    settings = grids.write_params(project)
    cells = cells_of(settings, settings.groups, settings.seeds)
    assert [cell.name for cell in cells] == ["combined/0", "sft/0", "combined/1", "sft/1"]
    assert not any(is_current(cell) for cell in cells)
    grids.publish(cells[0], {"items.parquet": b"items"})
    assert [is_current(cell) for cell in cells] == [True, False, False, False]
    (project / "runs/combined/0/items.parquet").unlink()
    assert not is_current(cells[0])


def test_another_weight_is_another_trial_of_its_group_alone(project: Path) -> None:
    settings = grids.write_params(project)
    lower = grids.write_params(project, distill={"combined": {"hidden": 0.05}})
    before, after = (cells_of(each, each.groups, [0]) for each in (settings, lower))
    assert [one.key == other.key for one, other in zip(before, after, strict=True)] == [False, True]


def test_without_a_snapshot_there_is_a_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    settings = grids.write_params(store)
    (store / "data/tasks").mkdir(parents=True)
    with pytest.raises(GlassboxError, match="There is no snapshot in .*: run `dvc repro snapshot`"):
        cells_of(settings, settings.groups, settings.seeds)


def test_a_study_with_nothing_due_ends_without_torch_or_mlflow(project: Path) -> None:
    settings = grids.write_params(project)
    for cell in cells_of(settings, settings.groups, settings.seeds):
        grids.publish(cell)
    code = (
        f"import sys, time; sys.path.insert(0, {str(grids.TRAIN.parent)!r}); import train; sys.argv[1:] = []; "
        "train.main(); print(time.process_time(), sorted({'torch', 'mlflow', 'pandas', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    said, measured = done.stdout.splitlines()
    assert said == "Nothing to train: all 4 trials (2 groups x 2 seeds) are there."
    seconds, imported = measured.split(" ", 1)
    assert imported == "[]" and float(seconds) < 2.0


def test_a_trial_that_ends_under_another_key_is_told_and_not_trained_again_and_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = grids.write_params(project)
    due = Cell("sft", 0, "0" * 64)  # as code that changed while the study ran would make it
    monkeypatch.setattr(attempts, "train_here", lambda *_: "finished")
    outcome = attempts.attempt(settings, due, "params.yaml")
    assert outcome.status == "refused" and "changed while the study ran. Run the same command again" in outcome.reason


@pytest.mark.parametrize("place", ["runs/sft/0/items.parquet", "runs/sft/0.json"])
def test_a_trial_with_a_changed_byte_is_due(project: Path, place: str) -> None:
    settings = grids.write_params(project)
    cell = cells_of(settings, ["sft"], [0])[0]
    grids.publish(cell, {"items.parquet": b"items"})
    write_json(cell.manifest, read_json(cell.manifest))
    assert is_current(cell)
    content = bytearray((project / place).read_bytes())
    content[len(content) // 2] ^= 1
    (project / place).write_bytes(content)
    assert not is_current(cell)


def test_nothing_is_due_on_a_snapshot_whose_files_are_not_those_of_its_manifest(project: Path) -> None:
    settings = grids.write_params(project)
    path = project / "data/snapshot/part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(GlassboxError, match="does not hold the files that its manifest names: `dvc repro` makes"):
        cells_of(settings, settings.groups, settings.seeds)
