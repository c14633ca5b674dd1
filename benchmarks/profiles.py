"""Where the time of a trial goes: start-up, each part of training, evaluation, in seconds.

    python benchmarks/profiles.py [--groups sft combined] [--seed 41]

Runs each group's trial as a process of its own in a temporary copy of the project and prints one table, Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "benchmarks")]

BEGAN = "GLASSBOX_PROFILE_BEGAN"


class Stopwatch:
    """Seconds by part, each without the parts that are measured inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.open = ["other"]
        self.since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self.since
        self.since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def measured(*arguments: Any, **options: Any) -> Any:
            self.switch()
            self.open.append(part)
            try:
                return function(*arguments, **options)
            finally:
                self.switch()
                self.open.pop()

        return measured


def profile(group: str, seed: int) -> dict[str, float]:
    """One trial in this process, in the project that is the working directory."""
    sys.path.insert(0, str(Path("src").resolve()))
    from glassbox.command import loading

    with loading():
        from glassbox.config.settings import load_settings
        from glassbox.evaluation import evaluation
        from glassbox.tracking import readable_client
        from glassbox.training import setup as setups
        from glassbox.training import step, trial

        readable_client()
    imports, watch = time.time() - float(os.environ[BEGAN]), Stopwatch()

    parts = {
        (trial, "open_run"): "start-up: run in MLflow",
        (trial, "train"): "training: the loop itself",
        (trial, "update"): "training: the rest of a step",
        (trial, "audit"): "training: liveness audit",
        (trial, "validate"): "training: validation",
        (step, "clip"): "training: clipping",
        (trial, "record"): "training: logging",
        (trial, "save_checkpoint"): "training: checkpoints",
        (trial, "final_evaluation"): "test: choices and the rest",
        (trial, "publish"): "publishing",
        (evaluation, "generate_tokens"): "generation (validation and test)",
        (setups, "start_accelerator"): "start-up: Accelerate",
    }
    for (module, name), part in parts.items():
        setattr(module, name, watch.timed(part, getattr(module, name)))
    prepare = watch.timed("start-up: models, snapshot, schedule", trial.prepare)
    found = prepare(load_settings("params.yaml"), group, seed)
    found.trainee.forward = watch.timed("training: forward", found.trainee.forward)
    found.accelerator.backward = watch.timed("training: backward", found.accelerator.backward)
    found.optimizer.step = watch.timed("training: optimizer", found.optimizer.step)
    batches = found.source.batches

    def waiting(*arguments: Any) -> Any:
        taken = batches(*arguments)
        take = watch.timed("training: waiting for data", lambda: next(taken, None))
        while (batch := take()) is not None:
            yield batch

    found.source.batches = waiting
    trial.run(found, trial.Unwatched())
    watch.switch()
    return {"start-up: Python and its imports": imports} | watch.seconds


def profiled(project: Path, group: str, seed: int) -> dict[str, float]:
    """The same in a process of its own, with the time that the process took to end."""
    command = [sys.executable, str(Path(__file__)), "--trial", group, "--seed", str(seed)]
    began = time.time()
    environment = os.environ | {BEGAN: str(began), "DVC_ROOT": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    return seconds | {"leaving": time.time() - began - sum(seconds.values())}


def table(found: dict[str, dict[str, float]]) -> str:
    """Seconds and shares by part, one pair of columns a group."""
    parts = sorted({part for seconds in found.values() for part in seconds})
    totals = {group: sum(seconds.values()) for group, seconds in found.items()}
    lines = [["part", *found], ["---"] * (1 + len(found))]
    lines += [[part, *(_cell(found[group].get(part, 0.0), totals[group]) for group in found)] for part in parts]
    lines.append(["**all**", *(f"**{total:.1f} s**" for total in totals.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(seconds: float, total: float) -> str:
    return f"{seconds:.2f} s ({seconds / total:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["sft", "combined"])
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        print(json.dumps(profile(arguments.trial, arguments.seed)))
        return
    from suite.trials import prepared_project

    with prepared_project() as project:
        print(table({group: profiled(project, group, arguments.seed) for group in arguments.groups}))


if __name__ == "__main__":
    main()
