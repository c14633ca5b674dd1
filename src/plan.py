"""What the study will need, before anything runs: trials, steps, tokens, disk, memory, time -> reports/plan.json.

Refuses what cannot fit and names the setting to change. Nothing is downloaded but configurations and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import psutil

from glassbox.command import run
from glassbox.comparison.plan import check_plan
from glassbox.config.settings import load_settings
from glassbox.errors import GlassboxError

CONF = Path("conf")
TASKS = Path("data/tasks")
REPORT = Path("reports/plan.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    parser.add_argument("--no-probe", action="store_true", help="measure no steps, so give no time")
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    check_plan(CONF, settings)

    from glassbox.files import write_synced
    from glassbox.preflight.duration import measured_time
    from glassbox.preflight.estimate import estimate_study
    from glassbox.preflight.table import table_of
    from glassbox.tracking import root

    start_up = time.time() - psutil.Process().create_time()
    estimate = estimate_study(settings, root(), TASKS)
    estimate["time"] = (
        {"reason": "--no-probe"} if arguments.no_probe else measured_time(settings, estimate, TASKS, start_up)
    )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_synced(REPORT, (json.dumps(estimate, indent=2) + "\n").encode())
    print(table_of(estimate))
    for warning in estimate["warnings"]:
        print(f"\nMAY NOT FIT: {warning} `dvc repro prepare` first makes this exact.")
    if estimate["refusals"]:
        raise GlassboxError("\n\n".join(["This study cannot fit.", *estimate["refusals"]]))
    print(f"\nIt fits. All numbers: {REPORT}" if not estimate["warnings"] else f"\nAll numbers: {REPORT}")


if __name__ == "__main__":
    run(main)
