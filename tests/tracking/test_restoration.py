"""A deleted mlflow.db is refilled from runs/, and the comparison sees its runs again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import sections
import studies

import restore
from glassbox import tracking
from glassbox.comparison.study import results_of
from glassbox.errors import GlassboxError
from glassbox.files import read_json, write_json
from glassbox.tracking.restoration import restore_runs


def test_a_lost_store_is_refilled_once(store: Path, initialised_store: Path) -> None:
    studies.write_study(store, ("sft", "combined"), (0, 1))
    settings = studies.settings(("sft", "combined"), (0, 1))
    before = results_of(settings, studies.key_of, folder=store)
    (store / "mlflow.db").write_bytes(initialised_store.read_bytes())
    lost = results_of(settings, studies.key_of, folder=store)
    assert len(lost["integrity"]["lost_runs"]) == 4

    done = restore_runs(store / "runs", sections.storage())
    assert done.restored == ("combined/0", "combined/1", "sft/0", "sft/1") and done.present == ()
    again = restore_runs(store / "runs", sections.storage())
    assert again.restored == () and len(again.present) == 4
    assert results_of(settings, studies.key_of, folder=store) == before


def test_a_restored_run_serves_as_a_group_from_the_store(store: Path) -> None:
    studies.write_conf(store, (0,))
    content = studies.write_trial(store, "combined", 0, log=False)
    restore_runs(store / "runs", sections.storage())
    (record,) = tracking.find_by_key(content["key"])
    assert tracking.history(record.run_id, "train/loss_total") == [(1, 2.0), (100, 1.5), (200, 1.25)]
    studies.write_study(store, ("sft",), (0,))
    results = results_of(studies.settings(("sft",), (0,)), studies.key_of, folder=store)
    assert results["integrity"]["from_store"] == ["combined/0"]


def test_a_trial_without_its_history_is_named(store: Path) -> None:
    studies.write_trial(store, "sft", 0, log=False)
    (store / "runs" / "sft" / "0" / "history.parquet").unlink()
    with pytest.raises(GlassboxError, match=r"history\.parquet is missing"):
        restore_runs(store / "runs", sections.storage())


def test_where_there_is_nothing_to_restore_the_script_says_what_to_run(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(studies.CONF.parent / "params.yaml", store)
    monkeypatch.chdir(store)
    monkeypatch.setattr("sys.argv", ["restore.py"])
    restore.main()
    assert "holds no trial, so there is nothing to restore: `dvc repro`" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["history", "manifest"])
def test_a_run_is_not_restored_from_damaged_files(store: Path, change: str) -> None:
    studies.write_trial(store, "sft", 0, log=False)
    path = store / "runs/sft/0.json"
    write_json(path, read_json(path))
    if change == "history":
        rows = {"step": [1], "metric": ["train/loss_total"], "value": [3.0]}
        parquet.write_table(pa.table(rows), store / "runs/sft/0/history.parquet")
    else:
        path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(GlassboxError, match=r"is not the file that .* names|is damaged \(its seal"):
        restore_runs(store / "runs", sections.storage())


def test_a_study_with_a_damaged_history_is_not_compared(store: Path) -> None:
    studies.write_study(store, ("sft", "combined"), (0, 1))
    rows = {"step": [1], "metric": ["train/loss_total"], "value": [3.0]}
    parquet.write_table(pa.table(rows), store / "runs/sft/0/history.parquet")
    with pytest.raises(GlassboxError, match="it is not the file that the manifest of sft/0 names"):
        results_of(studies.settings(("sft", "combined"), (0, 1)), studies.key_of, folder=store)
