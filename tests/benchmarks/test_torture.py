"""A sample of the torture: real faults in a real small study, none of them silent, none of them lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from faults.counts import Injection, between_marks, notes, table

ROOT = Path(__file__).parents[2]
SAMPLE = {"kills": 2, "flips": 60, "cuts": 2, "numbers": 1}
FAULTS = [
    Injection("kill", "at a random moment", "survived"),
    Injection("kill", "at a random moment", "lost", "a checkpoint was left"),
    Injection("disk", "full drive: tasks", "skipped", "a tmpfs cannot be mounted here"),
]


def test_the_table_counts_every_fault_and_names_what_went_wrong() -> None:
    lines = table(FAULTS).splitlines()
    assert lines[2] == "| kill | at a random moment | 2 | 1 | 0 | 0 | 0 | 1 |"
    assert lines[3] == "| disk | full drive: tasks | skipped | 0 | 0 | 0 | 0 | 0 |"
    assert lines[4] == "| all |  | 2 | 1 | 0 | 0 | 0 | 1 |"
    assert notes(FAULTS) == [
        "- kill, at a random moment: lost. a checkpoint was left",
        "- disk, full drive: tasks: skipped. a tmpfs cannot be mounted here",
    ]


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = "before\n<!-- Written by a command -->\nold\n<!-- Until here. -->\nafter\n"
    assert between_marks(page, "new", "Written by a command") == page.replace("old", "new")
    with pytest.raises(ValueError, match="has no block"):
        between_marks("before", "new", "Written by a command")


def test_the_committed_table_has_no_silent_and_no_lost_fault() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    (total,) = re.findall(r"^\| all \|  \| (\d+) \| .* \| (\d+) \| (\d+) \|$", text, flags=re.MULTILINE)
    assert int(total[0]) > 0 and total[1:] == ("0", "0")


@pytest.mark.slow
def test_a_sample_of_the_torture_finds_nothing_silent_and_nothing_lost(tmp_path: Path) -> None:
    for part, count in SAMPLE.items():
        command = [sys.executable, ROOT / "benchmarks/torture.py", "--only", part, "--count", str(count)]
        done = subprocess.run([*command, "--work", tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^\| all \|  \| [1-9]", done.stdout, flags=re.MULTILINE)
