"""A trial's run survives a store that is away, slow, full or that loses the run; training does not wait for it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sections

from glassbox import tracking
from glassbox.errors import GlassboxError
from glassbox.tracking import writer
from glassbox.tracking.journal import Journal, folder_of_journals
from glassbox.tracking.store import open_client
from glassbox.tracking.writing import write_waiting

STORAGE = sections.storage()


@pytest.fixture(autouse=True)
def no_writer_outlives_its_test() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if isinstance(thread, writer.Writer):
            thread.join(30)


SNAPSHOT = {"name": "snapshot", "digest": "ab" * 32, "source": "data/snapshot"}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages of seconds instead of minutes."""
    monkeypatch.setattr(writer, "SECONDS_BETWEEN_WRITES", 0.2)
    monkeypatch.setattr(writer, "SECONDS_BETWEEN_TRIES", 0.3)


def start(resume: str | None = None) -> tracking.TrialRun:
    return tracking.TrialRun(
        STORAGE, name="sft/0", params={"seed": 0}, tags={"key": "k"}, snapshot=SNAPSHOT, resume=resume
    )


def only(run_id: str) -> tracking.RunRecord:
    (record,) = tracking.find_runs([run_id])
    return record


def losses(run_id: str) -> list[tuple[int, float]]:
    return tracking.history(only(run_id).run_id, "loss")


def journals() -> list[str]:
    place = folder_of_journals()
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def hide(store: Path) -> Path:
    """The store becomes a folder, which no database can be opened in."""
    hidden = store / "away.db"
    (store / "mlflow.db").rename(hidden)
    (store / "mlflow.db").mkdir()
    return hidden


def bring_back(store: Path) -> None:
    (store / "mlflow.db").rmdir()
    (store / "away.db").rename(store / "mlflow.db")


def test_a_server_that_is_away_from_beginning_to_end_holds_nothing_up_and_gets_all_later(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    open_client()
    hide(store)
    items = tmp_path / "items.parquet"
    items.write_bytes(b"rows")
    begun = time.monotonic()
    with start() as run:
        assert time.monotonic() - begun < 3
        for step in range(100):
            run.log({"loss": float(step)}, step)
        run.tag("precision", "no")
        run.artifact(items)
        training = time.monotonic()
        run.finish()
    assert time.monotonic() - training < writer.SECONDS_TO_WAIT + 1
    told = capfd.readouterr().err
    assert told.count("is away") == 1 and "has not taken all of this run" in told
    assert journals() == [run.run_id]

    wait_until(lambda: not run._writer.is_alive())
    bring_back(store)
    assert write_waiting(STORAGE) == 1
    record = only(run.run_id)
    assert record.status == "FINISHED" and record.original_id == run.run_id and record.run_id != run.run_id
    assert record.tags["precision"] == "no" and record.params == {"seed": "0"}
    assert losses(run.run_id) == [(step, float(step)) for step in range(100)]
    found = tracking.artifact(record.run_id, "items.parquet")
    assert found is not None and found.read_bytes() == b"rows"
    assert journals() == [] and write_waiting(STORAGE) == 0


def test_a_store_that_goes_away_and_comes_back_has_everything_at_the_end(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with start() as run:
        run.log({"loss": 0.0}, 0)
        wait_until(lambda: run._journal.is_written)
        with closing(sqlite3.connect(store / "mlflow.db")) as connection:
            connection.execute("ALTER TABLE metrics RENAME TO elsewhere")
            run.log({"loss": 1.0}, 1)
            wait_until(lambda: run._writer._away_since is not None)
            run.log({"loss": 2.0}, 2)
            connection.execute("ALTER TABLE elsewhere RENAME TO metrics")
    told = capfd.readouterr().err
    assert told.count("is away") == 1 and told.count("is back after") == 1
    assert losses(run.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert only(run.run_id).status == "FINISHED" and journals() == []


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_logging_does_not_wait_for_a_locked_database(store: Path) -> None:
    with start() as run:
        wait_until(lambda: run._journal.is_written)
        with closing(sqlite3.connect(store / "mlflow.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            begun = time.monotonic()
            for step in range(50):
                run.log({"loss": float(step)}, step)
                run.flush()
            assert time.monotonic() - begun < 2
            connection.execute("ROLLBACK")
    assert len(losses(run.run_id)) == 50


def test_a_deleted_run_and_a_deleted_experiment_are_restored(store: Path) -> None:
    client = open_client()
    with start() as run:
        run.log({"loss": 0.0}, 0)
        wait_until(lambda: run._journal.is_written)
        client.delete_run(run._journal.written.run_id)
        run.log({"loss": 1.0}, 1)
        wait_until(lambda: run._journal.is_written)
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        assert experiment is not None
        client.delete_experiment(experiment.experiment_id)
        run.log({"loss": 2.0}, 2)
    assert losses(run.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)] and only(run.run_id).status == "FINISHED"


def test_a_run_that_the_store_has_lost_is_written_again_from_its_beginning(
    store: Path, initialised_store: Path
) -> None:
    with start() as run:
        run.log({"loss": 0.0}, 0)
        wait_until(lambda: run._journal.is_written)
        with closing(sqlite3.connect(store / "mlflow.db")) as connection, connection:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                connection.execute(f"DELETE FROM {table}")
        run.log({"loss": 1.0}, 1)
    (record,) = tracking.find_by_key("k")
    assert tracking.history(record.run_id, "loss") == [(0, 0.0), (1, 1.0)] and record.status == "FINISHED"


def test_a_value_that_mlflow_refuses_is_named_and_holds_nothing_else_up(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with start() as run:
        run.log({"loss?": 1.0}, 0)
        run.tag("a", "b")
        run.log({"loss": 1.0}, 1)
    assert "MLflow refuses what sft/0 logs as metrics" in capfd.readouterr().err
    assert losses(run.run_id) == [(1, 1.0)] and only(run.run_id).tags["a"] == "b"


def test_a_full_artifact_store_keeps_no_run_from_ending(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlartifacts").write_text("in the way", encoding="utf-8")
    items = tmp_path / "items.parquet"
    items.write_bytes(b"rows")
    with start() as run:
        run.log({"loss": 1.0}, 1)
        run.artifact(items)
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
    assert len(journals()) == 1
    wait_until(lambda: not run._writer.is_alive())
    (tmp_path / "mlartifacts").unlink()
    record = only(run.run_id)
    found = tracking.artifact(record.run_id, "items.parquet")
    assert found is not None and found.read_bytes() == b"rows" and journals() == []


def test_what_is_written_twice_is_there_once(store: Path) -> None:
    with pytest.raises(ValueError, match="broken"), start() as run:
        run.log({"loss": 1.0}, 1)
        raise ValueError("broken")
    journal = Journal.of_run(run.run_id)
    assert journal is not None
    journal.mark(run_id=None, offset=0)
    journal.release()
    assert write_waiting(STORAGE) == 1
    (record,) = tracking.find_by_key("k")
    assert tracking.history(record.run_id, "loss") == [(1, 1.0)] and record.status == "FAILED"


def test_a_torn_line_is_dropped_and_the_run_goes_on(store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start() as run:
        run.log({"loss": 1.0}, 1)
        raise KeyboardInterrupt
    (folder,) = folder_of_journals().iterdir()
    with (folder / "lines.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "metrics", "val')
    with start(resume=run.run_id) as resumed:
        resumed.log({"loss": 9.0}, 1)
        resumed.log({"loss": 2.0}, 2)
    assert resumed.run_id == run.run_id and losses(run.run_id) == [(1, 1.0), (2, 2.0)] and journals() == []


def test_a_killed_process_leaves_no_run_that_is_running(store: Path) -> None:
    program = (
        f"import time; from glassbox import tracking; {sections.OPEN_STORAGE}"
        "r = tracking.TrialRun(storage, name='n', params={}, tags={'key': 'killed'},"
        " snapshot={'name': 's', 'digest': 'd', 'source': 'x'}); r.log({'loss': 1.0}, 0);"
        "print(r.run_id, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        child.send_signal(signal.SIGKILL)
    assert only(run_id).status == "KILLED" and losses(run_id) == [(0, 1.0)]
    with start(resume=run_id) as resumed:
        resumed.log({"loss": 2.0}, 1)
    assert resumed.run_id == run_id and only(run_id).status == "FINISHED"
    assert losses(run_id) == [(0, 1.0), (1, 2.0)]


def test_a_journal_for_another_store_stays_where_it_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with start() as run:
        run.log({"loss": 1.0}, 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert write_waiting(STORAGE) == 0 and journals() == [run.run_id]


@contextmanager
def server(answer: int) -> Iterator[str]:
    """A server on this machine that answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://user:secret-word@127.0.0.1:{found.server_port}"
        found.shutdown()


def test_a_server_that_answers_500_is_one_that_is_away_and_no_password_is_shown(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with server(500) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with start() as run:
            run.log({"loss": 1.0}, 0)
        with pytest.raises(GlassboxError) as error:
            tracking.find_runs([run.run_id])
    assert journals() == [run.run_id]
    told = capfd.readouterr().err + str(error.value)
    assert "is away" in told and "secret-word" not in told
    kept = (folder_of_journals() / run.run_id / "lines.jsonl").read_text(encoding="utf-8")
    assert "secret-word" not in kept and json.loads(kept.splitlines()[0])["store"].startswith("http://127.0.0.1:")


def test_a_drive_that_takes_no_journal_is_a_sentence(store: Path) -> None:
    (store / ".glassbox").write_text("in the way", encoding="utf-8")
    with pytest.raises(GlassboxError, match="cannot be written"):
        start()
