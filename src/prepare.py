"""Stage `prepare`: the tasks' samples -> data/tasks/{train,validation,test}.parquet."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from glassbox.command import run
from glassbox.config import load_settings
from glassbox.tasks import load_samples, tasks_digest, write_splits

FOLDER = Path("data/tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)
    splits = load_samples(settings.prepare)
    write_splits(FOLDER, splits)
    for split, samples in splits.items():
        counts = Counter(sample.task for sample in samples)
        print(f"{split}: " + ", ".join(f"{count} {task}" for task, count in counts.items()))
    print(f"{FOLDER}: {tasks_digest(FOLDER)}")


if __name__ == "__main__":
    run(main)
