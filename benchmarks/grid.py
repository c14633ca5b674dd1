"""What the grid costs: `python benchmarks/grid.py --seeds 2` measures, in a copy of a project that `dvc repro verify`
has prepared, the wall time of the stage `train` with one worker and with two, the start-up of a trial after the first
in a worker, and a `train` with nothing to do."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEASURED = re.compile(r"with \d+ workers?: ([\d.]+) s for a trial, ([\d.]+) s of them before the first step")


def prepare(folder: Path) -> None:
    """The data and reports that `train` reads, the settings, and an MLflow store."""
    for name in ("conf", "data", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "mlflow.db"):
        shutil.copy(ROOT / name, folder)


def call(folder: Path, *command: str) -> tuple[str, float]:
    """What a command prints, and the seconds it takes."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"DVC_ROOT": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, time.monotonic() - began


def forget(folder: Path) -> None:
    for name in ("runs", ".glassbox"):
        shutil.rmtree(folder / name, ignore_errors=True)


def measure(folder: Path, seeds: int) -> dict[str, float | bool]:
    found: dict[str, float | bool] = {}
    digests = []
    for workers in (1, 2):
        forget(folder)
        call(folder, "src/params.py", f"seeds={list(range(7, 7 + seeds))}", f"engine.workers={workers}")
        said, found[f"train_seconds_{workers}"] = call(folder, "src/train.py")
        measured = MEASURED.search(said)
        assert measured is not None, said
        found[f"trial_seconds_{workers}"], found[f"start_up_seconds_{workers}"] = map(float, measured.groups())
        digests.append({str(path): json.loads(path.read_text())["digests"] for path in folder.glob("runs/*/*.json")})
    found["ratio"] = found["train_seconds_1"] / found["train_seconds_2"]
    found["same_bits"] = digests[0] == digests[1]
    found["idle_seconds"] = call(folder, "src/train.py")[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds of each group (default: %(default)s)")
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for key, value in measure(Path(name), seeds).items():
            print(f"{key:<20} {value if isinstance(value, bool) else round(value, 2)}")


if __name__ == "__main__":
    main()
