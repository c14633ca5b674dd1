"""Files that are written whole or not at all, digests of files and of code."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from glassbox.errors import GlassboxError

PARTIAL_SUFFIX = ".partial"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise GlassboxError where the drive of `folder` cannot hold `needed_bytes` and a tenth more."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.1:
        raise GlassboxError(
            f"{what} needs about {needed_bytes * 1.1 / 1e9:.2f} GB in {folder.resolve()}, but its drive has "
            f"{free / 1e9:.2f} GB free. Free some space, or name a folder on another drive (storage.scratch for work "
            "in progress, storage.cache for DVC's copies)."
        )


def write_synced(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the drive, then rename: readers see all of it or nothing."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def brief_ids(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"


def publish_folder(staging: Path, target: Path) -> None:
    """Put a finished folder in place by one rename; from another drive it is first copied beside the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
    shutil.rmtree(beside, ignore_errors=True)
    _synchronise(staging)
    try:
        os.replace(staging, beside)
    except OSError:
        require_free_space(target.parent, sum(path.stat().st_size for path in staging.iterdir()), f"Copying {target}")
        beside.mkdir()
        for path in sorted(staging.iterdir()):
            shutil.copyfile(path, beside / path.name)
        _synchronise(beside)
    if target.exists():
        shutil.rmtree(target)
    os.replace(beside, target)
    shutil.rmtree(staging, ignore_errors=True)


def _synchronise(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


SOURCE = Path(__file__).resolve().parent


def code_digest(names: Sequence[str]) -> str:
    """sha256 over the names and texts of modules, given as files and folders of the package; line ends do not count."""
    digest = hashlib.sha256()
    for name in names:
        place = SOURCE / name
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
            digest.update(f"{path.relative_to(SOURCE).as_posix()}\x1f{len(text)}\x1f{text}".encode())
    return digest.hexdigest()
