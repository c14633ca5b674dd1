"""A full and a read-only drive under each place that is written: a sentence, nothing damaged, and the same command goes
on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.counts import Injection
from faults.study import Study, resumed

ROOM = "256m"
WORDS = {"full": ("free", "No space left"), "read-only": ("cannot be written", "Read-only", "read-only")}


@dataclass(frozen=True)
class Drive:
    """What lies on the drive, which stage then writes to it, and how many kilobytes are free at first."""

    writer: str
    place: str
    stages: tuple[str, ...]
    script: str
    free: int


DRIVES = (
    Drive("tasks", "data", ("prepare",), "prepare", 8),
    Drive("answers", "data/answers", ("answers",), "answers", 4),
    Drive("capture", ".glassbox", ("snapshot",), "snapshot", 800),
    Drive("snapshot", "data", ("snapshot",), "snapshot", 800),
    Drive("gate's report", "reports", ("verify",), "verify", 0),
    Drive("checkpoints", ".glassbox", ("train",), "train", 1500),
    Drive("students", "runs", ("train",), "train", 300),
    Drive("MLflow's artifacts", "mlartifacts", ("train",), "train", 4),
    Drive("reports", "reports", ("compare",), "compare", 100),
)


def full_disks(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """`count` of the writers on a drive that is full, and the same on one that cannot be written."""
    refused = _refusal(work)
    for drive in DRIVES[:count]:
        for state in ("full", "read-only"):
            case = f"{state} drive: {drive.writer}"
            yield Injection("disk", case, "skipped", refused) if refused else _tried(base, work, drive, state, case)


def _refusal(work: Path) -> str:
    """Why this machine cannot mount a drive of a few megabytes; empty where it can."""
    place = work / "mount"
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        return f"a tmpfs cannot be mounted here ({done.stderr.strip()})"
    subprocess.run(["umount", place], check=True)
    return ""


def _tried(base: Study, work: Path, drive: Drive, state: str, case: str) -> Injection:
    study = base.copy(work / "disk")
    study.forget(*drive.stages)
    place = study.folder / drive.place
    place.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{place.name}-aside")
    place.rename(aside)
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", place], check=True)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)
        _remount(place, "ro" if state == "read-only" else f"size={_used(place) + drive.free}k")
        done = study.script(drive.script)
        told = any(word in done.said + _logs(study) for word in WORDS[state])
        torn = study.torn()
        _remount(place, f"rw,size={ROOM}")
        if done.has_traceback or not told or torn:
            why = torn or ("it did not notice" if done.code == 0 else "no sentence")
            return Injection("disk", case, "lost", f"{why}: {done.said[-500:]}")
        _unmount(place)
        return resumed(study, base.digests(), "disk", case, stage=drive.script)
    finally:
        if mounted.returncode == 0 and os.path.ismount(place):
            subprocess.run(["umount", "--lazy", place], check=False)


def _logs(study: Study) -> str:
    """What the trials said, of a store that does not take what they write above all."""
    return "".join(path.read_text(errors="replace") for path in (study.folder / ".glassbox/logs").glob("*.log"))


def _used(place: Path) -> int:
    """Kilobytes in use, in the drive's own blocks."""
    usage = os.statvfs(place)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize // 1024


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def _unmount(place: Path) -> None:
    """Back to a plain folder, as DVC must be able to replace it."""
    beside = place.with_name(f"{place.name}-beside")
    shutil.copytree(place, beside, symlinks=True)
    subprocess.run(["umount", place], check=True)
    place.rmdir()
    beside.rename(place)
