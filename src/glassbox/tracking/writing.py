"""A journal brought to the store: every line once, whatever was written before, whatever became of the run there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glassbox.config.settings import StorageSettings
from glassbox.tracking.faults import reason
from glassbox.tracking.journal import Journal, Line, waiting_journals
from glassbox.tracking.store import EXPERIMENT, ensure_store, experiment_id, experiment_ids, open_client, store_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Scalar = str | int | float | bool | None
LOCAL_ID = "local_id"
NOTE = "mlflow.note.content"
RUN_ID = "{run_id}"
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
DATASET_DIGEST_CHARACTERS = 36
# Errors of a line or of its run; every other one is of a store that is away, and passes
OF_THE_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST")


def begin(journal: Journal, name: str, params: Mapping[str, Scalar], tags: Mapping[str, str], **more: Any) -> None:
    """The first line. `more` may hold `snapshot`: name, digest (sha256 hex) and source of the run's input; and
    `experiment`, the name of another one than the trials'."""
    written = {key: "null" if value is None else str(value) for key, value in params.items()}
    journal.append("start", True, store=store_name(), name=name, params=written, tags=dict(tags), **more)


def write_journal(client: MlflowClient, journal: Journal, storage: StorageSettings | None) -> None:
    """Bring the store up to the journal. Raises what a store raises that is away, and may then be called again.

    A run or an experiment that was deleted is restored; one that is gone is written again from the first line. A line
    that MLflow refuses by itself is passed over, which is said.
    """
    from mlflow.exceptions import MlflowException

    while True:
        try:
            _write_lines(client, journal)
            return
        except MlflowException as error:
            if error.error_code not in OF_THE_RUN:
                raise
            if not _revive(client, journal, storage):
                _pass_over(journal, error)


def write_waiting(storage: StorageSettings | None, is_wanted: Callable[[], bool] = lambda: True) -> int:
    """Bring to the store what earlier runs could not; returns how many runs. Raises what a store raises that is away.

    Without `storage` a store that has no experiment does not get one.

    A run whose process was killed ends KILLED; the trial that goes on with it takes it up again.
    """
    count = 0
    for journal in waiting_journals(store_name()):
        try:
            if not is_wanted():
                break
            status = journal.last_status
            if status is None or status["status"] == "RUNNING":
                journal.append("status", True, status="KILLED", time=journal.last_time())
            if storage is not None:
                ensure_store(storage)
            write_journal(open_client(), journal, storage)
            count += 1
            if status is not None and status.get("final"):
                journal.discard()
        finally:
            journal.release()
    return count


def _write_lines(client: MlflowClient, journal: Journal) -> None:
    """Lines in their order, artifacts before a status; a status does not wait for an artifact store that is away."""
    for lines, end in _batches(journal):
        first = lines[0]
        if first["kind"] == "metrics":
            client.log_batch(_known(journal), metrics=[metric for line in lines for metric in _metrics_of(line)])
        elif first["kind"] == "tag":
            client.set_tag(_known(journal), first["key"], first["value"])
        elif first["kind"] == "note":
            _write_note(client, _known(journal), first["text"])
        elif first["kind"] == "model":
            _write_model(client, _known(journal), first)
        elif first["kind"] == "status":
            with suppress(Exception):  # tried again below, where it counts
                _write_artifacts(client, journal)
            _write_status(client, _known(journal), first)
        else:
            if journal.written.run_id is None:
                journal.mark(run_id=_made_run(client, journal, first))
            _describe(client, _known(journal), first)
        journal.mark(offset=end)
    _write_artifacts(client, journal)


def _write_note(client: MlflowClient, run_id: str, text: str) -> None:
    """The description of a run and of all our experiments, with the run's own id where the text asks for it."""
    text = text.replace(RUN_ID, run_id)
    client.set_tag(run_id, NOTE, text)
    for each in experiment_ids(client):
        client.set_experiment_tag(each, NOTE, text)


def _write_model(client: MlflowClient, run_id: str, line: Line) -> None:
    """A saved student among MLflow's models: where it lies, under the run that made it. Its files are not copied."""
    experiment = experiment_id(client)
    known = client.search_logged_models([experiment], f"source_run_id = '{run_id}'", max_results=1)
    if not known:
        model = client.create_logged_model(
            experiment, line["name"], run_id, {"path": line["path"]}, model_type="student"
        )
        client.finalize_logged_model(model.model_id, "READY")


def _batches(journal: Journal) -> Iterator[tuple[list[Line], int]]:
    """What the store has not yet, metrics that follow each other together, and where each batch ends."""
    waiting: list[Line] = []
    size, end = 0, journal.written.offset
    for line, following in journal.lines(end):
        is_metrics = line["kind"] == "metrics"
        if waiting and (not is_metrics or size + len(line["values"]) > METRICS_PER_BATCH):
            yield waiting, end
            waiting, size = [], 0
        if is_metrics:
            waiting.append(line)
            size += len(line["values"])
        else:
            yield [line], following
        end = following
    if waiting:
        yield waiting, end


def _known(journal: Journal) -> str:
    assert journal.written.run_id is not None, "a journal begins with its start"
    return journal.written.run_id


def _metrics_of(line: Line) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, line["time"], line["step"]) for key, value in line["values"].items()]


def _made_run(client: MlflowClient, journal: Journal, start: Line) -> str:
    """The run's id in the store; one that was made before its id came back is found by its tag."""
    experiment = experiment_id(client, start.get("experiment", EXPERIMENT))
    found = client.search_runs([experiment], f"tags.{LOCAL_ID} = '{journal.name}'", max_results=1)
    if found:
        return found[0].info.run_id
    tags = {**start["tags"], LOCAL_ID: journal.name}
    return client.create_run(experiment, start["time"], tags, run_name=start["name"]).info.run_id


def _describe(client: MlflowClient, run_id: str, start: Line) -> None:
    from mlflow.entities import Param

    every = [Param(key, value) for key, value in start["params"].items()]
    for first in range(0, len(every), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=every[first : first + PARAMS_PER_BATCH])
    if "snapshot" in start:
        _describe_input(client, run_id, start["snapshot"])


def _describe_input(client: MlflowClient, run_id: str, snapshot: Mapping[str, str]) -> None:
    """The snapshot as a dataset input under our own digest, cut to the characters that MLflow allows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    dataset = Dataset(
        name=snapshot["name"],
        digest=snapshot["digest"][:DATASET_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": snapshot["source"]}),
        profile=json.dumps({"logical_digest": snapshot["digest"]}),
    )
    for is_last in (False, True):
        try:
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        except MlflowException as error:
            # Two trials that start together both find the data set absent, and the second one's insertion is refused
            if is_last or "IntegrityError" not in str(error):
                raise
        else:
            return


def _write_artifacts(client: MlflowClient, journal: Journal) -> None:
    for path, name, changed in journal.artifacts_to_write():
        client.log_artifact(_known(journal), str(path), name.rpartition("/")[0] or None)
        journal.mark(artifacts={**journal.written.artifacts, name: changed})


def _write_status(client: MlflowClient, run_id: str, line: Line) -> None:
    if line["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, line["status"], line["time"])


def _revive(client: MlflowClient, journal: Journal, storage: StorageSettings | None) -> bool:
    """Restore what was deleted in the store; False where nothing was."""
    from mlflow.exceptions import MlflowException

    restored = storage is not None and ensure_store(storage)
    if journal.written.run_id is None:
        return restored
    try:
        run: Run = client.get_run(journal.written.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        journal.mark(run_id=None, offset=0, artifacts={})
        return True
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
        return True
    return restored


def _pass_over(journal: Journal, error: Exception) -> None:
    refused = next(journal.lines(journal.written.offset), None)
    if refused is None:
        raise error
    line, following = refused
    print(
        f"MLflow refuses what {(journal.start or line)['name']} logs as {line['kind']} ({reason(error)}): it is passed "
        "over there; the trial's own files under runs/ have it.",
        file=sys.stderr,
        flush=True,
    )
    journal.mark(offset=following)
