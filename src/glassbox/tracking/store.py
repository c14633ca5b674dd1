"""The store itself: where it lies, how it is made once, and a client of it."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from glassbox.config.settings import StorageSettings
from glassbox.config.storage import root
from glassbox.errors import GlassboxError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "glassbox"
SQLITE = "sqlite:///"


def store_uri() -> str:
    """MLFLOW_TRACKING_URI if set (a relative sqlite path means: under the root), else `mlflow.db` at the root."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    return SQLITE + (root() / uri.removeprefix(SQLITE)).as_posix() if uri.startswith(SQLITE) else uri


def ensure_store(storage: StorageSettings) -> None:
    """Create the database and the experiment once, before any trial; processes that start together take turns."""
    uri = store_uri()
    if _is_initialised(uri):
        return
    lock = root() / ".glassbox" / "store.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=300):
        if not _is_initialised(uri):
            _create_experiment(open_client(), storage)


def _is_initialised(uri: str) -> bool:
    """Whether a sqlite store already holds the experiment; False for any other store, which is asked properly."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
            return connection.execute(query, (EXPERIMENT,)).fetchone() is not None
    except sqlite3.Error:
        return False


def _create_experiment(client: MlflowClient, storage: StorageSettings) -> None:
    existing = client.get_experiment_by_name(EXPERIMENT)
    if existing is None:
        artifacts = (root() / (storage.artifacts or "mlartifacts")).resolve()
        client.create_experiment(EXPERIMENT, artifact_location=artifacts.as_uri())
    elif existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)


def open_client() -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(store_uri())


def experiment_id(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise GlassboxError(
            f"The MLflow store {store_uri()} has no experiment '{EXPERIMENT}': run `dvc repro settings`."
        )
    return experiment.experiment_id


def readable_client() -> MlflowClient | None:
    """A client, or None where a local store does not exist yet: reading never creates one."""
    uri = store_uri()
    return None if uri.startswith(SQLITE) and not _is_initialised(uri) else open_client()
