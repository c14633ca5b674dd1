"""The thread that brings a trial's journal to the store while the trial trains."""

from __future__ import annotations

import sys
import threading
import time

from glassbox.config.settings import StorageSettings
from glassbox.tracking.faults import reason
from glassbox.tracking.journal import Journal
from glassbox.tracking.store import ensure_store, open_client, store_name
from glassbox.tracking.writing import write_journal, write_waiting

SECONDS_BETWEEN_WRITES = 5.0
SECONDS_BETWEEN_TRIES = 15.0  # of a store that is away; the first ones come sooner
SECONDS_TO_WAIT = 2.0  # for a store that is away or slow to begin a run
SECONDS_TO_DRAIN = 30.0  # at the end of a run, as long as the store takes what is written


class Writer(threading.Thread):
    """Writes every few seconds; says once that the store is away and once that it is back."""

    def __init__(self, journal: Journal, storage: StorageSettings, run_name: str) -> None:
        super().__init__(name=f"writer of {run_name}", daemon=True)
        self._journal, self._storage, self._run_name = journal, storage, run_name
        self._wake, self._stop_asked, self._tried = threading.Event(), threading.Event(), threading.Event()
        self._away_since: float | None = None
        self._swept = False

    def run(self) -> None:
        pause = 1.0
        while not self._stop_asked.is_set():
            self._wake.clear()
            try:
                ensure_store(self._storage)
                write_journal(open_client(), self._journal, self._storage)
            except Exception as error:  # whatever a store may raise, the trial goes on
                self._tell_away(error)
                pause = min(2 * pause, SECONDS_BETWEEN_TRIES)
            else:
                self._tell_back()
                pause = 1.0
                self._sweep()
            self._tried.set()
            self._wake.wait(pause if self._away_since else SECONDS_BETWEEN_WRITES)
        self._journal.release()

    def _sweep(self) -> None:
        """What other runs could not write goes to the store that answers now, once and after each time away."""
        if not self._swept and not self._stop_asked.is_set():
            self._swept = True
            try:
                write_waiting(self._storage, lambda: not self._wake.is_set())
            except Exception:  # the journals stay, and the next command tries again
                self._swept = False

    def wait_for_the_run(self) -> None:
        """Until the store was tried once, for a short time at most."""
        self._tried.wait(SECONDS_TO_WAIT)

    def drain(self) -> bool:
        """Let the store have what is written so far and end the thread; says whether the store has all of it.

        A store that is away is waited for SECONDS_TO_WAIT, one that takes what comes SECONDS_TO_DRAIN.
        """
        self._wake.set()
        started = time.monotonic()
        while not self._journal.is_written:
            limit = SECONDS_TO_DRAIN if self._away_since is None else SECONDS_TO_WAIT
            if time.monotonic() - started > limit or not self.is_alive():
                break
            time.sleep(0.02)
        complete = self._journal.is_written
        self._stop_asked.set()
        self._wake.set()
        if complete:
            self.join(SECONDS_TO_WAIT)
        return complete

    def _tell_away(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._swept = False
            self._say(
                f"MLflow's store {store_name()} is away ({reason(error)}). The trial goes on; what it logs waits in "
                f"{self._journal.folder} and is written when the store is back."
            )

    def _tell_back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._away_since = None
            self._say(f"MLflow's store {store_name()} is back after {seconds:.0f} s and has all that was logged.")

    def _say(self, text: str) -> None:
        print(f"{self._run_name}: {text}", file=sys.stderr, flush=True)
