"""Snapshots kept under a name: pushed to the DVC remote, listed in archive.json, and brought back by that name.

DVC keeps the bytes under its own md5; archive.json remembers which md5 a name stands for. It is tracked by git, so that
a clone can bring back every snapshot that was ever archived.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from glassbox.errors import GlassboxError

INDEX = "archive.json"
SNAPSHOT = "data/snapshot"
REMOTE_OF_SETTINGS = "storage-setting"


@dataclass(frozen=True)
class ArchivedSnapshot:
    """digest: the logical digest. md5, size [bytes] and nfiles: the folder as DVC knows it."""

    name: str
    digest: str
    md5: str
    size: int
    nfiles: int
    archived: str


def read_index(root: Path) -> list[ArchivedSnapshot]:
    """The archived snapshots, oldest first."""
    path = root / INDEX
    if not path.is_file():
        return []
    try:
        return [ArchivedSnapshot(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise GlassboxError(
            f"{path} cannot be read ({error}): `git restore {INDEX}` brings its last version back."
        ) from error


def recorded_output(root: Path, output: str = SNAPSHOT) -> dict[str, Any] | None:
    """What dvc.lock says of a stage's output (md5, size, nfiles), or None where no stage has made it yet."""
    path = root / "dvc.lock"
    stages = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {}) if path.is_file() else {}
    outputs = (each for stage in stages.values() for each in stage.get("outs", []))
    return next((each for each in outputs if each["path"] == output), None)


def archive_snapshot(root: Path, remote: str | None, now: datetime.datetime) -> ArchivedSnapshot:
    """Push data/snapshot to the remote and name it `snapshot-<date>-<first 12 of its digest>`.

    remote: a remote's name, a folder or a URL; None for DVC's default remote. A snapshot that has a name keeps it.
    Raises GlassboxError where there is no snapshot, or where it is not the one that dvc.lock records.
    """
    recorded = recorded_output(root)
    manifest = root / SNAPSHOT / "manifest.json"
    if recorded is None or not manifest.is_file():
        raise GlassboxError(
            f"There is no {SNAPSHOT} to archive: run `dvc repro verify`, which captures and checks one."
        )
    _refuse_changed(root)
    _dvc(root, ["push", *_remote_option(root, remote), SNAPSHOT])
    digest = json.loads(manifest.read_text(encoding="utf-8"))["logical_digest"]
    index = read_index(root)
    for entry in index:
        if (entry.digest, entry.md5) == (digest, recorded["md5"]):
            return entry
    name = f"snapshot-{now.date().isoformat()}-{digest[:12]}"
    if any(entry.name == name for entry in index):
        name += f"-{recorded['md5'][:8]}"
    moment = now.isoformat(timespec="seconds")
    entry = ArchivedSnapshot(name, digest, recorded["md5"], recorded["size"], recorded["nfiles"], moment)
    _write_index(root, [*index, entry])
    return entry


def restore_snapshot(root: Path, remote: str | None, name: str, target: Path | None = None) -> Path:
    """Bring an archived snapshot back into data/snapshot, or into another folder inside the repository.

    Raises GlassboxError for an unknown name, or where what came back is not the snapshot of that name.
    """
    entry = next((entry for entry in read_index(root) if entry.name == name), None)
    if entry is None:
        known = ", ".join(entry.name for entry in read_index(root)) or "none"
        raise GlassboxError(f"{INDEX} holds no snapshot named '{name}'; it holds: {known}.")
    target = target or root / SNAPSHOT
    pulled, reference = root / entry.name, root / f"{entry.name}.dvc"
    output = {"md5": entry.md5, "size": entry.size, "nfiles": entry.nfiles, "hash": "md5", "path": entry.name}
    try:
        reference.write_text(yaml.safe_dump({"outs": [output]}), encoding="utf-8")
        _dvc(root, ["pull", "--force", *_remote_option(root, remote), reference.name])
        digest = json.loads((pulled / "manifest.json").read_text(encoding="utf-8"))["logical_digest"]
        if digest != entry.digest:
            raise GlassboxError(f"{name} came back with the digest {digest} instead of {entry.digest}: it is not used.")
        _replace(target, pulled)
    finally:
        reference.unlink(missing_ok=True)
        shutil.rmtree(pulled, ignore_errors=True)
    return target


def _replace(target: Path, folder: Path) -> None:
    """Put a folder in the target's place; the old one is removed only after the new one stands there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f"{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(folder, target)
    shutil.rmtree(old, ignore_errors=True)


def _refuse_changed(root: Path) -> None:
    status = json.loads(_dvc(root, ["status", "--json", SNAPSHOT]) or "{}")
    changes = [change for stage in status.values() for change in stage if isinstance(change, dict)]
    if any(SNAPSHOT in change.get("changed outs", {}) for change in changes):
        raise GlassboxError(
            f"{SNAPSHOT} is not what dvc.lock records (it was changed, or restored by hand): "
            f"run `dvc repro verify`, or `dvc checkout {SNAPSHOT}`, and archive then."
        )


def _remote_option(root: Path, remote: str | None) -> list[str]:
    """`--remote NAME`: a folder or URL from the settings becomes a remote of .dvc/config.local."""
    configured = [line.partition("=")[0] for line in _dvc(root, ["config", "--list"]).splitlines()]
    if remote is None:
        if "core.remote" not in configured:
            raise GlassboxError(
                "No DVC remote is configured: set storage.remote to a folder or URL, "
                "or run `dvc remote add --default storage <folder or URL>`."
            )
        return []
    if f"remote.{remote}.url" in configured:
        return ["--remote", remote]
    _dvc(root, ["remote", "add", "--local", "--force", REMOTE_OF_SETTINGS, remote])
    return ["--remote", REMOTE_OF_SETTINGS]


def _dvc(root: Path, arguments: Sequence[str]) -> str:
    """The output of a DVC command; its complaint becomes a GlassboxError."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        complaint = done.stderr.strip() or done.stdout.strip()
        raise GlassboxError(f"`dvc {' '.join(arguments)}` failed in {root}: {complaint}")
    return done.stdout


def _write_index(root: Path, entries: Sequence[ArchivedSnapshot]) -> None:
    staged = root / f"{INDEX}.part"
    content = json.dumps([asdict(entry) for entry in entries], indent=1)
    staged.write_text(content + "\n", encoding="utf-8", newline="\n")
    os.replace(staged, root / INDEX)
