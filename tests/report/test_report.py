"""The reports folder: everything in it comes from results.json, and is the same each time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import studies

from glassbox import tracking
from glassbox.comparison.study import Comparison, compare_study
from glassbox.errors import GlassboxError
from glassbox.report import report
from glassbox.report.report import write_reports

FIGURES = ("contrasts", "costs", "curves", "gains", "interaction", "scores")
FILES = sorted(
    [
        *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
        "metrics.json",
        "plots/curves.csv",
        "plots/scores.csv",
        "report.html",
        "results.json",
        "results_summary.csv",
        "snapshot.json",
        "table_contrasts.csv",
        "table_contrasts.tex",
        "table_main.csv",
        "table_main.tex",
    ]
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_every_report(compared: Comparison) -> None:
    folder = compared.page.parent
    assert sorted(contents(folder)) == FILES
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == compared.results


def test_the_page_is_small_self_contained_and_asks_for_nothing(compared: Comparison) -> None:
    text = compared.page.read_text(encoding="utf-8")
    assert len(text.encode("utf-8")) < report.MAX_PAGE_BYTES
    assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text
    assert "<script" not in text and "@import" not in text and "url(#" in text
    assert text.count('role="img"') == 2 * len(FIGURES)


def test_a_page_that_outgrows_a_browser_is_refused_before_anything_is_published(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_PAGE_BYTES", 1000)
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    with pytest.raises(GlassboxError, match=r"report\.html would have .* bytes"):
        write_reports(results, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_two_calls_write_the_same_bytes_also_from_what_was_read_back(compared: Comparison, tmp_path: Path) -> None:
    folder = compared.page.parent
    read_back = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    write_reports(read_back, tmp_path)
    assert contents(tmp_path) == {name: data for name, data in contents(folder).items() if name != "snapshot.json"}


@pytest.mark.slow
def test_a_group_without_a_finished_trial_is_in_every_report(store: Path) -> None:
    studies.write_study(store, ("sft",), (0,))
    digests = {**studies.manifest("combined", 0)["digests"], "final_student": None, "items": None}
    studies.write_trial(store, "combined", 0, status="diverged", metrics={}, digests=digests)
    comparison = compare_study(studies.settings(("sft", "combined"), (0,)), studies.key_of, folder=store)
    page = comparison.page.read_text(encoding="utf-8")
    assert "1 diverged" in page and "Partial, exploratory" in page and "no finished trial" in page
    with (store / "reports" / "table_contrasts.csv").open(encoding="utf-8", newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"not run"}


def test_the_comparison_is_logged_with_its_sources(compared: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(compared.page.parent.parent))
    (record,) = tracking.find_runs([compared.run_id])
    assert record.tags["kind"] == "comparison" and record.tags["n_source_runs"] == "15"
    means = {(row["group"], row["task"]): row["mean"] for row in compared.results["means"]}
    assert record.metrics["combined/accuracy_mmlu"] == pytest.approx(means["combined", "mmlu"])
