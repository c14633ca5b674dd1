"""The whole path on two batches, before the long run: what has killed such studies is found here, in under a minute.

Works in a temporary folder with a store of its own; writes nothing here but reports/preflight.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from glassbox.command import run
from glassbox.config.settings import load_settings

TASKS = Path("data/tasks")
REPORT = Path("reports/preflight.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="the settings (default: %(default)s)")
    settings = load_settings(parser.parse_args().params)

    from glassbox.files import write_synced
    from glassbox.preflight.findings import Finding
    from glassbox.preflight.preflight import preflight
    from glassbox.tracking import root

    def show(finding: Finding) -> None:
        remark = finding.sentence if finding.result != "failed" else ""
        print(f"{finding.check:<{width}}  {finding.result:<11}  {finding.seconds:7.1f}  {remark}".rstrip(), flush=True)

    width = max(len("final evaluation"), *(len(f"trial {group}") for group in settings.groups))
    print(f"{'check':<{width}}  {'result':<11}  seconds")
    findings = preflight(settings, root(), TASKS, show)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_synced(REPORT, (json.dumps(findings.as_json(), indent=2) + "\n").encode())
    for finding in findings.failed:
        print(f"\n{textwrap.fill(f'{finding.check}: {finding.sentence}', 110)}", file=sys.stderr)
    if findings.failed:
        sys.exit(1)
    print(f"\nEvery check held, in {sum(finding.seconds for finding in findings.all):.0f} s: the study may start.")


if __name__ == "__main__":
    run(main)
