"""The MLflow run of one trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from glassbox.config.settings import StorageSettings
from glassbox.errors import DivergedError
from glassbox.tracking.queries import search
from glassbox.tracking.store import ensure_store, open_client, store_uri
from glassbox.tracking.writing import METRICS_PER_BATCH, Scalar, log_snapshot_input, start_run, write_metrics

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
SECONDS_BETWEEN_WRITES = 5.0
SECONDS_BETWEEN_SYSTEM_SAMPLES = 5


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
        self._client = open_client()
        self._buffer: list[Any] = []
        self._written = time.monotonic()
        self._logged: dict[str, int] = {}
        self._finished = False
        if resume is not None and self._resume(resume):
            self.run_id = resume
        else:
            every_tag = {"kind": "trial", **tags} | ({"parent": parent} if parent else {})
            self.run_id = start_run(self._client, name, params, every_tag)
            log_snapshot_input(self._client, self.run_id, snapshot)
        self._monitor = self._start_system_metrics(resumed=resume is not None)

    def _resume(self, run_id: str) -> bool:
        known = search(self._client, f"attributes.run_id = '{run_id}'")
        for key in (key for record in known for key in record.metrics if not key.startswith("system/")):
            self._logged[key] = max(metric.step for metric in self._client.get_metric_history(run_id, key))
        if known:
            self._client.update_run(run_id, status="RUNNING")
        return bool(known)

    def _start_system_metrics(self, resumed: bool) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=SECONDS_BETWEEN_SYSTEM_SAMPLES,
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

        _require_finite(metrics, step)
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if step > self._logged.get(key, -1):
                self._buffer.append(Metric(key, float(value), now, step))
        if len(self._buffer) >= METRICS_PER_BATCH or time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered metrics to the store."""
        write_metrics(self._client, self.run_id, self._buffer)
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


class UnrecordedRun:
    """The run as seen by processes that are not the main one of their trial: refuses what a TrialRun refuses."""

    run_id = ""

    def __enter__(self) -> UnrecordedRun:
        return self

    def __exit__(self, *error: object) -> None: ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        _require_finite(metrics, step)

    def flush(self) -> None: ...

    def artifact(self, path: Path | str) -> None: ...

    def tag(self, key: str, value: str) -> None: ...

    def finish(self, status: RunStatus = "FINISHED") -> None: ...


def _require_finite(metrics: Mapping[str, float], step: int) -> None:
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f"Metric {key} is {value} at step {step}: it is not logged.")


def _status_after(error: BaseException | None) -> RunStatus:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
