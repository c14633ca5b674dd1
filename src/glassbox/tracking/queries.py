"""What the store is asked: the runs of given ids or keys, page by page, and what they logged."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from glassbox.tracking.faults import explaining
from glassbox.tracking.store import experiment_ids, open_client, readable_client
from glassbox.tracking.writing import LOCAL_ID, write_waiting

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RESTORED_FROM = "restored_from"
RUNS_PER_PAGE = 200


@dataclass(frozen=True)
class RunRecord:
    """A run as the store holds it. `original_id` is the id it ran under, which differs after a restore, and where the
    store gave its own id later than the trial needed one. started: milliseconds since 1970."""

    run_id: str
    original_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    started: int = 0


def search(client: MlflowClient, condition: str) -> list[RunRecord]:
    """Every active run that meets a condition, page by page, in no particular order."""
    records: list[RunRecord] = []
    token: str | None = None
    places = experiment_ids(client)
    while True:
        page = client.search_runs(places, condition, max_results=RUNS_PER_PAGE, page_token=token)
        records.extend(
            RunRecord(
                run_id=run.info.run_id,
                original_id=run.data.tags.get(RESTORED_FROM, run.info.run_id),
                status=run.info.status,
                params=dict(run.data.params),
                tags=dict(run.data.tags),
                metrics=dict(run.data.metrics),
                started=run.info.start_time or 0,
            )
            for run in page
        )
        token = page.token
        if not token:
            return records


def find_runs(run_ids: Iterable[str]) -> list[RunRecord]:
    """The runs of these ids, or what was restored from them, in the order asked for; unknown ids are omitted.

    What earlier runs could not write is written first. Raises GlassboxError where the store is away.
    """
    wanted = list(dict.fromkeys(run_ids))
    with explaining():
        client = _client_with_all_written()
        if client is None:
            return []
        found: dict[str, RunRecord] = {}
        for first in range(0, len(wanted), RUNS_PER_PAGE):
            ids = ", ".join(f"'{run_id}'" for run_id in wanted[first : first + RUNS_PER_PAGE])
            found.update({record.run_id: record for record in search(client, f"attributes.run_id IN ({ids})")})
        if len(found) < len(wanted):
            for record in search(client, f"tags.{RESTORED_FROM} LIKE '%'"):
                found.setdefault(record.original_id, record)
        for run_id in wanted:
            if run_id not in found:
                for record in search(client, f"tags.{LOCAL_ID} = '{run_id}'"):
                    found[run_id] = replace(record, original_id=run_id)
    return [found[run_id] for run_id in wanted if run_id in found]


def find_by_key(key: str, tag: str = "key") -> list[RunRecord]:
    """Every run whose tag is the key of a trial, or with tag `study_key` of a study: ordered by id, so that nothing
    depends on the store."""
    with explaining():
        client = _client_with_all_written()
        records = [] if client is None else search(client, f"tags.{tag} = '{key}'")
    return sorted(records, key=lambda record: record.run_id)


def find_comparisons() -> list[RunRecord]:
    """Every comparison that finished, the newest first."""
    with explaining():
        client = _client_with_all_written()
        records = (
            [] if client is None else search(client, "tags.kind = 'comparison' AND attributes.status = 'FINISHED'")
        )
    return sorted(records, key=lambda record: (-record.started, record.run_id))


def _client_with_all_written() -> MlflowClient | None:
    with suppress(Exception):  # a store that is away says so when it is read; a full artifact store can be read
        write_waiting(None)
    return readable_client()


def artifact(run_id: str, name: str) -> Path | None:
    """Where a file among the run's artifacts lies on this machine; None where the run has none of that name."""
    with explaining():
        client = open_client()
        if not any(found.path == name for found in client.list_artifacts(run_id)):
            return None
        return Path(client.download_artifacts(run_id, name))


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    """All logged values of one metric as (step, value), by step."""
    with explaining():
        return sorted((metric.step, metric.value) for metric in open_client().get_metric_history(run_id, key))
