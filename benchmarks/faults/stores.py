"""MLflow's store: locked, a run or the experiment deleted, two studies at once. Nothing of a trial may be missing in it
afterwards."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from faults.counts import Injection
from faults.study import Study, resumed

SECONDS_LOCKED = 20


def stores(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """Each fault, the first `count` of them."""
    for case, fault in list(FAULTS.items())[:count]:
        yield fault(base, work, case)


def _locked(base: Study, work: Path, case: str) -> Injection:
    """Another program holds the database while trials begin and end."""
    study = base.copy(work / "store")
    study.forget("train")
    process = study.start("dvc", "repro")
    while not list((study.folder / ".glassbox/running").glob("*")) and process.poll() is None:
        time.sleep(0.05)
    with closing(sqlite3.connect(study.folder / "mlflow.db", timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(SECONDS_LOCKED)
        connection.rollback()
    process.communicate()
    return resumed(study, base.digests(), "store", case)


def _change(folder: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as connection, connection:
        connection.execute(statement, values)


def _run_deleted(base: Study, work: Path, case: str) -> Injection:
    study = base.copy(work / "store")
    run = study.manifests()["combined/0"]["run_id"]
    _change(study.folder, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", run)
    return _restored(study, base, case)


def _experiment_deleted(base: Study, work: Path, case: str) -> Injection:
    study = base.copy(work / "store")
    _change(study.folder, "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'glassbox'")
    _change(study.folder, "UPDATE runs SET lifecycle_stage = 'deleted'")
    return _restored(study, base, case)


def _database_deleted(base: Study, work: Path, case: str) -> Injection:
    study = base.copy(work / "store")
    for path in (*study.folder.glob("mlflow.db*"), study.folder / "mlartifacts"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return _restored(study, base, case)


def _restored(study: Study, base: Study, case: str) -> Injection:
    """The comparison says what is missing, and the command that it names brings it back."""
    study.script("settings")
    told = study.script("compare")
    if "python src/restore.py" not in told.said:
        return Injection("store", case, "silent", told.said[-300:])
    done = study.script("restore")
    if done.code:
        return Injection("store", case, "lost", done.said[-300:])
    return resumed(study, base.digests(), "store", case)


def _two_studies(base: Study, work: Path, case: str) -> Injection:
    """Two copies train at once and write to one database."""
    one, other = base.copy(work / "store"), base.copy(work / "second")
    uri = f"sqlite:///{(work / 'shared.db').resolve()}"
    (work / "shared.db").unlink(missing_ok=True)
    for study in (one, other):
        study.forget("train")
    processes = [study.start("dvc", "repro", MLFLOW_TRACKING_URI=uri) for study in (one, other)]
    for process in processes:
        process.communicate()
    results = [resumed(study, base.digests(), "store", case, MLFLOW_TRACKING_URI=uri) for study in (one, other)]
    return next((each for each in results if each.is_bad), results[0])


FAULTS: dict[str, Callable[[Study, Path, str], Injection]] = {
    "database locked for 20 s": _locked,
    "a run deleted": _run_deleted,
    "the experiment deleted": _experiment_deleted,
    "the database and its artifacts gone": _database_deleted,
    "two studies in one store": _two_studies,
}
