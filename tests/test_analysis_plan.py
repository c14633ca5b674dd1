"""The digest of the plan: of its text, whatever the line ends."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glassbox.analysis_plan import plan_digest


def test_the_digest_is_of_the_text_and_not_of_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "analysis.yaml").write_bytes(b"alpha: 0.05\r\npower: 0.8\r\n")
    assert plan_digest(tmp_path) == hashlib.sha256(b"alpha: 0.05\npower: 0.8\n").hexdigest()


def test_without_a_plan_there_is_no_digest(tmp_path: Path) -> None:
    assert plan_digest(tmp_path) == ""
