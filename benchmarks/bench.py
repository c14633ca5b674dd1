"""The suite of `make bench`: ratios to plain training and to the peers, measured side by side in one process.

    python benchmarks/bench.py [--only step peers] [--threads 2]

Says on a terminal what is being measured and how long it will take, writes benchmarks/results.json and the tables in
docs/benchmarks.md, logs a run to MLflow's experiment "benchmarks", and ends with the tables. With --only the other
parts keep what was measured before. A missed goal is shown as missed; exit code 1 means that a part could not be
measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "benchmarks")]

import torch  # noqa: E402
from suite import page  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results.json"
# Every part, and about how many seconds it takes on two cores
PARTS = {
    "capture": 90,
    "step": 240,
    "data": 60,
    "truncation": 30,
    "snapshot_size": 60,
    "memory": 90,
    "trials": 330,
    "peers": 150,
    "bf16": 20,
    "correctness": 30,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's, where a row names no other")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    parts, fresh, failed = [part for part in PARTS if part in arguments.only], {}, []
    for index, part in enumerate(parts):
        say(announcement(parts[index:], len(parts), known))
        started = time.perf_counter()
        try:
            rows = [row.as_json() for row in importlib.import_module(f"suite.{part}").measure()]
        except Exception:
            traceback.print_exc()
            failed.append(part)
            known.pop(part, None)
            continue
        seconds = time.perf_counter() - started
        fresh[part] = {"rows": rows, "seconds": seconds, "machine": page.machine(arguments.threads, REPOSITORY)}
        known = {each: (known | fresh)[each] for each in PARTS if each in known | fresh}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    page.write(REPOSITORY / "docs" / "benchmarks.md", known)
    print(page.tables(fresh))
    page.log(REPOSITORY, fresh)
    if failed:
        print(f"Not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def announcement(remaining: Sequence[str], total: int, known: Mapping[str, Any]) -> str:
    """Which part comes, and how long it and all that remain took the last time, or take on two cores."""
    seconds = [known[part]["seconds"] if part in known else PARTS[part] for part in remaining]
    place = total - len(remaining) + 1
    left = f"{sum(seconds) / 60:.0f} min" if sum(seconds) >= 90 else f"{sum(seconds):.0f} s"
    return f"{place} of {total}: {remaining[0]}, about {seconds[0]:.0f} s; about {left} left in all"


def say(text: str) -> None:
    """On a terminal alone, as progress bars do."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
