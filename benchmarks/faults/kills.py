"""SIGKILL: of the whole process group at random moments, and of a stage at named points between two writes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from faults.counts import Injection
from faults.study import OUTPUTS, Study, kill_group, resumed

DRIVER = Path(__file__).with_name("points.py")
KILLS_IN_A_ROW = 5
LONGEST_WAIT = 14.0


@dataclass(frozen=True)
class Point:
    """Where to kill. target: a stage, or the cell of a trial. stage: is forgotten before, and run again after."""

    name: str
    when: str
    pattern: str
    target: str
    stage: str


POINTS = (
    Point("tasks written, before the rename", "before-rename", "*/data/tasks", "prepare", "prepare"),
    Point("tasks renamed, before their report", "after-rename", "*/data/tasks", "prepare", "prepare"),
    Point("answers kept, before data/answers", "after-rename", "*/answers/*/part-00000.parquet", "answers", "answers"),
    Point("answers, before the rename", "before-rename", "*/data/answers/answers.parquet", "answers", "answers"),
    Point("answers, before their manifest", "before-rename", "*/data/answers/manifest.json", "answers", "answers"),
    Point("part written, before the rename", "before-rename", "*/part-00000.parquet", "snapshot", "snapshot"),
    Point("part renamed, before its seal", "before-rename", "*/part-00000.parquet.json", "snapshot", "snapshot"),
    Point("part sealed", "after-rename", "*/part-00000.parquet.json", "snapshot", "snapshot"),
    Point("snapshot, before its manifest", "before-rename", "*/finished/manifest.json", "snapshot", "snapshot"),
    Point("snapshot beside its place", "after-rename", "*/.snapshot.partial", "snapshot", "snapshot"),
    Point("snapshot, before the last rename", "before-rename", "*/data/snapshot", "snapshot", "snapshot"),
    Point("snapshot in its place", "after-rename", "*/data/snapshot", "snapshot", "snapshot"),
    Point("gate's report, before the rename", "before-rename", "*/reports/snapshot.json", "verify", "verify"),
    Point("gate's run in the store, before its mark", "before-rename", "*/written.json", "verify", "verify"),
    Point("checkpoint written, before the rename", "before-rename", "*/step-*", "combined/0", "train"),
    Point("checkpoint, before the store has its run", "after-rename", "*/step-*", "combined/0", "train"),
    Point("run in the store, before its mark", "before-rename", "*/written.json", "combined/0", "train"),
    Point("run in the store and marked", "after-rename", "*/written.json", "combined/0", "train"),
    Point("inside MLflow's copy of an artifact", "in-artifact", "*items.parquet", "combined/0", "train"),
    Point("inside MLflow's copy of the manifest", "in-artifact", "*0.json", "combined/0", "train"),
    Point("trial's folder, before the rename", "before-rename", "*/runs/combined/0", "combined/0", "train"),
    Point("between folder and manifest", "after-rename", "*/runs/combined/0", "combined/0", "train"),
    Point("manifest written, before the rename", "before-rename", "*/runs/combined/0.json", "combined/0", "train"),
    Point("trial published, before it is kept", "after-rename", "*/runs/combined/0.json", "combined/0", "train"),
    Point("trial kept, before the rename", "before-rename", "*/.glassbox/trials/*", "combined/0", "train"),
    Point("results.json, before the rename", "before-rename", "*/reports/results.json", "compare", "compare"),
    Point("results.json, before the page", "after-rename", "*/reports/results.json", "compare", "compare"),
    Point("page written, before the rename", "before-rename", "*/reports/report.html", "compare", "compare"),
    Point("page published, before the comparison's run", "after-rename", "*/reports/report.html", "compare", "compare"),
)


def kills(base: Study, work: Path, count: int, seed: int) -> Iterator[Injection]:
    """`count` kills at random moments of `dvc repro`, a few in a row before one that may end.

    Before them a random stage is forgotten with all later ones, so that kills meet each stage about as often.
    """
    moments, undisturbed = random.Random(seed), base.digests()
    left = count
    study = base.copy(work / "kills")
    while left:
        study.forget(*list(OUTPUTS)[moments.randrange(len(OUTPUTS)) :])
        done, said = 0, []
        while done < min(left, KILLS_IN_A_ROW):
            process = study.start("dvc", "repro")
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=moments.uniform(0.5, LONGEST_WAIT))
            if process.returncode is not None:
                break
            kill_group(process)
            process.communicate()
            done += 1
            said.append(study.torn())
        if done:
            yield from [resumed(study, undisturbed, "kill", "at a random moment", said)] * done
        left -= done


def named_points(base: Study, work: Path, count: int, _: int) -> Iterator[Injection]:
    """One kill at each named point, `count` times over."""
    undisturbed = base.digests()
    for _ in range(count):
        for point in POINTS:
            study = base.copy(work / "points")
            study.forget(point.stage)
            target = point.target if "/" in point.target else f"src/{point.target}.py"
            killed = study.run(sys.executable, str(DRIVER), point.when, point.pattern, target)
            if killed.code != -9:
                yield Injection("kill", _case(point), "lost", f"the point was not reached: {killed.said[-300:]}")
                continue
            yield resumed(study, undisturbed, "kill", _case(point), [study.torn()], point.stage)


def _case(point: Point) -> str:
    return f"{point.stage}: {point.name}"
