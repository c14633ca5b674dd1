"""A store that trials could not use is told before they start: one sentence, within seconds, without a password."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import sections

from glassbox import tracking
from glassbox.errors import GlassboxError
from glassbox.tracking import check
from glassbox.tracking.faults import explained, without_secrets
from glassbox.tracking.store import open_client, store_name, store_path

STORAGE = sections.storage()


def refusal() -> str:
    begun = time.monotonic()
    with pytest.raises(GlassboxError) as error:
        tracking.check_store(STORAGE)
    assert time.monotonic() - begun < 10
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_store_that_works_is_left_as_it_was(store: Path) -> None:
    tracking.check_store(STORAGE)
    assert not list((store / "mlartifacts").rglob("*.txt"))
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (0,)


def test_a_store_that_passed_is_not_opened_by_mlflow_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(check, "open_client", lambda: (opened.append("client"), open_client())[1])
    tracking.check_store(STORAGE)
    tracking.check_store(STORAGE)
    assert opened == ["client"]
    (store / "mlartifacts").rmdir()
    (store / "mlartifacts").write_text("in the way", encoding="utf-8")
    assert "cannot keep a file" in refusal()


@pytest.mark.parametrize("uri", ["file:///somewhere/mlruns", "./mlruns", "/somewhere/mlruns"])
def test_plain_folders_are_refused_with_the_variable(uri: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert refusal().startswith(f"MLFLOW_TRACKING_URI is {uri}: ")


def test_a_server_that_is_away_is_told_at_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret-word@127.0.0.1:9")
    told = refusal()
    assert "http://127.0.0.1:9 does not answer (Connection refused)" in told and "secret-word" not in told


def test_a_database_of_another_version_names_the_upgrade(store: Path) -> None:
    with closing(sqlite3.connect(store / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'cc1f77228345'")
    assert f"`mlflow db upgrade sqlite:///{store}/mlflow.db`" in refusal()


def test_a_text_file_named_mlflow_db_is_refused(store: Path) -> None:
    (store / "mlflow.db").write_text("my notes\n", encoding="utf-8")
    assert "is not an SQLite database" in refusal()
    assert (store / "mlflow.db").read_text(encoding="utf-8") == "my notes\n"


def test_a_place_for_artifacts_that_cannot_be_written_is_refused(store: Path) -> None:
    (store / "mlartifacts").write_text("in the way", encoding="utf-8")
    assert f"(file://{store}/mlartifacts)" in refusal()


def test_a_repository_that_was_moved_takes_its_store_along(
    initialised_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    former, present = tmp_path / "my%20study", tmp_path / "ü b"
    former.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(former))
    items = tmp_path / "items.parquet"
    items.write_bytes(b"rows")
    first = log_trial("first", items)
    shutil.move(former, present)
    monkeypatch.setenv("DVC_ROOT", str(present))
    second = log_trial("second", items)
    assert not former.exists()
    said = capfd.readouterr().err
    assert f"kept artifacts in {former}/mlartifacts;" in said and "Those of 1 of 1 runs lie there" in said
    for run in (first, second):
        (record,) = tracking.find_runs([run])
        found = tracking.artifact(record.run_id, "items.parquet")
        assert found is not None and found.read_bytes() == b"rows"
        assert (present / "mlartifacts" / record.run_id / "artifacts" / "items.parquet").is_file()
    log_trial("third", items)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["q?m", "my%20study", "per%25c", "ü b#c"])
def test_a_folder_of_any_name_holds_its_store_and_nothing_lies_beside_it(
    name: str, initialised_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, items = tmp_path / name, tmp_path / "items.parquet"
    folder.mkdir()
    items.write_bytes(b"rows")
    (folder / "mlflow.db").write_bytes(initialised_store.read_bytes())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    tracking.check_store(STORAGE)
    run = log_trial("first", items)
    assert {path.name for path in tmp_path.iterdir()} == {name, "items.parquet"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.store_uri())
    (record,) = tracking.find_runs([run])
    found = tracking.artifact(record.run_id, "items.parquet")
    assert found is not None and found.read_bytes() == b"rows"
    assert (folder / "mlartifacts" / run / "artifacts" / "items.parquet").is_file()
    assert store_path() == folder / "mlflow.db" and store_name() == "mlflow.db"


def test_a_new_store_in_a_folder_with_a_question_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "100%" / "why?"
    folder.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    tracking.check_store(STORAGE)
    assert (folder / "mlflow.db").is_file() and (folder / "mlartifacts").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["100%"]
    assert [path.name for path in folder.parent.iterdir()] == ["why?"]


def test_an_address_keeps_its_query_and_its_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a%20b%3Fc.db?timeout=60")
    assert store_path() == tmp_path / "a b?c.db"
    assert tracking.store_uri() == f"sqlite+pysqlite:///{tmp_path.as_posix()}/a b%3Fc.db?timeout=60"


def log_trial(key: str, items: Path) -> str:
    snapshot = {"name": "snapshot", "digest": "ab" * 32, "source": "data/snapshot"}
    with tracking.TrialRun(STORAGE, name=key, params={}, tags={"key": key}, snapshot=snapshot) as run:
        run.artifact(items)
    return run.run_id


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("API request failed with error code 401 != 200", "refuses the user name or password"),
        ("PERMISSION_DENIED: no", "does not let them write"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "cannot be written"),
        ("(sqlite3.OperationalError) database is locked", "is locked by another program"),
        ("FATAL: password authentication failed for user", "refuses the user name or password"),
        ("something else", "cannot be used: something else"),
    ],
)
def test_what_a_store_raises_is_one_sentence(text: str, sentence: str, store: Path) -> None:
    assert sentence in str(explained(RuntimeError(text)))


def test_no_secret_is_part_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key-of-s3")
    assert without_secrets("postgresql://a:b@host/db key-of-s3") == "postgresql://***@host/db ***"
