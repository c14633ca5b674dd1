"""What a run has to say, on disk before it is in MLflow, so that no trial waits for a store or loses a line to it.

One folder a run, `<root>/.glassbox/journals/<name>/`:

    lines.jsonl    start, metrics, tag and status in their order, one JSON object a line
    artifacts/     copies of the run's files under the paths that they get in the store
    written.json   how much of both the store has, and the id that it gave the run
    lock           held by the process that writes the journal or brings it to the store
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from glassbox.config.storage import root
from glassbox.errors import GlassboxError
from glassbox.files import read_json, write_json, write_synced

SECONDS_TO_KEEP = 30 * 24 * 3600
SECONDS_TO_WAIT_FOR_A_SWEEP = 30
WHOLE_SECOND = 1000  # MLflow's times are in milliseconds

Line = dict[str, Any]


@dataclass
class Written:
    """What the store has: everything before byte `offset` of the lines, and artifacts as path -> time in ns."""

    run_id: str | None = None
    offset: int = 0
    artifacts: dict[str, int] = field(default_factory=dict)


def now() -> int:
    """Milliseconds since 1970, as MLflow counts them."""
    return int(time.time() * WHOLE_SECOND)


def folder_of_journals() -> Path:
    return root() / ".glassbox" / "journals"


class Journal:
    """The journal in a folder, locked until `release` or `discard`. Raises filelock's Timeout where another has it."""

    def __init__(self, folder: Path, seconds_to_wait: float = 0) -> None:
        self.folder = folder
        self.name = folder.name
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", timeout=seconds_to_wait, thread_local=False)
        self._lock.acquire()
        self._turn = threading.Lock()
        self._lines = folder / "lines.jsonl"
        self._drop_torn_line()
        self.written = Written(**read_json(folder / "written.json"))

    @classmethod
    def new(cls) -> Journal:
        return cls(folder_of_journals() / uuid4().hex)

    @classmethod
    def of_run(cls, run_id: str) -> Journal | None:
        """The journal of a run that is to go on, by its own name or the store's id; None where there is none."""
        for folder in _folders():
            if run_id in (folder.name, read_json(folder / "written.json").get("run_id")):
                try:
                    return cls(folder, SECONDS_TO_WAIT_FOR_A_SWEEP)
                except Timeout:
                    return None
        return None

    def _drop_torn_line(self) -> None:
        """A process that was killed while it wrote leaves half a line."""
        content = self._lines.read_bytes() if self._lines.is_file() else b""
        if content and not content.endswith(b"\n"):
            os.truncate(self._lines, content.rfind(b"\n") + 1)

    def append(self, kind: str, durable: bool = False, **fields: Any) -> None:
        """Add one line; a durable one is on the drive when this returns."""
        text = json.dumps({"kind": kind, "time": now(), **fields}) + "\n"
        with self._turn, _writing(self._lines), self._lines.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def synchronise(self) -> None:
        if self._lines.is_file():
            with _writing(self._lines), self._lines.open("rb+") as file:
                os.fsync(file.fileno())

    def add_artifact(self, path: Path) -> None:
        """Copy a file, or the content of a folder under the folder's name."""
        files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
        for file in files:
            target = self.folder / "artifacts" / file.relative_to(path.parent)
            staging = self.folder / "staging"
            with _writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, staging)
                os.replace(staging, target)

    def add_text(self, name: str, text: str) -> None:
        target = self.folder / "artifacts" / name
        with _writing(target):
            target.parent.mkdir(exist_ok=True)
            write_synced(target, text.encode())

    def lines(self, offset: int = 0) -> Iterator[tuple[Line, int]]:
        """Each line from a byte on, and where the next one begins."""
        if not self._lines.is_file():
            return
        with self._lines.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield json.loads(line), offset

    def artifacts_to_write(self) -> list[tuple[Path, str, int]]:
        """(file, its path among the run's artifacts, its time in ns) of those that the store has not."""
        place = self.folder / "artifacts"
        found = [
            (path, path.relative_to(place).as_posix(), path.stat().st_mtime_ns)
            for path in sorted(place.rglob("*"))
            if path.is_file() and not path.name.endswith(".partial")
        ]
        return [(path, name, changed) for path, name, changed in found if self.written.artifacts.get(name) != changed]

    def mark(self, **changes: Any) -> None:
        """Keep what the store has now."""
        for name, value in changes.items():
            setattr(self.written, name, value)
        write_json(self.folder / "written.json", asdict(self.written))

    @property
    def is_written(self) -> bool:
        size = self._lines.stat().st_size if self._lines.is_file() else 0
        return self.written.offset >= size and not self.artifacts_to_write()

    @property
    def start(self) -> Line | None:
        return next((line for line, _ in self.lines()), None)

    @property
    def last_status(self) -> Line | None:
        """The newest line that says how the run stands; None for a run that has only begun."""
        found = None
        for line, _ in self.lines():
            found = line if line["kind"] == "status" else found
        return found

    def logged_steps(self) -> dict[str, int]:
        """The last step of every metric."""
        steps: dict[str, int] = {}
        for line, _ in self.lines():
            for key in line["values"] if line["kind"] == "metrics" else ():
                steps[key] = max(line["step"], steps.get(key, -1))
        return steps

    def last_time(self) -> int:
        return max((line["time"] for line, _ in self.lines()), default=now())

    def release(self) -> None:
        self._lock.release()

    def discard(self) -> None:
        """Remove what the store has whole."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A drive that is full or read-only, in a sentence."""
    try:
        yield
    except OSError as error:
        raise GlassboxError(
            f"{path} cannot be written ({error.strerror}): a run's metrics and files go there before they go to "
            "MLflow. Free space or make the folder writable; then the same command goes on from the last checkpoint."
        ) from error


def waiting_journals(store: str) -> Iterator[Journal]:
    """Each journal for this store that no process holds and that it has not whole; the caller releases it.

    Those that are whole and of a run that nobody has gone on with for a month are removed.
    """
    for folder in _folders():
        try:
            journal = Journal(folder)
        except Timeout:
            continue
        start = journal.start
        if start is None or start["store"] != store:
            journal.release()
        elif journal.is_written and journal.last_status:
            old = now() - journal.last_time() > SECONDS_TO_KEEP * WHOLE_SECOND
            journal.discard() if old or journal.last_status.get("final") else journal.release()
        else:
            yield journal


def _folders() -> list[Path]:
    place = folder_of_journals()
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
