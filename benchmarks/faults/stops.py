"""Signals other than SIGKILL, and DVC killed alone: nothing goes on writing, and the same command ends the study."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

import psutil

from faults.counts import Injection
from faults.kills import DRIVER
from faults.study import OVERRIDES, Study, kill_group, resumed

SECONDS_TO_END = 60
SILENCE = "engine.silence_seconds=6"


def stops(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """Each of them, the first `count`."""
    for case, fault in list(FAULTS.items())[:count]:
        yield fault(base, work, case)


def _training(base: Study, work: Path, *command: str) -> tuple[Study, Popen[str]]:
    """A study whose trials are under way."""
    study = base.copy(work / "stops")
    study.forget("train")
    process = study.start(*command)
    while not list((study.folder / ".glassbox/running").glob("*")) and process.poll() is None:
        time.sleep(0.02)
    return study, process


def _terminated_twice(base: Study, work: Path, case: str) -> Injection:
    study, process = _training(base, work, sys.executable, "src/train.py")
    process.terminate()
    time.sleep(0.5)
    process.terminate()
    return _ended(study, base, process, case)


def _group_terminated(base: Study, work: Path, case: str) -> Injection:
    """As a cluster's queue does: a signal to every process of the job."""
    study, process = _training(base, work, "dvc", "repro")
    kill_group(process, signal.SIGTERM)
    return _ended(study, base, process, case)


def _terminated_in_a_checkpoint(base: Study, work: Path, case: str) -> Injection:
    study = base.copy(work / "stops")
    study.forget("train")
    done = study.run(sys.executable, str(DRIVER), "term-before-rename", "*/step-*", "combined/0")
    if done.code != 128 + signal.SIGTERM:
        return Injection("signal", case, "lost", f"it ended with {done.code}: {done.said[-300:]}")
    return resumed(study, base.digests(), "signal", case)


def _worker_stopped(base: Study, work: Path, case: str) -> Injection:
    study = base.copy(work / "stops")
    study.forget("train")
    study.script("params", *OVERRIDES, SILENCE)
    process = study.start("dvc", "repro")
    owner = None
    while owner is None and process.poll() is None:
        time.sleep(0.02)
        owner = next((study.folder / ".glassbox/locks").glob("?" * 64 + ".owner"), None)
    with suppress(psutil.Error, AttributeError, ValueError):
        psutil.Process(int(owner.read_text(encoding="utf-8"))).suspend()  # type: ignore[union-attr]
    said, _ = process.communicate()
    if process.returncode or "gave no sign of life" not in said:
        return Injection("signal", case, "lost", said[-400:])
    return resumed(study, base.digests(), "signal", case)


def _dvc_killed_alone(base: Study, work: Path, case: str) -> Injection:
    """What DVC started must end by itself, and nothing be written after that."""
    study, process = _training(base, work, "dvc", "repro")
    below = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=SECONDS_TO_END)
    if alive:
        return Injection("signal", case, "lost", f"{len(alive)} processes went on for {SECONDS_TO_END} s")
    process.communicate()
    return resumed(study, base.digests(), "signal", case, [study.torn()])


def _ended(study: Study, base: Study, process: Popen[str], case: str) -> Injection:
    process.communicate(timeout=SECONDS_TO_END)
    left = [each for each in psutil.process_iter(["cmdline"]) if _works_in(each, study.folder)]
    if left:
        return Injection("signal", case, "lost", f"{len(left)} processes went on")
    return resumed(study, base.digests(), "signal", case, [study.torn()])


def _works_in(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error, OSError):
        return Path(process.cwd()).is_relative_to(folder) and process.pid != os.getpid()
    return False


FAULTS: dict[str, Callable[[Study, Path, str], Injection]] = {
    "SIGTERM twice": _terminated_twice,
    "SIGTERM to all processes": _group_terminated,
    "SIGTERM inside a checkpoint": _terminated_in_a_checkpoint,
    "SIGSTOP of a worker": _worker_stopped,
    "DVC killed alone": _dvc_killed_alone,
}
