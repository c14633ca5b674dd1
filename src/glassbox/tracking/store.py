"""The store itself: where it lies, how it is made once, and a client of it."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from filelock import FileLock

from glassbox.config.settings import StorageSettings
from glassbox.config.storage import root
from glassbox.errors import GlassboxError
from glassbox.tracking.relocation import follow_the_root

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "glassbox"
COMPARISONS = "glassbox-comparisons"  # comparisons and snapshots, so that the trials' charts show trials
EXPERIMENTS = (EXPERIMENT, COMPARISONS)
UI = "http://127.0.0.1:5000"
SQLITE = "sqlite:///"
SQLITE_BY_DRIVER = "sqlite+pysqlite:///"
# Of a store that is away MLflow itself would tell after four minutes
REQUESTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def store_uri() -> str:
    """MLFLOW_TRACKING_URI if set (a relative sqlite path means: under the root), else `mlflow.db` at the root."""
    path = store_path()
    if path is None:
        return _given()
    _, question, query = _given().partition("?")
    return sqlite_uri(path) + question + query


def store_path() -> Path | None:
    """The file of an sqlite store; None for any other."""
    for scheme in (SQLITE, SQLITE_BY_DRIVER):
        if _given().startswith(scheme):
            return root() / unquote(_given().removeprefix(scheme).partition("?")[0])
    return None


def sqlite_uri(path: Path) -> str:
    """The URI of an sqlite file, in which `%` and `?` would mean something else.

    With its driver in it where they are escaped, for MLflow makes the folders of an escaped path that has none.
    """
    plain = path.as_posix()
    escaped = plain.replace("%", "%25").replace("?", "%3F")
    return (SQLITE if escaped == plain else SQLITE_BY_DRIVER) + escaped


def _given() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"


def store_name() -> str:
    """The store for messages and journals: no password, and the same name after the repository was moved."""
    path = store_path()
    if path is None:
        return shown(store_uri())
    return path.relative_to(root()).as_posix() if path.is_relative_to(root()) else str(path)


def shown(uri: str) -> str:
    """A URI without user and password, and without its query, in which databases take a password too."""
    return re.sub(r"://.*@", "://", uri.partition("?")[0])


def artifacts_folder(storage: StorageSettings) -> Path:
    return (root() / (storage.artifacts or "mlartifacts")).resolve()


def ensure_store(storage: StorageSettings) -> bool:
    """Make the database and the experiments, or restore these, where they are missing; says whether it did.

    Processes that start together take turns. The store of a repository that was moved follows it.
    """
    path = store_path()
    if path is not None and _holds(path, EXPERIMENTS):
        if path.is_relative_to(root()):
            follow_the_root(path, EXPERIMENTS, artifacts_folder(storage))
        return False
    lock = root() / ".glassbox" / "store.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=300):
        if path is not None and _holds(path, EXPERIMENTS):
            return False
        client = open_client()
        made = [_make_experiment(client, storage, name) for name in EXPERIMENTS]
        return any(made)


def _holds(path: Path, names: Sequence[str]) -> bool:
    """Whether an sqlite store holds the experiments already; False where it cannot be read, so that MLflow says why."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT name FROM experiments WHERE lifecycle_stage = 'active'"
            return {*names} <= {name for (name,) in connection.execute(query)}
    except sqlite3.Error:
        return False


def _make_experiment(client: MlflowClient, storage: StorageSettings, name: str) -> bool:
    existing = client.get_experiment_by_name(name)
    if existing is None:
        # A server says itself where artifacts go
        place = None if store_uri().startswith("http") else artifacts_folder(storage).as_uri()
        client.create_experiment(name, artifact_location=place)
    elif existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    else:
        return False
    return True


def open_client() -> MlflowClient:
    load_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(store_uri())


def load_mlflow() -> None:
    """MLflow's modules, loaded by one thread: two that load them at once can wait for each other without end."""
    for name, value in (REQUESTS | QUIET).items():
        os.environ.setdefault(name, value)
    import mlflow.system_metrics.system_metrics_monitor
    import mlflow.tracking

    if not store_uri().startswith("http"):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def experiment_id(client: MlflowClient, name: str = EXPERIMENT) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise GlassboxError(f"MLflow's store {store_name()} has no experiment '{name}': run `dvc repro settings`.")
    return experiment.experiment_id


def experiment_ids(client: MlflowClient) -> list[str]:
    """Of all experiments of ours that there are; a store of before may lack that of the comparisons."""
    found = [experiment_id(client), client.get_experiment_by_name(COMPARISONS)]
    return [each if isinstance(each, str) else each.experiment_id for each in found if each is not None]


def runs_page() -> str:
    """The address of the table of trials. MLflow itself opens on another page, which is empty for what we log."""
    uri = store_uri()
    place = shown(uri).rstrip("/") if uri.startswith("http") else UI
    try:
        client = readable_client()
        number = None if client is None else experiment_id(client)
    except Exception:  # whatever a store may raise: the address is a courtesy
        number = None
    return f"{place}/#/experiments/{number}/runs?workflowType=machine_learning" if number else place


def readable_client() -> MlflowClient | None:
    """A client, or None where a local store does not exist yet: reading never creates one."""
    path = store_path()
    return None if path is not None and not _holds(path, (EXPERIMENT,)) else open_client()
