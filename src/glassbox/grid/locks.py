"""Who may use a core or a GPU of this machine, and who may train a trial: locks that end with the process that holds
them, shared by all worktrees, queue workers and `--temp` runs of a repository."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError

FOLDER = "locks"


@dataclass(frozen=True)
class Slot:
    """Room for one trial: the cores or GPUs that it books, and the environment that keeps it to them."""

    resources: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def slots_of(settings: Settings) -> list[Slot]:
    """Room for trials on this machine. Raises GlassboxError where one trial asks for more than there is."""
    gpus, processes = visible_gpus(), settings.train.processes
    per_trial = settings.engine.gpus if settings.engine.gpus is not None else (processes if gpus else 0)
    if per_trial > len(gpus):
        raise GlassboxError(
            f"`engine.gpus` = {per_trial:g}: a trial asks for more GPUs than this machine has, which is {len(gpus)}. "
            "Next: `-S engine.gpus=null` takes what there is, or `-S engine.kind=ray` (docs/engines.md)."
        )
    slots = _gpu_slots(gpus, per_trial) if per_trial else _core_slots(settings, hide_gpus=bool(gpus))
    workers = settings.engine.workers
    if per_trial and workers and workers > len(slots):
        raise GlassboxError(
            f"`engine.workers` = {workers} with {per_trial:g} GPUs each: this machine's {len(gpus)} GPUs have room for "
            f"{len(slots)}. Next: `-S engine.workers={len(slots)}`, or a part of a GPU such as `-S engine.gpus=0.5`."
        )
    return slots[:workers] if workers else slots


def _gpu_slots(gpus: Sequence[str], per_trial: float) -> list[Slot]:
    if per_trial < 1:
        parts = int(1 / per_trial)
        return [Slot((f"gpu-{gpu}.{part}",), {"CUDA_VISIBLE_DEVICES": gpu}) for part in range(parts) for gpu in gpus]
    size = math.ceil(per_trial)
    shares = [gpus[first : first + size] for first in range(0, len(gpus) - size + 1, size)]
    return [Slot(tuple(f"gpu-{gpu}" for gpu in each), {"CUDA_VISIBLE_DEVICES": ",".join(each)}) for each in shares]


def _core_slots(settings: Settings, hide_gpus: bool) -> list[Slot]:
    cores = core_count()
    size = min(cores, cores_of_a_trial(settings))
    count = settings.engine.workers or cores // size
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
    return [Slot(tuple(f"core-{n}" for n in range(at * size, (at + 1) * size)), hidden) for at in range(count)]


def cores_of_a_trial(settings: Settings) -> int:
    return settings.engine.cpus or settings.train.threads * settings.train.processes


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes; without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None:
        return []
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(n) for n, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


class Booking:
    """A slot that is held until this process is gone; taken as a whole or not at all."""

    def __init__(self, folder: Path, resources: Sequence[str]) -> None:
        self._paths = [folder / FOLDER / f"{name}.lock" for name in resources]
        self._locks = [FileLock(path) for path in self._paths]
        self._paths[0].parent.mkdir(parents=True, exist_ok=True)

    def take(self) -> str:
        """An empty string, or which other process holds what."""
        for path, lock in zip(self._paths, self._locks, strict=True):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                for taken in self._locks:
                    taken.release()
                return f"{path.stem} is held by {_owner(path)}"
            _owner_file(path).write_text(str(os.getpid()), encoding="utf-8")
        return ""


class Lease:
    """The right to train one trial: a lock, and a number that grows each time, so that who wakes late can tell."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / FOLDER / f"{key}.lock"
        self._lock = FileLock(self._path)
        self._numbers = self._path.with_suffix(".number")
        self.number = 0

    def take(self) -> str:
        """An empty string, or which other process trains this trial."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return _owner(self._path)
        _owner_file(self._path).write_text(str(os.getpid()), encoding="utf-8")
        self.number = read_number(self._numbers) + 1
        self._numbers.write_text(str(self.number), encoding="utf-8")
        return ""

    def release(self) -> None:
        self._lock.release()

    @property
    def token(self) -> str:
        """What the processes of one trial are told, so that they can ask `is_valid`."""
        return f"{self.number}:{self._numbers.resolve()}"


def is_valid(token: str) -> bool:
    """Whether nobody else has taken the lease since."""
    number, _, path = token.partition(":")
    return read_number(Path(path)) == int(number)


def read_number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _owner_file(lock: Path) -> Path:
    return lock.with_suffix(".owner")


def _owner(lock: Path) -> str:
    """Who holds a lock, in words; a stopped process is named with the way to end it."""
    number = read_number(_owner_file(lock))
    with suppress(psutil.Error):
        if number and psutil.Process(number).status() == psutil.STATUS_STOPPED:
            return f"process {number}, which is stopped (`kill -CONT {number}` or `kill -KILL {number}`)"
    return f"process {number}" if number else "another process"
