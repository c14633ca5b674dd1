"""Runs in a real sqlite store: written once, resumed, found again, and restored when the store is lost."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sections

from glassbox import tracking
from glassbox.errors import DivergedError
from glassbox.tracking import queries, source, system_metrics

STORAGE = sections.storage()
SNAPSHOT = {"name": "snapshot", "digest": "ab" * 32, "source": "data/snapshot"}


def start(name: str = "combined/3", resume: str | None = None, **tags: str) -> tracking.TrialRun:
    params = {"group": "combined", "seed": 3, "train.early_stopping": None}
    return tracking.TrialRun(STORAGE, name=name, params=params, tags=tags, snapshot=SNAPSHOT, resume=resume)


def only(run_id: str) -> tracking.RunRecord:
    (record,) = tracking.find_runs([run_id])
    return record


def artifact_folder(folder: Path, run_id: str) -> Path:
    (found,) = folder.parent.glob(f"**/{run_id}/artifacts")
    return found


def test_a_finished_run_holds_params_tags_metrics_and_the_snapshot(store: Path, tmp_path: Path) -> None:
    with start(key="k1", study_key="s1") as run:
        for step in range(30):
            run.log({"train/loss_total": 1.0 / (step + 1), "learning_rate": 1e-4}, step)
        run.tag("precision", "no")
    record = only(run.run_id)
    assert record.status == "FINISHED"
    assert record.params == {"group": "combined", "seed": "3", "train.early_stopping": "null"}
    assert record.tags["key"] == "k1" and record.tags["kind"] == "trial" and record.tags["precision"] == "no"
    assert record.metrics["train/loss_total"] == pytest.approx(1 / 30)
    assert tracking.history(run.run_id, "train/loss_total") == [(s, pytest.approx(1 / (s + 1))) for s in range(30)]
    with sqlite3.connect(store / "mlflow.db") as connection:
        assert connection.execute("SELECT name, digest FROM datasets").fetchall() == [("snapshot", "ab" * 18)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("broken"), "FAILED"),
        (DivergedError("loss"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_the_status_of_a_run_tells_how_it_ended(store: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), start() as run:
        run.log({"train/loss_total": 2.0}, 0)
        raise error
    assert only(run.run_id).status == status
    assert only(run.run_id).metrics["train/loss_total"] == 2.0


def test_an_explicit_status_is_kept(store: Path) -> None:
    with start() as run:
        run.finish("FAILED")
    assert only(run.run_id).status == "FAILED"


def test_a_resumed_run_logs_no_step_twice(store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start() as run:
        for step in range(7):
            run.log({"train/loss_total": float(step)}, step)
        raise KeyboardInterrupt
    with start(resume=run.run_id) as resumed:
        for step in range(5, 10):
            resumed.log({"train/loss_total": float(step)}, step)
        resumed.log({"test/accuracy_sst2": 0.5}, 3)
    assert resumed.run_id == run.run_id
    assert tracking.history(run.run_id, "train/loss_total") == [(step, float(step)) for step in range(10)]
    assert tracking.history(run.run_id, "test/accuracy_sst2") == [(3, 0.5)]
    assert only(run.run_id).status == "FINISHED"


def test_resuming_a_run_that_the_store_has_lost_starts_another(store: Path) -> None:
    with start(resume="0" * 32) as run:
        run.log({"train/loss_total": 1.0}, 0)
    assert run.run_id != "0" * 32
    assert only(run.run_id).status == "FINISHED"


def test_a_value_that_is_not_finite_is_a_divergence(store: Path) -> None:
    with pytest.raises(DivergedError, match=r"train/loss_total is inf at step 4"), start() as run:
        run.log({"train/loss_total": float("inf")}, 4)


def test_the_run_of_an_outer_mlflow_project_is_kept_as_a_tag_only(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    with start() as run:
        assert "MLFLOW_RUN_ID" not in os.environ
    assert run.run_id != "f" * 32
    assert only(run.run_id).tags["parent"] == "f" * 32


def test_system_metrics_are_logged(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SECONDS_BETWEEN_SAMPLES", 0.1)
    with start() as run:
        deadline = time.monotonic() + 10
        while run._sampler._step < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert "system/cpu_utilization_percentage" in only(run.run_id).metrics


def test_runs_are_found_by_key_over_many_pages(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "RUNS_PER_PAGE", 2)
    runs = []
    for number in range(5):
        with start(name=str(number), key="same") as run:
            runs.append(run.run_id)
    with start(key="other"):
        pass
    assert [record.run_id for record in tracking.find_by_key("same")] == sorted(runs)
    assert [record.run_id for record in tracking.find_runs([*reversed(runs), "absent"])] == runs[::-1]


def test_mlflow_is_imported_behind_one_door_only() -> None:
    package = Path(tracking.__file__).parent
    importing = [path for path in package.parents[1].rglob("*.py") if "mlflow" in imported_packages(path)]
    assert importing and all(path.is_relative_to(package) for path in importing)


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain} | {
        (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
    }


def test_reading_never_creates_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.find_runs(["a"]) == [] and tracking.find_by_key("b") == []
    assert list(tmp_path.iterdir()) == []


def test_a_relative_tracking_uri_means_under_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking.store_uri() == f"sqlite:///{tmp_path.as_posix()}/mlflow.db"


def test_a_lost_run_is_restored_once_and_found_under_its_old_id(store: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    items.write_bytes(b"rows")
    manifest = {
        "group": "sft",
        "seed": 1,
        "status": "finished",
        "run_id": "1" * 32,
        "params": {"group": "sft", "seed": 1},
        "tags": {"key": "k9"},
        "metrics": {"test/accuracy_sst2": 0.75, "train/loss_total": 1.0},
        "digests": {"snapshot": "cd" * 32},
    }
    rows = [(0, "train/loss_total", 2.0), (1, "train/loss_total", 1.0)]
    restored = tracking.restore_run(manifest, rows, [items], STORAGE)
    assert tracking.restore_run(manifest, rows, [items], STORAGE) == restored
    record = only("1" * 32)
    assert (record.run_id, record.original_id, record.status) == (restored, "1" * 32, "FINISHED")
    assert record.metrics == {"test/accuracy_sst2": 0.75, "train/loss_total": 1.0}
    assert tracking.history(restored, "train/loss_total") == [(0, 2.0), (1, 1.0)]
    assert (artifact_folder(tmp_path, restored) / "items.parquet").read_bytes() == b"rows"
    assert [found.run_id for found in tracking.find_by_key("k9")] == [restored]


def test_a_snapshot_is_logged_under_its_digest(store: Path) -> None:
    report = {"digest": "ef" * 32, "seconds": 12.5, "files": {"bytes": 100}, "splits": ["train"], "dvc_md5": "x.dir"}
    record = only(tracking.log_snapshot(report, STORAGE))
    assert record.tags["kind"] == "snapshot" and record.tags["snapshot_digest"] == "ef" * 32
    assert record.metrics == {"seconds": 12.5, "files.bytes": 100.0}
    assert record.params["dvc_md5"] == "x.dir" and record.params["splits"] == '["train"]'


def test_a_comparison_lists_its_source_runs(store: Path, tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "results.json").write_text("{}", encoding="utf-8")
    run_id = tracking.log_comparison(reports, {"sft/accuracy_sst2": 0.5}, ["a", "b"], {"plan": "p"}, STORAGE)
    assert only(run_id).tags["kind"] == "comparison" and only(run_id).tags["plan"] == "p"
    assert only(run_id).metrics == {"sft/accuracy_sst2": 0.5}
    folder = artifact_folder(tmp_path, run_id)
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "source_runs.json"]


@pytest.mark.slow
def test_processes_that_start_on_an_empty_folder_together_make_one_store(tmp_path: Path) -> None:
    environment = {**os.environ, "DVC_ROOT": str(tmp_path), "PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    program = (
        f"from glassbox import tracking; {sections.OPEN_STORAGE}"
        "tracking.ensure_store(storage);"
        "r = tracking.TrialRun(storage, name='n', params={}, tags={'key': 'k'},"
        " snapshot={'name': 's', 'digest': 'd', 'source': 'x'}); r.log({'m': 1.0}, 0); r.finish()"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM experiments WHERE name = 'glassbox'").fetchone() == (1,)
        assert connection.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (4,)


def test_a_data_set_that_two_runs_insert_together_is_inserted_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    tracking.ensure_store(STORAGE)
    insert, asked = MlflowClient.log_inputs, []

    def refuse_first(client: MlflowClient, run_id: str, *arguments: Any, **others: Any) -> None:
        asked.append(run_id)
        if len(asked) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
        insert(client, run_id, *arguments, **others)

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse_first)
    with start() as run:
        pass
    assert asked == [run.run_id, run.run_id]
    with sqlite3.connect(store / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM datasets").fetchone() == (1,)


def test_comparisons_and_snapshots_lie_in_an_experiment_of_their_own_and_all_runs_are_found(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "reports").mkdir()
    compared = tracking.log_comparison(tmp_path / "reports", {}, ["a"], {"study_key": "k"}, STORAGE)
    captured = tracking.log_snapshot({"digest": "ef" * 32}, STORAGE)
    with start(key="k1", study_key="k") as run:
        pass
    with sqlite3.connect(store / "mlflow.db") as connection:
        query = "SELECT e.name, r.run_uuid FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id"
        placed = {run_id: name for name, run_id in connection.execute(query)}
    assert placed == {
        compared: tracking.COMPARISONS,
        captured: tracking.COMPARISONS,
        run.run_id: tracking.EXPERIMENT,
    }
    assert {each.run_id for each in tracking.find_by_key("k", tag="study_key")} == {compared, run.run_id}
    assert [each.run_id for each in tracking.find_comparisons()] == [compared]
    number = tracking.readable_client().get_experiment_by_name(tracking.EXPERIMENT).experiment_id  # type: ignore[union-attr]
    page = f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning"
    assert tracking.runs_page() == page


def test_the_answer_is_the_description_of_the_comparison_and_of_both_experiments(store: Path, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    note = f"**The answer.**\n\n![gains]({tracking.artifact_address('figures/gains.png')})"
    run_id = tracking.log_comparison(tmp_path / "reports", {}, ["a"], {}, STORAGE, note)
    shown = only(run_id).tags["mlflow.note.content"]
    assert shown == f"**The answer.**\n\n![gains](get-artifact?path=figures%2Fgains.png&run_uuid={run_id})"
    client = tracking.readable_client()
    assert client is not None
    for name in (tracking.EXPERIMENT, tracking.COMPARISONS):
        assert client.get_experiment_by_name(name).tags["mlflow.note.content"] == shown  # type: ignore[union-attr]


def test_a_run_says_where_it_comes_from_and_what_its_settings_have_of_their_own(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLASSBOX_LABEL", raising=False)
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    with start() as plain:
        pass
    monkeypatch.setenv("DVC_EXP_NAME", "heavier")
    with start() as named:
        pass
    monkeypatch.setenv("GLASSBOX_LABEL", "weights.hidden=0.3")
    with start() as told:
        pass
    runs = [only(run.run_id).tags for run in (plain, named, told)]
    assert [tags["mlflow.runName"].split(" ")[1:] for tags in runs] == [[], ["heavier"], ["weights.hidden=0.3"]]
    assert runs[2]["experiment"] == "heavier" and runs[2]["differs"] == "weights.hidden=0.3"
    assert "experiment" not in runs[0] and runs[0]["mlflow.user"] == "somebody"
    assert runs[0]["mlflow.source.type"] == "LOCAL" and runs[0]["mlflow.source.name"]


def test_the_commit_is_that_of_the_repository_of_the_root(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source._commit.cache_clear()
    assert "mlflow.source.git.commit" not in source.source_tags()
    monkeypatch.setenv("DVC_ROOT", str(Path(__file__).parents[2]))
    source._commit.cache_clear()
    commit = source.source_tags().get("mlflow.source.git.commit", "0" * 40)
    assert len(commit) == 40 and set(commit) <= set("0123456789abcdef")
    source._commit.cache_clear()


def test_items_are_a_table_and_a_kept_student_is_a_model_that_mlflow_shows(store: Path, tmp_path: Path) -> None:
    student = tmp_path / "runs" / "combined" / "21" / "student"
    rows = [{"sample_id": "mmlu/1", "correct": True, "other": 1}]
    with start() as run:
        run.table("items.json", rows, ("sample_id", "correct"))
        run.model(student)
    record = only(run.run_id)
    assert json.loads(record.tags["mlflow.loggedArtifacts"]) == [{"path": "items.json", "type": "table"}]
    shown = json.loads((artifact_folder(tmp_path, run.run_id) / "items.json").read_text(encoding="utf-8"))
    assert shown == {"columns": ["sample_id", "correct"], "data": [["mmlu/1", True]]}
    client = tracking.readable_client()
    assert client is not None
    number = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id  # type: ignore[union-attr]
    (model,) = client.search_logged_models([number])
    assert (model.name, model.source_run_id, str(model.status)) == ("combined-21", run.run_id, "READY")
    assert model.tags["path"] == student.as_posix()


def test_a_store_of_before_without_the_second_experiment_is_read_and_gets_it(store: Path) -> None:
    with start(key="k") as run:
        pass
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute("DELETE FROM experiments WHERE name = ?", (tracking.COMPARISONS,))
    assert [record.run_id for record in tracking.find_by_key("k")] == [run.run_id]
    assert tracking.ensure_store(STORAGE) and not tracking.ensure_store(STORAGE)
