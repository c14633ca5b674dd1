"""Finished trials, kept by key: a weight typed back by hand, another worktree or a queued experiment trains nothing
twice. What is kept is checked by the digests of its manifest before it counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from glassbox.config.settings import Settings
from glassbox.config.storage import scratch_folder
from glassbox.errors import GlassboxError
from glassbox.files import read_json, sha256_of, write_synced
from glassbox.grid.cells import Cell

MANIFEST = "manifest.json"
FILES = "files"


def folder_of(settings: Settings) -> Path:
    return scratch_folder(settings.storage) / "trials"


def keep(manifest_path: Path, settings: Settings) -> None:
    """Link or copy a published trial to where it is kept by its key, then drop the oldest ones over the limit."""
    manifest = read_json(manifest_path)
    if "key" not in manifest or not _is_whole(manifest, manifest_path.with_suffix("")):
        return
    target = folder_of(settings) / manifest["key"]
    if not (target / MANIFEST).is_file():
        staging = target.with_name(f".{target.name}-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        (staging / FILES).mkdir(parents=True)
        _link_files(manifest, manifest_path.with_suffix(""), staging / FILES)
        shutil.copyfile(manifest_path, staging / MANIFEST)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staging, target)
    _prune(folder_of(settings), settings.engine.kept_gigabytes * 1e9, target)


def _is_whole(manifest: dict[str, Any], folder: Path) -> bool:
    return all((folder / name).is_file() for name in manifest["files"])


def _link_files(manifest: dict[str, Any], source: Path, target: Path) -> None:
    for name in manifest["files"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)


def has(cell: Cell, settings: Settings) -> bool:
    return (folder_of(settings) / cell.key / MANIFEST).is_file()


def adopt(cell: Cell, settings: Settings) -> str:
    """Put a kept trial into runs/ and see to its run in MLflow; an empty string where it must be trained.

    Otherwise a sentence. A kept trial that is damaged is removed.
    """
    kept = folder_of(settings) / cell.key
    manifest = read_json(kept / MANIFEST)
    if not manifest:
        return ""
    if not _is_sound(manifest, cell, kept / FILES):
        shutil.rmtree(kept, ignore_errors=True)
        return ""
    target = cell.manifest.with_suffix("")
    staging = target.with_name(f".{target.name}-kept")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    _link_files(manifest, kept / FILES, staging)
    cell.manifest.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)
    write_synced(cell.manifest, (kept / MANIFEST).read_bytes())
    os.utime(kept)
    try:
        return _see_to_the_run(cell, settings)
    except GlassboxError as error:
        cell.manifest.unlink()
        print(f"{cell.name} is kept, but its run in MLflow cannot be restored ({error}); it is trained again.")
        return ""


def _is_sound(manifest: dict[str, Any], cell: Cell, folder: Path) -> bool:
    belongs = (manifest["key"], manifest["group"], manifest["seed"]) == (cell.key, cell.group, cell.seed)
    return (
        belongs
        and _is_whole(manifest, folder)
        and all(sha256_of(folder / name) == digest for name, digest in manifest["files"].items())
    )


def _see_to_the_run(cell: Cell, settings: Settings) -> str:
    from glassbox.tracking.restoration import restore_trial

    restored = restore_trial(cell.manifest, settings.storage)
    return "trained before" + (", its run in MLflow was restored" if restored else "")


def _prune(folder: Path, limit: float, newest: Path) -> None:
    """Drop what was used longest ago until the rest fits; the newest stays in any case."""
    trials = sorted(
        (path for path in folder.glob("[!.]*") if path != newest), key=lambda path: path.stat().st_mtime, reverse=True
    )
    total = _size(newest)
    for path in trials:
        total += _size(path)
        if total > limit:
            shutil.rmtree(path, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clear(settings: Settings) -> str:
    """Remove all kept trials; what runs/, DVC's cache and MLflow hold stays."""
    folder = folder_of(settings)
    count, size = len(list(folder.glob("[!.]*"))), _size(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return f"{count} kept trials removed from {folder}, {size / 1e9:.2f} GB."
