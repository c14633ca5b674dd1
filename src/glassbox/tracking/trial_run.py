"""The MLflow run of one trial, which never waits long for the store and loses nothing to it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from glassbox.config.settings import StorageSettings
from glassbox.errors import DivergedError
from glassbox.tracking.journal import Journal
from glassbox.tracking.source import label, source_tags
from glassbox.tracking.store import load_mlflow, store_name
from glassbox.tracking.system_metrics import PREFIX, Sampler
from glassbox.tracking.writer import Writer
from glassbox.tracking.writing import Scalar, begin

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class TrialRun:
    """One run as a context manager: a journal on disk, and a thread that brings it to MLflow (journal.py, writer.py).

    Starts a run, or goes on with the run named by `resume` (a new one is started where its journal is gone). Ends
    FINISHED; FAILED on an exception; KILLED on KeyboardInterrupt or a non-zero SystemExit. `finish` names a status
    explicitly. MLFLOW_RUN_ID, which `mlflow run` exports, is dropped from the environment and kept as tag `parent`.

    run_id: MLflow's id, or the journal's name where the store did not answer within two seconds; `find_runs` knows the
    run by both. params: flat scalars, None is written as "null". snapshot: `name`, `digest` (sha256 hex) and `source`
    of the input.
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
        load_mlflow()
        parent = os.environ.pop("MLFLOW_RUN_ID", None)
        found = None if resume is None else Journal.of_run(resume)
        self._logged = {} if found is None else found.logged_steps()
        self._journal = Journal.new() if found is None else found
        if found is None:
            every_tag = {"kind": "trial", **source_tags(), **tags} | ({"parent": parent} if parent else {})
            begin(
                self._journal,
                " ".join([name, *([label()] if label() else [])]),
                params,
                every_tag,
                snapshot=dict(snapshot),
            )
        else:
            self._journal.append("status", True, status="RUNNING")
        self._name = name
        self._finished = False
        self._writer = Writer(self._journal, storage, name)
        self._writer.start()
        self._writer.wait_for_the_run()
        self.run_id = resume if found is not None and resume else self._journal.written.run_id or self._journal.name
        self._sampler = Sampler(self._record, 1 + max([-1, *self._steps_of_the_system()]))
        self._sampler.start()

    def _steps_of_the_system(self) -> list[int]:
        return [step for key, step in self._logged.items() if key.startswith(PREFIX)]

    def _record(self, metrics: Mapping[str, float], step: int) -> None:
        if metrics:
            self._journal.append("metrics", step=step, values={key: float(value) for key, value in metrics.items()})

    def __enter__(self) -> TrialRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(_status_after(error), final=error is None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at a step; steps that were logged before a resume are skipped.

        Raises DivergedError on a value that is not finite: sqlite would turn an infinity into 1.8e308.
        """
        _require_finite(metrics, step)
        self._record({key: value for key, value in metrics.items() if step > self._logged.get(key, -1)}, step)

    def flush(self) -> None:
        """Bring what was logged to the drive, so that a checkpoint written after it is never ahead of it."""
        self._journal.synchronise()

    def artifact(self, path: Path | str) -> None:
        """Copy a file, or the content of a folder under the folder's name, to the run's artifacts."""
        self._journal.add_artifact(Path(path))

    def tag(self, key: str, value: str) -> None:
        self._journal.append("tag", key=key, value=value)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Keep rows as a table that MLflow's pages show and compare between runs. name: of a .json file."""
        content = {"columns": list(columns), "data": [[row[column] for column in columns] for row in rows]}
        self._journal.add_text(name, json.dumps(content))
        self.tag("mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    def model(self, path: Path) -> None:
        """List a saved student among MLflow's models; it stays where it is."""
        self._journal.append("model", name=f"{path.parent.parent.name}-{path.parent.name}", path=path.as_posix())

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """End the run and let the store have it, as far as it answers; later calls change nothing."""
        self._end(status, final=True)

    def _end(self, status: RunStatus, final: bool) -> None:
        if self._finished:
            return
        self._finished = True
        self._sampler.finish()
        self._journal.append("status", True, status=status, final=final)
        if not self._writer.drain():
            print(
                f"{self._name}: MLflow's store {store_name()} has not taken all of this run. The rest waits in "
                f"{self._journal.folder}; the next trial, `dvc repro` or `python src/restore.py` writes it.",
                file=sys.stderr,
                flush=True,
            )
        elif final:
            self._journal.discard()


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

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None: ...

    def model(self, path: Path) -> None: ...

    def finish(self, status: RunStatus = "FINISHED") -> None: ...


def _require_finite(metrics: Mapping[str, float], step: int) -> None:
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f"Metric {key} is {value} at step {step}: it is not logged.")


def _status_after(error: BaseException | None) -> RunStatus:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
