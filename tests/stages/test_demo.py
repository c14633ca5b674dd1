"""`make demo`: the whole path beside the study, with a report of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_answers_in_a_place_of_its_own(tmp_path: Path) -> None:
    for name in ("conf", "data/embedded"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "src/demo.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    demo = tmp_path / ".glassbox" / "demo"
    results = json.loads((demo / "reports/results.json").read_text(encoding="utf-8"))
    assert {row["group"] for row in results["groups"]} >= {"sft", "black_box"}
    assert (demo / "reports/report.html").is_file() and "mlflow ui --backend-store-uri" in done.stdout
    after = [path for path in tmp_path.rglob("*") if path.is_file() and ".glassbox" not in path.parts]
    assert sorted(after) == before
