"""The digest of the plan: of what it says, however it is laid out."""

from __future__ import annotations

from pathlib import Path

import pytest
import studies

from glassbox.config.analysis_plan import plan_digest
from glassbox.errors import GlassboxError


def digest_of(folder: Path, text: str) -> str:
    (folder / "analysis.yaml").write_bytes(text.encode())
    return plan_digest(folder, "embedded")


def test_comments_layout_line_ends_and_the_order_of_keys_do_not_count(tmp_path: Path) -> None:
    written = digest_of(tmp_path, "alpha: 0.05\ngroups: [sft, combined]\n")
    assert digest_of(tmp_path, "# why\r\ngroups: # all\r\n  - sft\r\n  - combined\r\nalpha: 0.05\r\n") == written
    assert len(written) == 64


@pytest.mark.parametrize("other", ["alpha: 0.01\ngroups: [sft, combined]", "alpha: 0.05\ngroups: [combined, sft]"])
def test_what_the_plan_says_counts_and_so_does_the_order_of_a_list(tmp_path: Path, other: str) -> None:
    assert digest_of(tmp_path, other) != digest_of(tmp_path, "alpha: 0.05\ngroups: [sft, combined]")


def test_a_comment_in_the_committed_plan_leaves_its_digest(tmp_path: Path) -> None:
    text = (studies.CONF / "analysis.yaml").read_text(encoding="utf-8")
    assert digest_of(tmp_path, f"{text}# a remark\n") == plan_digest(studies.CONF, "embedded")
    assert digest_of(tmp_path, text.replace("points: 3.0", "points: 2.5", 1)) != plan_digest(studies.CONF, "embedded")


def test_without_a_plan_there_is_no_digest_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    assert plan_digest(tmp_path, "embedded") == ""
    with pytest.raises(GlassboxError, match="is not YAML"):
        digest_of(tmp_path, "alpha: [")


def test_a_scales_own_entries_stand_in_place_of_the_common_ones(tmp_path: Path) -> None:
    plain = digest_of(tmp_path, "alpha: 0.05\n")
    assert digest_of(tmp_path, "alpha: 0.05\nscales: {paper: {alpha: 0.1}}\n") == plain
    assert digest_of(tmp_path, "alpha: 0.05\nscales: {embedded: {alpha: 0.1}}\n") == digest_of(tmp_path, "alpha: 0.1\n")


@pytest.mark.parametrize("part", ["seeds", "margins"])
def test_what_the_plan_says_of_another_scale_does_not_count(tmp_path: Path, part: str) -> None:
    written = digest_of(tmp_path, f"alpha: 0.05\n{part}: {{default: 1, embedded: 2, paper: 3}}\n")
    assert digest_of(tmp_path, f"alpha: 0.05\n{part}: {{default: 1, embedded: 2, paper: 4}}\n") == written
    assert digest_of(tmp_path, f"alpha: 0.05\n{part}: {{default: 1, embedded: 4, paper: 3}}\n") != written
    assert digest_of(tmp_path, f"alpha: 0.05\n{part}: {{default: 4, embedded: 2, paper: 3}}\n") != written
