"""One row an experiment: what differs from conf/, and a group's mean test score per task with its interval."""

from __future__ import annotations

import argparse
import sys

from glassbox import tracking
from glassbox.command import run
from glassbox.comparison.experiments import experiment_table, known_groups
from glassbox.errors import GlassboxError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", help="the group to show (default: combined, else black_box, else the last)")
    group = parser.parse_args().group
    known = known_groups(tracking.find_comparisons())
    if not known:
        raise GlassboxError("MLflow's store holds no comparison yet: `dvc repro` or `dvc exp run -S ...` makes one.")
    if group is not None and group not in known:
        raise GlassboxError(f"--group {group}: no comparison holds a group of that name, but {', '.join(known)}.")
    print(experiment_table(group))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    run(main)
