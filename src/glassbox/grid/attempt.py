"""One attempt at one cell, in the process that trains: under the lock of the trial, after a look at what is kept."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glassbox.command import launch
from glassbox.config.settings import Settings
from glassbox.config.storage import scratch_folder
from glassbox.errors import GlassboxError
from glassbox.files import SOURCE, drive_fault, read_json
from glassbox.grid import kept
from glassbox.grid.cells import Cell, is_current
from glassbox.grid.locks import Lease, is_valid
from glassbox.grid.parents import follow

LEASE = "GLASSBOX_LEASE"
WORKER = "GLASSBOX_WORKER"
CHANGED = (
    "the trial that was trained has another key than the one that was due: code, settings or a model's files changed "
    "while the study ran. Run the same command again"
)
Status = Literal["finished", "diverged", "kept", "busy", "refused", "failed", "stopped"]
Step = Callable[[int, int, float | None, float], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell. `reason` says why, as far as there is a why; `seconds` are those of the whole attempt."""

    status: Status
    reason: str = ""
    seconds: float = 0.0
    tries: int = 1
    log: str = ""

    @property
    def is_there(self) -> bool:
        """Whether runs/ holds the trial now."""
        return self.status in ("finished", "diverged", "kept")


class Watch:
    """What a trial tells while it trains, and what it asks right before it publishes."""

    def __init__(self, token: str | None, step: Step | None = None) -> None:
        self._token, self._step = token, step

    def begins(self, step: int, steps: int) -> None:
        self.step(step, steps, None, 0.0)

    def step(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        if self._step is not None:
            self._step(step, steps, loss, samples_per_second)

    def may_publish(self) -> bool:
        """Whether no other process has been given this trial meanwhile."""
        return self._token is None or is_valid(self._token)

    def during(self, phase: str, units: int) -> AbstractContextManager[None]:
        return nullcontext()


def log_of(settings: Settings, cell: Cell) -> Path:
    """Where what a trial and its libraries print is kept."""
    folder = scratch_folder(settings.storage).resolve() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{cell.group}-{cell.seed}-{cell.key[:8]}.log"


def adopt_kept(settings: Settings, cell: Cell) -> str:
    """Put a cell's kept trial into runs/, in a process that need not be able to train; returns a sentence, or nothing
    where it must be trained or another process is at it."""
    lease = Lease(scratch_folder(settings.storage), cell.key)
    if not kept.has(cell, settings) or lease.take():
        return ""
    try:
        return kept.adopt(cell, settings)
    finally:
        lease.release()


def attempt(settings: Settings, cell: Cell, params: str, step: Step | None = None) -> Outcome:
    """Train the trial of a cell, or find it kept; raises SystemExit where a signal stopped it at a checkpoint."""
    lease = Lease(scratch_folder(settings.storage), cell.key)
    owner = lease.take()
    if owner:
        return Outcome("busy", f"{owner} trains it")
    try:
        if is_current(cell):
            return Outcome("kept", "trained meanwhile")
        if how := kept.adopt(cell, settings):
            return Outcome("kept", how)
        status = _train(settings, cell, params, Watch(lease.token, step), lease.token)
        if not is_current(cell):
            if is_valid(lease.token):
                return Outcome("refused", CHANGED)
            return Outcome("busy", "another process has taken it over")
        kept.keep(cell.manifest, settings)
        return Outcome(status)
    except GlassboxError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        if sentence := drive_fault(error):
            return Outcome("refused", sentence)
        traceback.print_exc()
        return Outcome("failed", f"{type(error).__name__}: {error}"[:500])
    finally:
        lease.release()


def _train(settings: Settings, cell: Cell, params: str, watch: Watch, token: str) -> Literal["finished", "diverged"]:
    if settings.train.processes == 1:
        return train_here(settings, cell.group, cell.seed, watch)
    os.environ |= {LEASE: token, WORKER: str(os.getpid())}
    sys.argv = [str(SOURCE.parent / "train.py"), "--group", cell.group, "--seed", str(cell.seed), "--params", params]
    if launch(settings.train.processes, settings.train.parallelism):
        raise RuntimeError(f"one of its {settings.train.processes} processes failed; its log says why")
    return read_json(cell.manifest)["status"]


def train_here(settings: Settings, group: str, seed: int, watch: Watch) -> Literal["finished", "diverged"]:
    from glassbox.training.trial import run_trial

    return run_trial(settings, group, seed, watch)  # type: ignore[return-value]


def train_as_one_of_several(settings: Settings, group: str, seed: int) -> None:
    """What every process of a trial that `_train` launched calls; it ends where the worker that launched it does."""
    if WORKER in os.environ:
        follow(int(os.environ[WORKER]))
    train_here(settings, group, seed, Watch(os.environ.get(LEASE)))
