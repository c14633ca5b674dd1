"""Runs that no trial writes: of a snapshot, of a comparison, and of a trial that is restored from its files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from glassbox.config.settings import StorageSettings
from glassbox.tracking.queries import RESTORED_FROM, find_runs
from glassbox.tracking.store import ensure_store, open_client
from glassbox.tracking.writing import Scalar, log_snapshot_input, start_run, write_values


def log_snapshot(report: Mapping[str, Any], storage: StorageSettings) -> str:
    """Log a verified snapshot as a run of its own: numbers as metrics, words as params, the report as an artifact.

    Returns the run id. The report's `digest` becomes a tag, so that a snapshot is found under its logical digest.
    """
    ensure_store(storage)
    client = open_client()
    flat = dict(_flatten(report))
    words = {key: value for key, value in flat.items() if not _is_number(value)}
    digest = str(report.get("digest", report.get("logical_digest", "")))
    run_id = start_run(client, f"snapshot {digest[:12]}", words, {"kind": "snapshot", "snapshot_digest": digest})
    write_values(client, run_id, {key: value for key, value in flat.items() if _is_number(value)}, step=0)
    client.log_dict(run_id, dict(report), "snapshot.json")
    client.set_terminated(run_id, "FINISHED")
    return run_id


def log_comparison(
    reports: Path,
    summary: Mapping[str, float],
    source_run_ids: Sequence[str],
    tags: Mapping[str, str],
    storage: StorageSettings,
) -> str:
    """Log a comparison as a run that names the runs it was made of; its artifacts are the reports folder's."""
    ensure_store(storage)
    client = open_client()
    every_tag = {**tags, "kind": "comparison", "n_source_runs": str(len(source_run_ids))}
    run_id = start_run(client, "comparison", {}, every_tag)
    client.log_dict(run_id, {"source_run_ids": list(source_run_ids)}, "source_runs.json")
    write_values(client, run_id, summary, step=0)
    client.log_artifacts(run_id, str(reports))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def restore_run(
    manifest: Mapping[str, Any],
    history_rows: Iterable[tuple[int, str, float]],
    files: Iterable[Path],
    storage: StorageSettings,
) -> str:
    """Write one trial's run again from what lies beside its manifest, under a new id tagged with the old one.

    history_rows: (step, metric, value). files: its artifacts, as far as they are there. Returns the run id in the
    store; a run that the store still has is left alone.
    """
    known = find_runs([manifest["run_id"]])
    if known:
        return known[0].run_id
    ensure_store(storage)
    client = open_client()
    digests = {f"{name}_digest": value for name, value in manifest["digests"].items() if value}
    tags = {**manifest["tags"], **digests, "kind": "trial", RESTORED_FROM: manifest["run_id"]}
    run_id = start_run(client, f"{manifest['group']}/{manifest['seed']}", manifest["params"], tags)
    digest = manifest["digests"]["snapshot"]
    log_snapshot_input(client, run_id, {"name": "snapshot", "digest": digest, "source": "data/snapshot"})
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in history_rows:
        by_step.setdefault(step, {})[metric] = value
    seen = {metric for values in by_step.values() for metric in values}
    rest = {key: value for key, value in manifest["metrics"].items() if key not in seen and value is not None}
    by_step.setdefault(max(by_step, default=0), {}).update(rest)
    for step, values in sorted(by_step.items()):
        write_values(client, run_id, values, step)
    for path in files:
        if path.is_file():
            client.log_artifact(run_id, str(path))
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
