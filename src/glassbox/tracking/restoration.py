"""A lost or another MLflow store, refilled from what lies beside every trial's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from glassbox import tracking
from glassbox.config.settings import StorageSettings
from glassbox.errors import GlassboxError
from glassbox.files import parse_json, sha256_of

ARTIFACTS = ("history.parquet", "items.parquet", "diverged.json")


@dataclass(frozen=True)
class Restoration:
    """Trials as "group/seed": those whose run was written again, and those whose run the store still had."""

    restored: tuple[str, ...]
    present: tuple[str, ...]


def restore_runs(runs: Path, storage: StorageSettings) -> Restoration:
    """Write the run of every manifest under runs/ that the store does not know: params, tags, history and items."""
    paths = sorted(runs.glob("*/*.json"))
    manifests = [whole_manifest(path) for path in paths]
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
    manifest = whole_manifest(path)
    if tracking.find_runs([manifest["run_id"]]):
        return False
    _restore(path, manifest, storage)
    return True


def whole_manifest(path: Path) -> dict[str, Any]:
    """A manifest. Raises GlassboxError where it is damaged, or the files that MLflow gets are not those it names."""
    try:
        manifest = parse_json(path.read_bytes())
    except ValueError as error:
        raise GlassboxError(f"{path} is damaged ({error}): `dvc checkout --force runs` or `dvc repro`.") from error
    for file in (path.with_suffix("") / name for name in ARTIFACTS):
        if file.is_file() and sha256_of(file) != manifest["files"].get(file.name):
            raise GlassboxError(
                f"{file} is not the file that {path} names, so that this trial's run cannot be restored: "
                "`dvc checkout --force runs` or `dvc repro`."
            )
    return manifest


def _restore(path: Path, manifest: Mapping[str, Any], storage: StorageSettings) -> None:
    beside = path.with_suffix("")
    files = [beside / name for name in ARTIFACTS]
    tracking.restore_run(manifest, _history(files[0]), (*files, path), storage)


def _history(path: Path) -> list[tuple[int, str, float]]:
    if not path.is_file():
        raise GlassboxError(
            f"{path} is missing, so that this trial's run cannot be restored: `dvc checkout runs` or `dvc repro`."
        )
    columns = parquet.read_table(path, columns=["step", "metric", "value"]).to_pydict()
    return list(zip(columns["step"], columns["metric"], columns["value"], strict=True))
