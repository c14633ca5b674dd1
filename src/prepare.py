"""Stage `prepare`: the tasks' samples -> data/tasks/{train,validation,test}.parquet."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from glassbox.config import load_settings
from glassbox.errors import GlassboxError
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
    try:
        main()
    except GlassboxError as error:
        print(f"prepare: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
