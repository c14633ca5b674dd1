"""Inject faults into the stages of a small study, and count what became of each.

    python benchmarks/torture.py --write                # every part with its full count, into docs/reliability.md
    python benchmarks/torture.py --only kills --count 20
    python benchmarks/torture.py --hours 8              # goes on with other seeds

Ends with 1 where a fault was silent or something was lost. The study lies in a scratch copy of this working tree. With
--work it is kept, and so is what was found: the table then counts what earlier calls with that folder found, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from faults.counts import Injection, between_marks, notes, remember, remembered, table
from faults.disks import full_disks
from faults.flips import cuts, flips, flips_before_repro, flips_in_cache, swaps
from faults.kills import kills, named_points
from faults.numbers import numbers
from faults.stops import stops
from faults.stores import stores
from faults.study import ROOT, Study, make_study

from glassbox.processes import machine

Part = Callable[[Study, Path, int, int], Iterator[Injection]]
PARTS: dict[str, tuple[Part, int]] = {
    "kills": (kills, 170),
    "points": (named_points, 1),
    "flips": (flips, 1000),
    "cuts": (cuts, 100),
    "swaps": (swaps, 1),
    "repro": (flips_before_repro, 22),
    "cache": (flips_in_cache, 5),
    "numbers": (numbers, 7),
    "disks": (full_disks, 9),
    "stores": (stores, 5),
    "stops": (stops, 5),
}
PAGE = ROOT / "docs/reliability.md"
MARK = "Written by make torture"


def run(names: list[str], count: int | None, seed: int, base: Study, work: Path) -> Iterator[Injection]:
    """The injections of the named parts, each told as it ends."""
    for name in names:
        part, full = PARTS[name]
        for injection in part(base, work, full if count is None else count, seed):
            told = f"{injection.case}: {injection.verdict}"
            print(f"[{time.strftime('%H:%M:%S')}] {name}: {told} {injection.note}", file=sys.stderr, flush=True)
            yield injection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--count", type=int, help="faults of each part (default: the full count)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=0.0, help="go on with other seeds until then")
    parser.add_argument("--work", type=Path, help="the scratch folder, kept with what was found (default: a new one)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    arguments = parser.parse_args()
    began, seed = time.monotonic(), arguments.seed
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        kept = work / "injections.jsonl"
        base = Study(work / "undisturbed")
        base = base if base.folder.is_dir() else make_study(base.folder)
        while True:
            for injection in run(arguments.only or list(PARTS), arguments.count, seed, base, work):
                remember(kept, injection)
            seed += 1
            if time.monotonic() - began > arguments.hours * 3600:
                break
        found = remembered(kept)
    text = "\n".join([table(found), *(["", *notes(found)] if notes(found) else []), "", f"{machine()}, {_threads()}."])
    print(text)
    if arguments.write:
        PAGE.write_text(between_marks(PAGE.read_text(encoding="utf-8"), text, MARK), encoding="utf-8")
    sys.exit(any(injection.is_bad for injection in found))


def _threads() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
