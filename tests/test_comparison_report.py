"""The reports folder: everything in it comes from results.json, and is the same each time."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import studies

from glassbox import tracking
from glassbox.comparison.figures import draw_scores, inline_svg
from glassbox.comparison.report import console_table, write_reports
from glassbox.comparison.study import Comparison, compare_study

FILES = [
    "figures/scores.png",
    "figures/scores.svg",
    "metrics.json",
    "plots/scores.csv",
    "report.html",
    "results.json",
    "results_summary.csv",
    "snapshot.json",
    "table_main.csv",
]


class Page(HTMLParser):
    """Collects what the tests ask of a page: its addresses, its words, and elements left open."""

    VOID = frozenset({"meta", "link", "br", "img", "use", "path", "rect", "stop"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def comparison(initialised_store: Path) -> Iterator[Comparison]:
    store = initialised_store.parent / "compared"
    store.mkdir()
    shutil.copy(initialised_store, store / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(store))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        studies.write_study(store, seeds=(0, 1))
        yield compare_study(studies.settings(seeds=(0, 1)), studies.key_of, folder=store)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_every_report(comparison: Comparison) -> None:
    folder = comparison.page.parent
    assert sorted(contents(folder)) == FILES
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == comparison.results


def test_the_page_is_whole_small_self_contained_and_says_miniature(comparison: Comparison) -> None:
    text = comparison.page.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(address.startswith("#") for address in page.addresses)
    assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text
    assert len(text.encode("utf-8")) < 2_000_000
    words = " ".join(page.words)
    assert "embedded miniature tasks" in words and "student before distillation" in words
    assert all(group in words for group in studies.GROUPS)
    assert 'role="img" aria-labelledby="figure-scores-text"' in text and "prefers-color-scheme: dark" in text


def test_tasks_from_files_are_not_called_miniature(comparison: Comparison, tmp_path: Path) -> None:
    results = {**comparison.results, "tasks": [{**task, "embedded": False} for task in comparison.results["tasks"]]}
    assert "miniature" not in write_reports(results, tmp_path).read_text(encoding="utf-8")


def test_a_teacher_with_shots_is_named_with_them(comparison: Comparison, tmp_path: Path) -> None:
    results = {**comparison.results, "teacher_shots": 8}
    assert "teacher (8-shot)" in console_table(results)
    page = write_reports(results, tmp_path).read_text(encoding="utf-8")
    assert page.count("teacher (8-shot)") >= 2
    assert "-shot" not in comparison.table + comparison.page.read_text(encoding="utf-8")


def test_the_tables_hold_the_same_means_and_every_planned_trial(comparison: Comparison) -> None:
    folder = comparison.page.parent
    main = {(row["group"], row["task"]): row for row in rows(folder / "table_main.csv")}
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for mean in comparison.results["means"]:
        assert float(main[mean["group"], mean["task"]]["mean"]) == mean["mean"]
    assert metrics["combined"]["exact_match_gsm8k"] == float(main["combined", "gsm8k"]["mean"])
    assert main["teacher", "mmlu"]["mean"] == "0.93" and main["initial_student", "mmlu"]["mean"] == "0.61"
    summary = rows(folder / "results_summary.csv")
    assert [(row["group"], row["seed"]) for row in summary] == [(g, str(s)) for g in studies.GROUPS for s in (0, 1)]
    assert len(rows(folder / "plots" / "scores.csv")) == len(studies.GROUPS) * 2 * 3


def test_the_console_table_is_one_line_per_group(comparison: Comparison) -> None:
    lines = comparison.table.splitlines()
    assert lines[0].split() == ["group", "sst2", "accuracy", "mmlu", "accuracy", "gsm8k", "exact_match"]
    assert [line.split("  ")[0] for line in lines[2:]] == ["teacher", "student before distillation", *studies.GROUPS]
    assert lines[2].split() == ["teacher", "99.0", "93.0", "81.0"]
    assert "(n=2)" in lines[-1]


def test_two_calls_write_the_same_bytes(comparison: Comparison) -> None:
    folder = comparison.page.parent
    before = contents(folder)
    write_reports(comparison.results, folder)
    assert contents(folder) == before


def test_the_inline_figure_takes_its_colours_from_the_page(comparison: Comparison) -> None:
    svg = inline_svg(draw_scores(comparison.results), "a < b")
    assert svg.startswith("<svg") and "var(--ink)" in svg and "#1b1f24" not in svg and "a &lt; b" in svg


def test_a_group_without_a_finished_trial_is_still_in_every_report(store: Path) -> None:
    studies.write_study(store, ("sft",), (0,))
    digests = {**studies.manifest("combined", 0)["digests"], "final_student": None, "items": None}
    studies.write_trial(store, "combined", 0, status="diverged", metrics={}, digests=digests)
    comparison = compare_study(studies.settings(("sft", "combined"), (0,)), studies.key_of, folder=store)
    assert "1 diverged" in comparison.page.read_text(encoding="utf-8")
    assert console_table(comparison.results).splitlines()[-1].split() == ["combined", "-", "-", "-"]


def test_the_comparison_is_logged_with_its_sources(comparison: Comparison) -> None:
    (record,) = tracking.find_runs([comparison.run_id])
    assert record.tags["kind"] == "comparison" and record.tags["n_source_runs"] == "10"
    assert record.metrics["combined/accuracy_mmlu"] == pytest.approx(
        next(r["mean"] for r in comparison.results["means"] if (r["group"], r["task"]) == ("combined", "mmlu"))
    )
