"""A worker of this machine: books its slot, imports once, and runs one trial after another as it is told.

It reads JSON lines from its standard input and answers with JSON lines on what was its standard output; what trials
print goes to a log of their own. Where the input ends, whoever gave the orders has stopped or died: the trial under way
writes a checkpoint, and the worker ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS_BETWEEN_TRIES = 0.5
SECONDS_BETWEEN_REPORTS = 0.25


class Orders:
    """Both directions of the connection to who gave the orders."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._writing = threading.Lock()
        self._orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.ended = self._idle = False
        write_to(os.devnull)
        threading.Thread(target=self._read, args=(os.fdopen(os.dup(0)),), daemon=True).start()

    def _read(self, lines: Any) -> None:
        for line in lines:
            self._orders.put(json.loads(line))
        self.ended = True
        self._orders.put(None)
        if not self._idle:
            signal.raise_signal(signal.SIGTERM)

    def next(self) -> dict[str, Any] | None:
        """The next order; None at the end, which interrupts what is under way but not a worker that waits here."""
        self._idle = True
        order = self._orders.get()
        self._idle = order is None
        return None if self.ended else order

    def tell(self, event: str, **values: Any) -> None:
        with self._writing:
            try:
                self._out.write(json.dumps({"event": event, **values}) + "\n")
                self._out.flush()
            except OSError:
                pass  # nobody listens; the end of the input says so too

    def keep_alive(self, seconds: float) -> None:
        """Give a sign of life every so often, from a thread: only a process that is stopped or hung falls silent."""

        def repeat() -> None:
            while not self.ended:
                self.tell("alive")
                time.sleep(seconds)

        threading.Thread(target=repeat, daemon=True).start()


def write_to(path: str) -> None:
    """Send what this process and its libraries print to a file, from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)


def leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches whoever gives the orders, too
    signal.signal(signal.SIGTERM, leave)
    orders = Orders()
    start = orders.next()
    if start is None:
        return
    orders.keep_alive(start["silence_seconds"] / 4)
    write_to(start["log"])
    _book(orders, start)

    from glassbox.command import loading

    with loading():
        from glassbox.config.settings import Settings
        from glassbox.grid.attempt import attempt
        from glassbox.grid.cells import Cell
        from glassbox.tracking import readable_client
        from glassbox.training import trial  # noqa: F401

        readable_client()

    settings = Settings.model_validate(start["settings"])
    parent_run = os.environ.get("MLFLOW_RUN_ID")
    orders.tell("ready")
    while (order := orders.next()) is not None:
        write_to(order["log"])
        if parent_run is not None:
            os.environ["MLFLOW_RUN_ID"] = parent_run
        began = time.monotonic()
        outcome = attempt(settings, Cell(**order["cell"]), start["params"], Reporter(orders, began))
        orders.tell("ended", status=outcome.status, reason=outcome.reason, seconds=time.monotonic() - began)
        if outcome.status == "failed":
            break  # what went wrong may have spoilt this process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing is under way that it could stop


class Reporter:
    """Passes on where a trial stands, a few times a second at most; the first report says how long it took to start."""

    def __init__(self, orders: Orders, began: float) -> None:
        self._orders, self._began, self._next = orders, began, 0.0

    def __call__(self, step: int, steps: int, loss: float | None, samples_per_second: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            after = now - self._began
            self._orders.tell("step", step=step, steps=steps, loss=loss, rate=samples_per_second, after=after)
            self._next = now + SECONDS_BETWEEN_REPORTS


def _book(orders: Orders, start: dict[str, Any]) -> None:
    """Wait until the slot is free; it stays booked until this process is gone."""
    from glassbox.grid.locks import Booking

    booking, said = Booking(Path(start["folder"]), start["resources"]), ""
    while holder := booking.take():
        if holder != said:
            orders.tell("waiting", why=holder)
            said = holder
        time.sleep(SECONDS_BETWEEN_TRIES)
    globals()["_booking"] = booking  # never let go of before the process ends


if __name__ == "__main__":
    main()
