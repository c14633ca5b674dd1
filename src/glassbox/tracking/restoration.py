"""A lost or another MLflow store, refilled from what lies beside every trial's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from glassbox import tracking
from glassbox.config.settings import StorageSettings
from glassbox.errors import GlassboxError


@dataclass(frozen=True)
class Restoration:
    """Trials as "group/seed": those whose run was written again, and those whose run the store still had."""

    restored: tuple[str, ...]
    present: tuple[str, ...]


def restore_runs(runs: Path, storage: StorageSettings) -> Restoration:
    """Write the run of every manifest under runs/ that the store does not know: params, tags, history and items."""
    paths = sorted(runs.glob("*/*.json"))
    manifests = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    known = {record.original_id for record in tracking.find_runs(manifest["run_id"] for manifest in manifests)}
    restored, present = [], []
    for path, manifest in zip(paths, manifests, strict=True):
        name = f"{manifest['group']}/{manifest['seed']}"
        if manifest["run_id"] in known:
            present.append(name)
            continue
        _restore(path, manifest, storage)
        restored.append(name)
    return Restoration(tuple(restored), tuple(present))


def restore_trial(path: Path, storage: StorageSettings) -> bool:
    """Write the run of one manifest again; False where the store still knows it."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if tracking.find_runs([manifest["run_id"]]):
        return False
    _restore(path, manifest, storage)
    return True


def _restore(path: Path, manifest: Mapping[str, Any], storage: StorageSettings) -> None:
    beside = path.with_suffix("")
    history = beside / "history.parquet"
    files = (history, beside / "items.parquet", beside / "diverged.json", path)
    tracking.restore_run(manifest, _history(history), files, storage)


def _history(path: Path) -> list[tuple[int, str, float]]:
    if not path.is_file():
        raise GlassboxError(
            f"{path} is missing, so that this trial's run cannot be restored: `dvc checkout runs` or `dvc repro`."
        )
    columns = parquet.read_table(path, columns=["step", "metric", "value"]).to_pydict()
    return list(zip(columns["step"], columns["metric"], columns["value"], strict=True))
