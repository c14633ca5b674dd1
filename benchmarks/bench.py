"""The suite of `make bench`: ratios to plain training and to the peers, measured side by side in one process.

    python benchmarks/bench.py [--only step peers] [--threads 2]

Prints each table when it is measured, writes benchmarks/results.json and the tables in docs/benchmarks.md, and logs a
run to MLflow's experiment "benchmarks". With --only the other parts keep what was measured before. A missed goal is
shown as missed; exit code 1 means that a part could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "benchmarks")]

import torch  # noqa: E402
from suite import page  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results.json"
PARTS = ("capture", "step", "data", "truncation", "snapshot_size", "memory", "trials", "peers", "correctness")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's, where a row names no other")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    failed = []
    for part in (part for part in PARTS if part in arguments.only):
        started = time.perf_counter()
        try:
            rows = [row.as_json() for row in importlib.import_module(f"suite.{part}").measure()]
        except Exception:
            traceback.print_exc()
            failed.append(part)
            continue
        seconds = time.perf_counter() - started
        known[part] = {"rows": rows, "seconds": seconds, "machine": page.machine(arguments.threads)}
        print(page.table(rows), f"{part}: {seconds:.0f} s\n", sep="\n", flush=True)
    measured = {part: known[part] for part in PARTS if part in known}
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    page.write(REPOSITORY / "docs" / "benchmarks.md", measured)
    page.log(REPOSITORY, measured)
    if failed:
        print(f"Not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
