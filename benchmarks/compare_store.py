"""How long the stage `compare` takes beside many runs in MLflow, and whether it always writes the same results.

    python benchmarks/compare_store.py [--runs 5000] [--repetitions 200]

Builds, in a temporary folder, a made-up study of five groups and seven seeds with 500 questions a task, as tests/
makes them, in an MLflow store with --runs runs in all; times `python src/compare.py` there. With --repetitions: the
whole comparison of a smaller study that often, its results.json compared byte for byte; exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]

import studies  # noqa: E402

from glassbox import tracking  # noqa: E402
from glassbox.comparison.study import compare_study  # noqa: E402

SEEDS = tuple(range(7))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="runs in the store, the study's 35 among them")
    parser.add_argument("--repetitions", type=int, default=0, help="of the comparison of a smaller study")
    arguments = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with TemporaryDirectory() as scratch:
        os.environ["DVC_ROOT"] = scratch
        tracking.ensure_store(studies.settings().storage)
        if arguments.repetitions:
            return repeat(Path(scratch), arguments.repetitions)
        return time_the_stage(Path(scratch), arguments.runs)


def time_the_stage(folder: Path, runs: int) -> int:
    studies.QUESTIONS = 500
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    shutil.copy(REPOSITORY / "params.yaml", folder)
    studies.write_study(folder, seeds=SEEDS)
    for n_runs in (len(studies.GROUPS) * len(SEEDS), runs):
        fill(folder / "mlflow.db", n_runs)
        started, processor = time.perf_counter(), sum(os.times()[2:4])
        subprocess.run(
            [sys.executable, str(REPOSITORY / "src" / "compare.py")], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        seconds, used = time.perf_counter() - started, sum(os.times()[2:4]) - processor
        print(f"{n_runs} runs in the store: {seconds:.1f} s, of one core {used:.1f} s")
    return 0


def fill(database: Path, n_runs: int) -> None:
    """Copies of one of the study's runs under another key, until the store holds n_runs."""
    held = len(studies.GROUPS) * len(SEEDS)
    if n_runs > held:
        (record,) = tracking.find_by_key(studies.manifest("combined", 0)["key"])
        studies.clone_run(database, record.run_id, n_runs - held, tags={"key": "stray"})


def repeat(folder: Path, repetitions: int) -> int:
    settings = studies.settings(seeds=SEEDS[:3])
    studies.write_study(folder, seeds=SEEDS[:3])
    started, first = time.perf_counter(), b""
    for repetition in range(repetitions):
        compare_study(settings, studies.key_of, folder=folder)
        written = (folder / "reports" / "results.json").read_bytes()
        first = first or written
        if written != first:
            print(f"repetition {repetition} wrote other results than the first")
            return 1
    print(f"{repetitions} comparisons, the same {len(first)} bytes each time: {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
