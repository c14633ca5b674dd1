"""What a person sees of a study that trains: on a terminal one line for the study and one for each running trial,
elsewhere one line for each trial that ends."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassbox.grid.attempt import Outcome
from glassbox.grid.cells import Cell
from glassbox.report.notation import in_time

UNEVEN_STEPS = 5


@dataclass
class Running:
    """A trial under way, as its last report has it."""

    since: float
    step: int = 0
    steps: int = 0
    loss: float | None = None
    rate: float = 0.0
    start_up: float | None = None
    even: tuple[float, int] | None = None

    def seconds(self, now: float) -> float | None:
        """Of the whole trial, by the pace of its even steps: the first ones also measure gradients and warm up."""
        if self.even is None or self.step <= self.even[1]:
            return None
        began, first = self.even
        return began - self.since + (now - began) / (self.step - first) * (self.steps - first)

    @property
    def line(self) -> str:
        if not self.step:
            return "starts"
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        return f"step {self.step} of {self.steps}{loss}, {self.rate:.1f} samples/s"


class Board:
    """Counts what is done and shows it. `known`: seconds of a trial by group, as far as earlier trials tell."""

    def __init__(self, due: int, planned: int, workers: int, known: Mapping[str, float]) -> None:
        self._due, self._planned, self._workers = due, planned, workers
        self._known = dict(known)
        self._running: dict[Cell, Running] = {}
        self._taken: dict[str, list[float]] = {}
        self._start_ups: list[float] = []
        self._waiting: list[Cell] = []
        self._ended: list[Outcome] = []
        self._since = time.monotonic()
        self._live: Any = None
        self._estimated = False

    def __enter__(self) -> Board:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(get_renderable=self._picture, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def announce(self, waiting: list[Cell]) -> None:
        """The line before the first trial."""
        self._waiting = list(waiting)
        left = self._seconds_left()
        expected = "its time is told after the first steps" if left is None else f"about {in_time(left)}"
        self._estimated = left is not None
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        self.say(f"{self._due} trials due of {self._planned}, {expected} with {workers}; Ctrl-C loses nothing.")

    def started(self, cell: Cell) -> None:
        self._running[cell] = Running(time.monotonic())
        self._waiting = [each for each in self._waiting if each != cell]

    def step(self, cell: Cell, step: int, steps: int, loss: float | None, rate: float, after: float) -> None:
        running = self._running.get(cell)
        if running is None:
            return
        running.step, running.steps, running.loss, running.rate = step, steps, loss, rate
        if running.start_up is None:
            running.start_up = after
        if running.even is None and step > UNEVEN_STEPS:
            running.even = (time.monotonic(), step)
        if not self._estimated and step * 20 >= steps and (left := self._seconds_left()) is not None:
            self._estimated = True
            self.say(f"About {in_time(left)}, by the first steps of {cell.name}.")

    def again(self, cell: Cell, why: str) -> None:
        """The trial goes back to those that wait."""
        self._running.pop(cell, None)
        self._waiting.append(cell)
        self.say(f"{cell.name}: {why}")

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        running = self._running.pop(cell, None)
        self._waiting = [each for each in self._waiting if each != cell]
        self._ended.append(outcome)
        if outcome.status in ("finished", "diverged") and running is not None:
            self._taken.setdefault(cell.group, []).append(outcome.seconds)
            if running.start_up is not None:
                self._start_ups.append(running.start_up)
        took = f" in {in_time(outcome.seconds)}" if outcome.status == "finished" else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        self.say(f"{cell.name} {outcome.status}{took}{reason} ({len(self._ended)} of {self._due}{self._left()})")

    def under_way(self) -> list[str]:
        """The trials that have trained and not ended, with the step that they have come to."""
        running = [(cell, each) for cell, each in self._running.items() if each.step]
        return [f"{cell.name} (step {each.step} of {each.steps})" for cell, each in running]

    def conclude(self) -> None:
        """What was measured."""
        taken = [seconds for each in self._taken.values() for seconds in each]
        if not taken:
            return
        starts = (
            f", {statistics.median(self._start_ups):.1f} s of them before the first step" if self._start_ups else ""
        )
        self.say(
            f"{len(self._ended)} trials in {in_time(time.monotonic() - self._since)} with {self._workers} "
            f"{'worker' if self._workers == 1 else 'workers'}: {statistics.median(taken):.1f} s for a trial{starts}."
        )

    def _left(self) -> str:
        left = self._seconds_left()
        return "" if not left else f", about {in_time(left)} left"

    def _seconds_left(self) -> float | None:
        """By what trials of each group took, or by the pace of those that run; None where neither is known."""
        now = time.monotonic()
        known = self._known | {group: statistics.median(each) for group, each in self._taken.items()}
        paces = [pace for running in self._running.values() if (pace := running.seconds(now)) is not None]
        usual = statistics.fmean([*known.values()] or paces or [0.0])
        if not usual:
            return None
        left = sum(known.get(cell.group, usual) for cell in self._waiting)
        left += sum(
            max(0.0, known.get(cell.group, usual) - (now - running.since)) for cell, running in self._running.items()
        )
        return left / self._workers

    def _picture(self) -> Any:
        from rich.text import Text

        failed = sum(not outcome.is_there for outcome in self._ended)
        line = f"{len(self._ended) - failed} of {self._due} done, {len(self._running)} running, {failed} failed"
        lines = [line + self._left()]
        lines += [f"  {cell.name:<24} {running.line}" for cell, running in self._running.items()]
        return Text("\n".join(lines))
