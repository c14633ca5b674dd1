"""Measuring several ways of doing the same work, side by side: A, B, A, B, ... in one process after a warm-up."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BENCHMARKS = Path(__file__).resolve().parents[1]
ROUNDS = 5
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Times:
    """Seconds of each round, on the wall and on the processor (all threads)."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """Median, smallest and largest of the rounds' ratios of wall time; median of those of processor time."""

    value: float
    low: float
    high: float
    cpu: float


def side_by_side(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS, warm_ups: int = 1, repeat: int = 1
) -> dict[str, Times]:
    """Times of each contestant's work, `repeat` times a round; the order within a round is turned every round."""
    for _ in range(warm_ups):
        for work in contestants.values():
            work()
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            gc.collect()
            started, used = time.perf_counter(), time.process_time()
            for _ in range(repeat):
                contestants[name]()
            cpu[name].append(time.process_time() - used)
            wall[name].append(time.perf_counter() - started)
    return {name: Times(tuple(wall[name]), tuple(cpu[name])) for name in contestants}


def ratio(ours: Times, theirs: Times) -> Ratio:
    """Ours over theirs, round by round: slow moments of the machine meet both."""
    walls = [mine / other for mine, other in zip(ours.wall, theirs.wall, strict=True)]
    cpus = [mine / other for mine, other in zip(ours.cpu, theirs.cpu, strict=True)]
    return Ratio(statistics.median(walls), min(walls), max(walls), statistics.median(cpus))


def peak_bytes(function: str, **arguments: Any) -> int:
    """Peak resident memory of `function` ("suite.module:name"), called by a fresh process, over what it began with.

    The function gets `arguments` (anything that JSON holds), prepares, and returns the work to be measured, so that
    imports and inputs do not count. The process uses as many threads as this one. Linux only. Raises RuntimeError, with
    what the process said, where it fails.
    """
    asked = [function, str(torch.get_num_threads()), json.dumps(arguments)]
    command = [sys.executable, "-m", "suite.measuring", *asked]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The memory of {function} could not be measured in {BENCHMARKS}:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _main() -> None:
    function, threads, arguments = sys.argv[1:]
    torch.set_num_threads(int(threads))
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what preparing freed must not hide what the work takes
    CLEAR.write_text("5")
    before = _status("VmRSS")
    work()
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    sys.path.insert(0, str(BENCHMARKS.parent / "src"))
    _main()
