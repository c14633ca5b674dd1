"""The coverage benchmark runs, finds what is known, and reports a figure that misses its bar."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "coverage.py"


@pytest.mark.slow
def test_a_short_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    written = tmp_path / "coverage.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--repetitions", "250", "--json", written], capture_output=True, text=True, check=False
    )
    figures = json.loads(written.read_text(encoding="utf-8"))["figures"]
    assert {each["section"] for each in figures} >= {"t interval, normal scores", "false direction, all null"}
    assert done.returncode == (0 if all(each["passed"] for each in figures) else 1), done.stderr
    assert all(each["case"] in done.stdout for each in figures)


def test_the_committed_figures_hold_every_bar_and_stand_in_the_documentation() -> None:
    figures = json.loads((ROOT / "benchmarks" / "coverage.json").read_text(encoding="utf-8"))["figures"]
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert all(each["passed"] for each in figures)
    assert all(each["case"] in text and f"{100 * each['share']:.2f} %" in text for each in figures)
    assert min(each["repetitions"] for each in figures) >= 20_000
