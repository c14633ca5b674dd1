"""The engine of one machine: workers that are owned one by one, so that one that is killed takes nothing with it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from glassbox.command import Interruption
from glassbox.config.settings import Settings
from glassbox.config.storage import scratch_folder
from glassbox.files import SOURCE
from glassbox.grid.attempt import Outcome, log_of
from glassbox.grid.board import Board
from glassbox.grid.cells import Cell
from glassbox.grid.locks import Slot, slots_of

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_UNTIL_ASKED_AGAIN = 2.0
STARTS_WITHOUT_A_TRIAL = 3


@dataclass(eq=False)
class Worker:
    """One process in one slot, the cell it is at, and when it last gave a sign of life."""

    slot: Slot
    process: subprocess.Popen[str]
    log: Path
    heard: float = field(default_factory=time.monotonic)
    cell: Cell | None = None
    ready: bool = False
    family: list[psutil.Process] = field(default_factory=list)

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone, which its reader will say

    def dismiss(self) -> None:
        """The end of its orders: it writes a checkpoint where a trial is under way, and ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def kill(self) -> None:
        """It and the processes that it launched, at once."""
        self.process.kill()
        for process in self.family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(self.family, timeout=10)


class LocalEngine:
    """Runs cells on the slots of this machine; `run` returns what became of each."""

    def __init__(self, settings: Settings, params: str) -> None:
        self._settings, self._params, self._slots = settings, params, slots_of(settings)
        self.places = len(self._slots)
        self._events: queue.Queue[tuple[Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[Worker] = []
        self._cells: deque[Cell] = deque()
        self._later: list[tuple[float, Cell]] = []
        self._outcomes: dict[Cell, Outcome] = {}
        self._tries: Counter[Cell] = Counter()
        self._idle_starts: Counter[Slot] = Counter()
        self._stopping = False
        self._said: set[str] = set()

    def run(self, cells: Sequence[Cell], board: Board, interruption: Interruption) -> dict[Cell, Outcome]:
        self._board, self._interruption = board, interruption
        self._cells.extend(cells)
        looked = time.monotonic()
        try:
            for slot in self._slots[: len(cells)]:
                self._start(slot)
            while self._workers:
                try:
                    worker, event = self._events.get(timeout=SECONDS_BETWEEN_LOOKS)
                except queue.Empty:
                    pass
                else:
                    self._stop_where_asked()  # first: a signal to all of the group may have ended the worker
                    self._handle(worker, event)
                now = time.monotonic()
                self._look(now, late=now - looked > self._settings.engine.silence_seconds / 4)
                looked = now
        finally:
            for worker in self._workers:
                worker.kill()
        for cell in [*self._cells, *(cell for _, cell in self._later)]:
            self._outcomes.setdefault(cell, Outcome("stopped" if self._stopping else "failed", self._no_worker()))
        return self._outcomes

    def close(self) -> None:
        """Nothing outlives `run`."""

    def _start(self, slot: Slot) -> None:
        folder = scratch_folder(self._settings.storage)
        log = folder / "logs" / f"worker-{slot.resources[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(self._settings.train.threads)
        path = os.pathsep.join(filter(None, (str(SOURCE.parent), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "glassbox.grid.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": path} | slot.environment,
                text=True,
                encoding="utf-8",
            )
        worker = Worker(slot, process, log)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        worker.tell(
            {
                "settings": self._settings.model_dump(mode="json"),
                "params": self._params,
                "silence_seconds": self._settings.engine.silence_seconds,
                "folder": str(folder.resolve()),
                "resources": slot.resources,
                "log": str(log.resolve()),
            }
        )

    def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._events.put((worker, json.loads(line)))
        worker.process.wait()
        self._events.put((worker, None))

    def _handle(self, worker: Worker, event: dict[str, Any] | None) -> None:
        worker.heard = time.monotonic()
        if event is None:
            self._gone(worker)
            return
        kind = event.pop("event")
        if kind == "waiting":
            self._say_once(f"Waiting for a free place on this machine: {event['why']}.")
        elif kind == "ready":
            worker.ready = True
            self._give(worker)
        elif kind == "step" and worker.cell is not None:
            self._board.step(worker.cell, **event)
        elif kind == "ended":
            self._ended(worker, event)

    def _give(self, worker: Worker) -> None:
        """The next cell, or the end of its work where none is left for it."""
        if self._stopping or not (self._cells or self._later):
            worker.dismiss()
        elif self._cells:
            cell = worker.cell = self._cells.popleft()
            self._tries[cell] += 1
            self._idle_starts[worker.slot] = 0
            self._board.started(cell)
            worker.tell({"cell": asdict(cell), "log": str(log_of(self._settings, cell))})

    def _ended(self, worker: Worker, event: dict[str, Any]) -> None:
        cell, worker.cell = worker.cell, None
        assert cell is not None
        outcome = Outcome(
            event["status"], event["reason"], event["seconds"], self._tries[cell], str(log_of(self._settings, cell))
        )
        if outcome.status == "busy":
            self._tries[cell] -= 1
            self._later.append((time.monotonic() + SECONDS_UNTIL_ASKED_AGAIN, cell))
            self._say_once(f"{cell.name} waits: {outcome.reason}.")
        elif outcome.status == "failed":
            self._retry(cell, outcome)  # the worker ends by itself, and another takes its place
            return
        else:
            self._outcomes[cell] = outcome
            self._board.ended(cell, outcome)
        self._give(worker)

    def _retry(self, cell: Cell, outcome: Outcome) -> None:
        if self._tries[cell] > self._settings.engine.retries:
            self._outcomes[cell] = outcome
            self._board.ended(cell, outcome)
        else:
            self._board.again(cell, f"{outcome.reason}; it starts again from its last checkpoint")
            self._cells.appendleft(cell)

    def _gone(self, worker: Worker) -> None:
        """A worker's process has ended: its slot is free, and what it was at begins again elsewhere."""
        self._workers.remove(worker)
        worker.dismiss()
        worker.kill()
        cell = worker.cell
        if cell is not None and self._stopping:
            self._outcomes[cell] = Outcome("stopped", _how(worker.process.returncode))
        elif cell is not None:
            reason = f"its worker {_how(worker.process.returncode)}"
            self._retry(cell, Outcome("failed", reason, tries=self._tries[cell], log=str(log_of(self._settings, cell))))
        elif worker.process.returncode:
            self._idle_starts[worker.slot] += 1
        is_useful = len(self._workers) < len(self._cells) + len(self._later) + sum(
            other.cell is not None for other in self._workers
        )
        if not self._stopping and is_useful and self._idle_starts[worker.slot] < STARTS_WITHOUT_A_TRIAL:
            self._start(worker.slot)

    def _look(self, now: float, late: bool) -> None:
        """What no event tells: signals, silent workers, cells whose time has come, workers that nothing is left for."""
        self._stop_where_asked()
        due = [cell for at, cell in self._later if at <= now]
        self._later = [(at, cell) for at, cell in self._later if at > now]
        self._cells.extend(due)
        for worker in list(self._workers):
            if late:
                worker.heard = now  # this process itself slept, together with its workers
            elif now - worker.heard > self._settings.engine.silence_seconds:
                self._board.say(f"A worker gave no sign of life for {now - worker.heard:.0f} s and is killed.")
                worker.kill()
                worker.heard = now
            if worker.cell is None and worker.ready:
                self._give(worker)
            elif worker.cell is not None and self._settings.train.processes > 1:
                worker.family = _family(worker.process.pid) or worker.family
        if not self._cells and not self._later and not any(worker.cell for worker in self._workers):
            for worker in self._workers:
                worker.dismiss()

    def _stop_where_asked(self) -> None:
        if self._interruption.received is not None and not self._stopping:
            self._stopping = True
            if self._board.under_way():
                self._board.say("Stopping: running trials write checkpoints. Once more stops at once, without them.")
            for worker in self._workers:
                worker.dismiss()
        if self._interruption.again:
            for worker in self._workers:
                worker.kill()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._board.say(text)

    def _no_worker(self) -> str:
        logs = scratch_folder(self._settings.storage) / "logs"
        return "" if self._stopping else f"no worker could start; {logs}/worker-*.log says why"


def _family(number: int) -> list[psutil.Process]:
    try:
        return psutil.Process(number).children(recursive=True)
    except psutil.Error:
        return []


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}" + (" (out of memory, perhaps)" if code == -9 else "")
    return f"ended with code {code}"
