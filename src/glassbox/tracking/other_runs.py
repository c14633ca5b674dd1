"""Runs that no trial writes: of a snapshot, of a comparison, and of a trial that is restored from its files."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

from glassbox.config.settings import StorageSettings
from glassbox.tracking.faults import explaining, reason
from glassbox.tracking.journal import Journal
from glassbox.tracking.queries import RESTORED_FROM, find_runs
from glassbox.tracking.source import label, source_tags
from glassbox.tracking.store import COMPARISONS, ensure_store, open_client, store_name
from glassbox.tracking.writing import RUN_ID, Scalar, begin, write_journal


def log_snapshot(report: Mapping[str, Any], storage: StorageSettings) -> str:
    """Log a verified snapshot as a run of its own: numbers as metrics, words as params, the report as an artifact.

    Returns the run id. The report's `digest` becomes a tag, so that a snapshot is found under its logical digest.
    """
    flat = dict(_flatten(report))
    words = {key: value for key, value in flat.items() if not _is_number(value)}
    digest = str(report.get("digest", report.get("logical_digest", "")))
    journal = Journal.new()
    tags = {"kind": "snapshot", "snapshot_digest": digest, **source_tags()}
    begin(journal, f"snapshot {digest[:12]}", words, tags, experiment=COMPARISONS)
    _log(journal, {key: value for key, value in flat.items() if _is_number(value)}, step=0)
    journal.add_text("snapshot.json", json.dumps(dict(report), indent=2))
    return _end_or_leave(journal, storage)


def log_comparison(
    reports: Path,
    summary: Mapping[str, float],
    source_run_ids: Sequence[str],
    tags: Mapping[str, str],
    storage: StorageSettings,
    note: str = "",
) -> str:
    """Log a comparison as a run that names the runs it was made of; its artifacts are the reports folder's.

    note: Markdown for the description of the run and of the experiments; see `artifact_address`.
    """
    journal = Journal.new()
    every_tag = {**tags, "kind": "comparison", "n_source_runs": str(len(source_run_ids)), **source_tags()}
    name = " ".join(["comparison", *([label()] if label() else [])])
    begin(journal, name, {}, every_tag, experiment=COMPARISONS)
    _log(journal, summary, step=0)
    if note:
        journal.append("note", text=note)
    journal.add_text("source_runs.json", json.dumps({"source_run_ids": list(source_run_ids)}, indent=2))
    for path in sorted(reports.iterdir()):
        journal.add_artifact(path)
    return _end_or_leave(journal, storage)


def artifact_address(name: str) -> str:
    """Where MLflow's pages find an artifact of the run whose description names it; for a note of `log_comparison`."""
    return f"get-artifact?path={quote(name, safe='')}&run_uuid={RUN_ID}"


def restore_run(
    manifest: Mapping[str, Any],
    history_rows: Iterable[tuple[int, str, float]],
    files: Iterable[Path],
    storage: StorageSettings,
) -> str:
    """Write one trial's run again from what lies beside its manifest, under a new id tagged with the old one.

    history_rows: (step, metric, value). files: its artifacts, as far as they are there. Returns the run id in the
    store; a run that the store still has is left alone. Raises GlassboxError where the store is away.
    """
    known = find_runs([manifest["run_id"]])
    if known:
        return known[0].run_id
    digests = {f"{name}_digest": value for name, value in manifest["digests"].items() if value}
    tags = {**manifest["tags"], **digests, "kind": "trial", RESTORED_FROM: manifest["run_id"]}
    snapshot = {"name": "snapshot", "digest": manifest["digests"]["snapshot"], "source": "data/snapshot"}
    journal = Journal.new()
    begin(journal, f"{manifest['group']}/{manifest['seed']}", manifest["params"], tags, snapshot=snapshot)
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in history_rows:
        by_step.setdefault(step, {})[metric] = value
    seen = {metric for values in by_step.values() for metric in values}
    rest = {key: value for key, value in manifest["metrics"].items() if key not in seen and value is not None}
    by_step.setdefault(max(by_step, default=0), {}).update(rest)
    for step, values in sorted(by_step.items()):
        _log(journal, values, step)
    for path in files:
        if path.is_file():
            journal.add_artifact(path)
    with explaining():
        return _end(journal, storage, "FINISHED" if manifest["status"] == "finished" else "FAILED")


def _log(journal: Journal, values: Mapping[str, float], step: int) -> None:
    if values:
        journal.append("metrics", step=step, values={key: float(value) for key, value in values.items()})


def _end(journal: Journal, storage: StorageSettings, status: str = "FINISHED") -> str:
    """Write the journal to the store and remove it; returns the run id. Where the store is away the journal stays."""
    journal.append("status", True, status=status, final=True)
    try:
        ensure_store(storage)
        write_journal(open_client(), journal, storage)
        journal.discard()
    finally:
        journal.release()
    return journal.written.run_id or journal.name


def _end_or_leave(journal: Journal, storage: StorageSettings) -> str:
    """The same for a run that no stage depends on: a store that is away is told in one line."""
    try:
        return _end(journal, storage)
    except Exception as error:  # whatever a store may raise
        name = (journal.start or {"name": "a run"})["name"]
        print(
            f"MLflow's store {store_name()} is away ({reason(error)}): {name} waits in {journal.folder}; the next "
            "trial, `dvc repro` or `python src/restore.py` writes it.",
            file=sys.stderr,
        )
        return journal.name


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
