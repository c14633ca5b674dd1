"""What happened in a run, kept in MLflow. The only module that imports mlflow, and only when a store is opened.

Importing mlflow and opening its sqlite file costs about 1.5 seconds, so that nothing here does it at import time, and
`ensure_store` on an existing store never does.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from filelock import FileLock

from glassbox.config import StorageSettings
from glassbox.errors import DivergedError, GlassboxError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "glassbox"
RESTORED_FROM = "restored_from"
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Scalar = str | int | float | bool | None

_SQLITE = "sqlite:///"
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_RUNS_PER_PAGE = 200
_DATASET_DIGEST_CHARACTERS = 36
_SECONDS_BETWEEN_WRITES = 5.0
_SECONDS_BETWEEN_SYSTEM_SAMPLES = 5


@dataclass(frozen=True)
class RunRecord:
    """A run as the store holds it. `original_id` is the id it ran under, which differs after a restore."""

    run_id: str
    original_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


def root() -> Path:
    """The repository's root: DVC_ROOT under DVC (the parent's in queue and --temp runs), else the working directory."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def store_uri() -> str:
    """MLFLOW_TRACKING_URI if set (a relative sqlite path means: under the root), else `mlflow.db` at the root."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    return _SQLITE + (root() / uri.removeprefix(_SQLITE)).as_posix() if uri.startswith(_SQLITE) else uri


def ensure_store(storage: StorageSettings) -> None:
    """Create the database and the experiment once, before any trial; processes that start together take turns."""
    uri = store_uri()
    if _is_initialised(uri):
        return
    lock = root() / ".glassbox" / "store.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=300):
        if not _is_initialised(uri):
            _create_experiment(_client(), storage)


def _is_initialised(uri: str) -> bool:
    """Whether a sqlite store already holds the experiment; False for any other store, which is asked properly."""
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or not path.is_file():
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


def _client() -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(store_uri())


def _experiment_id(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise GlassboxError(
            f"The MLflow store {store_uri()} has no experiment '{EXPERIMENT}': run `dvc repro settings`."
        )
    return experiment.experiment_id


class TrialRun:
    """One MLflow run as a context manager.

    Starts a run, or resumes the run named by `resume` (a new one is started where the store no longer knows it). Ends
    FINISHED; FAILED on an exception; KILLED on KeyboardInterrupt or a non-zero SystemExit. `finish` names a status
    explicitly. MLFLOW_RUN_ID, which `mlflow run` exports, is dropped from the environment and kept as tag `parent`.

    params: flat scalars, None is written as "null". snapshot: `name`, `digest` (sha256 hex) and `source` of the input.
    """

    run_id: str

    def __init__(
        self,
        storage: StorageSettings,
        *,
        name: str,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
        snapshot: Mapping[str, str],
        resume: str | None = None,
    ) -> None:
        ensure_store(storage)
        parent = os.environ.pop("MLFLOW_RUN_ID", None)
        self._client = _client()
        self._buffer: list[Any] = []
        self._written = time.monotonic()
        self._logged: dict[str, int] = {}
        self._finished = False
        if resume is not None and self._resume(resume):
            self.run_id = resume
        else:
            every_tag = {"kind": "trial", **tags} | ({"parent": parent} if parent else {})
            self.run_id = _start(self._client, name, params, every_tag)
            _log_snapshot_input(self._client, self.run_id, snapshot)
        self._monitor = self._start_system_metrics(resumed=resume is not None)

    def _resume(self, run_id: str) -> bool:
        known = _search(self._client, f"attributes.run_id = '{run_id}'")
        for key in (key for record in known for key in record.metrics if not key.startswith("system/")):
            self._logged[key] = max(metric.step for metric in self._client.get_metric_history(run_id, key))
        if known:
            self._client.update_run(run_id, status="RUNNING")
        return bool(known)

    def _start_system_metrics(self, resumed: bool) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=_SECONDS_BETWEEN_SYSTEM_SAMPLES,
            resume_logging=resumed,
            tracking_uri=store_uri(),
        )
        monitor.start()
        return monitor

    def __enter__(self) -> TrialRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(_status_after(error))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at a step; steps that were logged before a resume are skipped.

        Raises DivergedError on a value that is not finite: sqlite would turn an infinity into 1.8e308.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(f"Metric {key} is {value} at step {step} of run {self.run_id}: it is not logged.")
            if step > self._logged.get(key, -1):
                self._buffer.append(Metric(key, float(value), now, step))
        if len(self._buffer) >= _METRICS_PER_BATCH or time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered metrics to the store."""
        _write_metrics(self._client, self.run_id, self._buffer)
        self._buffer = []
        self._written = time.monotonic()

    def artifact(self, path: Path | str) -> None:
        """Copy a file, or the content of a folder under the folder's name, to the run's artifacts."""
        path = Path(path)
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    def tag(self, key: str, value: str) -> None:
        self._client.set_tag(self.run_id, key, value)

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Write what is buffered and end the run; later calls change nothing."""
        if self._finished:
            return
        self._finished = True
        self._monitor.finish()
        self.flush()
        self._client.set_terminated(self.run_id, status)


def _status_after(error: BaseException | None) -> RunStatus:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"


def _start(client: MlflowClient, name: str, params: Mapping[str, Scalar], tags: Mapping[str, str]) -> str:
    from mlflow.entities import Param

    run = client.create_run(_experiment_id(client), run_name=name, tags=dict(tags))
    every = [Param(key, "null" if value is None else str(value)) for key, value in params.items()]
    for first in range(0, len(every), _PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=every[first : first + _PARAMS_PER_BATCH])
    return run.info.run_id


def _log_snapshot_input(client: MlflowClient, run_id: str, snapshot: Mapping[str, str]) -> None:
    """The snapshot as a dataset input under our own digest, cut to the characters that MLflow allows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=snapshot["name"],
        digest=snapshot["digest"][:_DATASET_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": snapshot["source"]}),
        profile=json.dumps({"logical_digest": snapshot["digest"]}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _write_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Any]) -> None:
    for first in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=list(metrics[first : first + _METRICS_PER_BATCH]))


def _search(client: MlflowClient, condition: str) -> list[RunRecord]:
    """Every active run that meets a condition, page by page, in no particular order."""
    records: list[RunRecord] = []
    token: str | None = None
    while True:
        page = client.search_runs([_experiment_id(client)], condition, max_results=_RUNS_PER_PAGE, page_token=token)
        records.extend(
            RunRecord(
                run_id=run.info.run_id,
                original_id=run.data.tags.get(RESTORED_FROM, run.info.run_id),
                status=run.info.status,
                params=dict(run.data.params),
                tags=dict(run.data.tags),
                metrics=dict(run.data.metrics),
            )
            for run in page
        )
        token = page.token
        if not token:
            return records


def _readable_client() -> MlflowClient | None:
    """A client, or None where a local store does not exist yet: reading never creates one."""
    uri = store_uri()
    return None if uri.startswith(_SQLITE) and not _is_initialised(uri) else _client()


def find_runs(run_ids: Iterable[str]) -> list[RunRecord]:
    """The runs of these ids, or what was restored from them, in the order asked for; unknown ids are left out."""
    wanted = list(dict.fromkeys(run_ids))
    client = _readable_client()
    if client is None:
        return []
    found: dict[str, RunRecord] = {}
    for first in range(0, len(wanted), _RUNS_PER_PAGE):
        ids = ", ".join(f"'{run_id}'" for run_id in wanted[first : first + _RUNS_PER_PAGE])
        found.update({record.run_id: record for record in _search(client, f"attributes.run_id IN ({ids})")})
    if len(found) < len(wanted):
        for record in _search(client, f"tags.{RESTORED_FROM} LIKE '%'"):
            found.setdefault(record.original_id, record)
    return [found[run_id] for run_id in wanted if run_id in found]


def find_by_key(key: str) -> list[RunRecord]:
    """Every run whose tag `key` is the key of a trial, ordered by id so that nothing depends on the store."""
    client = _readable_client()
    return [] if client is None else sorted(_search(client, f"tags.key = '{key}'"), key=lambda record: record.run_id)


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    """All logged values of one metric as (step, value), by step."""
    return sorted((metric.step, metric.value) for metric in _client().get_metric_history(run_id, key))


def log_snapshot(report: Mapping[str, Any], storage: StorageSettings) -> str:
    """Log a verified snapshot as a run of its own: numbers as metrics, words as params, the report as an artifact.

    Returns the run id. The report's `digest` becomes a tag, so that a snapshot is found under its logical digest.
    """
    ensure_store(storage)
    client = _client()
    flat = dict(_flatten(report))
    words = {key: value for key, value in flat.items() if not _is_number(value)}
    digest = str(report.get("digest", report.get("logical_digest", "")))
    run_id = _start(client, f"snapshot {digest[:12]}", words, {"kind": "snapshot", "snapshot_digest": digest})
    _write_values(client, run_id, {key: value for key, value in flat.items() if _is_number(value)}, step=0)
    client.log_dict(run_id, dict(report), "snapshot.json")
    client.set_terminated(run_id, "FINISHED")
    return run_id


def log_comparison(
    reports: Path, summary: Mapping[str, float], source_run_ids: Sequence[str], storage: StorageSettings
) -> str:
    """Log a comparison as a run that names the runs it was made of; its artifacts are the reports folder's."""
    ensure_store(storage)
    client = _client()
    tags = {"kind": "comparison", "n_source_runs": str(len(source_run_ids))}
    run_id = _start(client, "comparison", {}, tags)
    client.log_dict(run_id, {"source_run_ids": list(source_run_ids)}, "source_runs.json")
    _write_values(client, run_id, summary, step=0)
    client.log_artifacts(run_id, str(reports))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def restore_run(
    manifest: Mapping[str, Any],
    history_rows: Iterable[tuple[int, str, float]],
    items: Path | None,
    storage: StorageSettings,
) -> str:
    """Write one trial's run again from what lies beside its manifest, under a new id tagged with the old one.

    history_rows: (step, metric, value). Returns the run id in the store; a run that the store still has is left alone.
    """
    known = find_runs([manifest["run_id"]])
    if known:
        return known[0].run_id
    ensure_store(storage)
    client = _client()
    digests = {f"{name}_digest": value for name, value in manifest["digests"].items() if value}
    tags = {**manifest["tags"], **digests, "kind": "trial", RESTORED_FROM: manifest["run_id"]}
    run_id = _start(client, f"{manifest['group']}/{manifest['seed']}", manifest["params"], tags)
    digest = manifest["digests"]["snapshot"]
    _log_snapshot_input(client, run_id, {"name": "snapshot", "digest": digest, "source": "data/snapshot"})
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in history_rows:
        by_step.setdefault(step, {})[metric] = value
    seen = {metric for values in by_step.values() for metric in values}
    rest = {key: value for key, value in manifest["metrics"].items() if key not in seen and value is not None}
    by_step.setdefault(max(by_step, default=0), {}).update(rest)
    for step, values in sorted(by_step.items()):
        _write_values(client, run_id, values, step)
    if items is not None and items.is_file():
        client.log_artifact(run_id, str(items))
    client.set_terminated(run_id, "FINISHED" if manifest["status"] == "finished" else "FAILED")
    return run_id


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Scalars of a nested mapping under dotted names; lists are written as JSON."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", json.dumps(list(value), sort_keys=True)
        else:
            yield f"{prefix}{key}", value


def _write_values(client: MlflowClient, run_id: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    _write_metrics(client, run_id, [Metric(key, float(value), now, step) for key, value in values.items()])
