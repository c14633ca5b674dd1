"""Can a study's trials write to the store? Asked once before anything runs, and answered within seconds."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from uuid import uuid4

from glassbox.config.settings import StorageSettings
from glassbox.config.storage import root
from glassbox.errors import GlassboxError
from glassbox.files import write_synced
from glassbox.tracking.faults import explaining, reason
from glassbox.tracking.journal import folder_of_journals
from glassbox.tracking.store import (
    EXPERIMENT,
    artifacts_folder,
    ensure_store,
    open_client,
    store_name,
    store_path,
    store_uri,
)
from glassbox.tracking.writing import write_waiting

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
HEADER = b"SQLite format 3\0"
PROBE = b"Glassbox asks whether this store keeps files." * 512


def check_store(storage: StorageSettings) -> None:
    """Open the store as trials will, write to its tables and to its artifacts, and bring it what waits for it.

    Raises GlassboxError with what is wrong and the next command. A file that passed before and has the same tables is
    only tried for writing, which needs no MLflow and so no seconds.
    """
    _refuse_folders()
    _refuse_other_files()
    path = store_path()
    if path is not None and _has_passed(path, storage):
        return
    with _quick_requests(), explaining():
        ensure_store(storage)
        client = open_client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None, "ensure_store has made it"
        client.set_experiment_tag(experiment.experiment_id, "checked", uuid4().hex)
        _try_artifacts(experiment.artifact_location)
        write_waiting(storage)
    if path is not None:
        _stamp().parent.mkdir(exist_ok=True)
        write_synced(_stamp(), _facts(path, storage).encode())


def _has_passed(path: Path, storage: StorageSettings) -> bool:
    """Whether this file passed the check before, can be written now, and nothing waits for it."""
    try:
        if not _stamp().is_file() or _stamp().read_text(encoding="utf-8") != _facts(path, storage):
            return False
        with closing(sqlite3.connect(path, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE experiments SET name = name WHERE name = ?", (EXPERIMENT,))
            connection.execute("ROLLBACK")
        with NamedTemporaryFile(dir=artifacts_folder(storage)) as file:
            file.write(PROBE)
    except (sqlite3.Error, OSError):
        return False  # MLflow itself says why
    return not any(folder_of_journals().glob("*"))


def _facts(path: Path, storage: StorageSettings) -> str:
    """What a file's use depends on: its tables' version, its experiment, and MLflow's own version."""
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        query = "SELECT artifact_location, lifecycle_stage FROM experiments WHERE name = ?"
        experiment = connection.execute(query, (EXPERIMENT,)).fetchall()
    return json.dumps([str(path), schema, experiment, str(artifacts_folder(storage)), version("mlflow")])


def _stamp() -> Path:
    return root() / ".glassbox" / "store.checked"


def _refuse_folders() -> None:
    """Runs in plain folders, which a shell's profile often names and MLflow 3 keeps no more."""
    scheme, separator, _ = store_uri().partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise GlassboxError(
            f"MLFLOW_TRACKING_URI is {store_name()}: MLflow keeps runs in a database or on a server, no longer in "
            "plain folders. `unset MLFLOW_TRACKING_URI` takes mlflow.db in the repository; http(s)://... names a "
            "server, sqlite:///... another file."
        )


def _refuse_other_files() -> None:
    path = store_path()
    if path is None:
        return
    if path.is_dir() or (path.is_file() and path.stat().st_size and _first_bytes(path) != HEADER):
        raise GlassboxError(
            f"{path} is not an SQLite database, so that MLflow cannot keep runs in it. Move it away (`mv {path} "
            f"{path}.old`), then the same command again; `python src/restore.py` refills the new one from runs/."
        )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(HEADER))


@contextmanager
def _quick_requests() -> Iterator[None]:
    """A store that does not answer now is told now, whatever the trials' own patience is."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    former = {name: os.environ.get(name) for name in quick}
    os.environ.update(quick)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _try_artifacts(location: str) -> None:
    """Keep one small file where the runs' artifacts go, and remove it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(location, tracking_uri=store_uri())
    place = f"check-{uuid4().hex}"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "check.txt"
        file.write_bytes(PROBE)
        try:
            repository.log_artifact(str(file), place)
        except Exception as error:  # each kind of store has errors of its own
            raise GlassboxError(
                f"MLflow's store {store_name()} answers, but cannot keep a file of {len(PROBE) // 1024} KiB among its "
                f"artifacts ({reason(error)}). Make room or make the place writable"
                f"{_place_of(location)}, then the same command again."
            ) from error
    repository.delete_artifacts(place)


def _place_of(location: str) -> str:
    """Names a folder or a bucket; behind a server only its operator knows the place."""
    return "" if location.startswith("mlflow-artifacts") else f" ({location})"
