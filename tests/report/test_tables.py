"""The tables beside the page: every number of results.json, readable by pandas, and LaTeX that a paper can take in."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest

from glassbox.report import latex, notation, tables

Results = dict[str, Any]


def frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(tables.csv_text(rows)))


def test_numbers_are_written_as_a_paper_writes_them() -> None:
    assert notation.percent(0.5714) == "57.1" and notation.percent(None) == "–"
    assert [notation.difference(value) for value in (0.0041, -0.0041, -0.00001)] == ["+0.41", "−0.41", "0.00"]
    assert notation.difference(-0.0412, "logit") == "−0.04" and notation.width(0.01) == "1.00"
    assert (
        notation.difference_interval({"lower": -1.2, "upper": 1.3}) == "[−120.00, +130.00]"
        and notation.width(2) == "200.00"
    )
    assert [notation.p_value(p) for p in (0.0004, 0.04, 1.0, None)] == ["< 0.001", "0.040", "1.000", "–"]
    assert [notation.size(count) for count in (30_400_000, 900, None)] == ["30.4 MB", "900 B", "–"]
    assert [notation.duration(seconds) for seconds in (59.6, 1234, 7300)] == ["60 s", "20 min 34 s", "2 h 1 min"]
    assert notation.task_label({"sst2": -1.0, "mmlu": 1.0}) == "mmlu − sst2"
    assert notation.prose("a - b is -0.2 (p = 0.1) on x-1") == "a − b is −0.2 (p\u00a0=\u00a00.1) on x-1"


def test_pandas_reads_every_table_without_options(results: Results) -> None:
    main = frame(tables.main_rows(results)).set_index(["group", "task"])
    for row in results["means"]:
        read = main.loc[(row["group"], row["task"])]
        assert read["mean"] == row["mean"] and read["n"] == row["n"]
        wider = row["items"]
        assert read["items_lower"] == pytest.approx(wider["lower"]) if wider else pandas.isna(read["items_lower"])
    assert any(row["items"] for row in results["means"])
    assert main.loc[("teacher", "mmlu"), "mean"] == results["references"]["teacher"]["mmlu"]
    contrasts = frame(tables.contrast_rows(results)).set_index("key")
    for row in results["contrasts"]:
        assert contrasts.loc[row["key"], "verdict"] == row["verdict"]
        if row["status"] == "run":
            assert contrasts.loc[row["key"], "estimate"] == pytest.approx(row["estimate"], abs=1e-12)


def test_the_summary_has_a_row_per_planned_trial_and_groups_by_group(results: Results) -> None:
    trials = results["trials"]
    trials[1] |= {"status": "diverged", "scores": dict.fromkeys(trials[1]["scores"])}
    summary = frame(tables.summary_rows(results))
    assert len(summary) == len(trials)
    assert {"train/loss_total", "validation/accuracy_mmlu", "data_order_digest"} <= set(summary.columns)
    means = summary.groupby("group")["test/accuracy_mmlu"].mean()
    for row in results["means"]:
        if row["task"] == "mmlu" and row["group"] != trials[1]["group"]:
            assert means[row["group"]] == pytest.approx(row["mean"])
    assert summary.groupby("group")["test/accuracy_mmlu"].count()[trials[1]["group"]] == len(results["seeds"]) - 1


def test_banners_stand_in_a_note_column_and_under_the_latex_tables(results: Results) -> None:
    results["banners"] = ["Partial, exploratory: the plan also holds seed 6."]
    results["plan"]["state"] = "plan changed after the data: exploratory"
    for rows in (tables.main_rows(results), tables.contrast_rows(results), tables.summary_rows(results)):
        assert list(rows[0])[-1] == "note"
        notes = set(frame(rows)["note"])
        assert len(notes) == 1
        (note,) = notes
        assert "Partial, exploratory" in note and "Plan changed after the data" in note and "miniature" in note
    for text in (latex.main_table(results), latex.contrast_table(results)):
        assert "Partial, exploratory" in text and "Plan changed after the data: exploratory" in text


def test_a_banner_that_names_the_plans_state_is_not_repeated(results: Results) -> None:
    results["plan"]["state"] = "plan changed after the data: exploratory"
    results["banners"] = ["Plan changed after the data: exploratory. 3 trials carry no plan."]
    assert sum("changed" in banner for banner in tables.banner_texts(results)) == 1


def test_contrasts_that_were_not_run_keep_their_row_and_their_reason(results: Results) -> None:
    absent = next(row for row in results["contrasts"] if row["status"] == "not run")
    row = next(row for row in tables.contrast_rows(results) if row["key"] == absent["key"])
    assert row["reason"] == absent["reason"] and row["estimate"] is None
    named = next(part for part in results["contrasts"] if part["status"] == "run")
    named |= {"status": "not run", "reason": "no seed has a score of every group"}
    assert "not run: no seed has a score of every group" in latex.contrast_table(results)


def test_a_question_of_which_nothing_was_run_is_one_sentence_under_the_latex_table(results: Results) -> None:
    text = latex.contrast_table(results)
    body, under = text.split(r"\bottomrule")
    absent = {row["id"] for row in results["contrasts"]} - {
        row["id"] for row in results["contrasts"] if row["status"] == "run"
    }
    assert absent == {"R1", "R2", "R3", "S", "Q1m", "F1a", "F1t", "N1", "N2"}
    assert not any(rf"\emph{{{name}: " in body for name in absent) and "not run" not in body
    assert r"R1 (shuffled\_logits did not run), R2 (" in under and under.count("Not run: ") == 1
    for row in results["contrasts"]:
        row |= {"status": "run"} if row["id"] in absent else {}
    complete = [row for row in results["contrasts"] if row["id"] not in absent]
    assert "Not run" not in latex.contrast_table({**results, "contrasts": complete})


def test_a_question_across_tasks_has_the_formula_of_its_groups(results: Results) -> None:
    asked = {question["id"]: question for question in tables.questions(results)}
    assert asked["Q4"]["formula"] == asked["Q1"]["formula"] == "(hidden_state + attention)/2 − black_box"
    assert [row["label"] for row in asked["Q4"]["rows"]][::2] == ["mmlu − sst2", "mmlu − sst2 (logits)"]
    assert asked["alike"]["formula"] == "" and r"{\scriptsize }" not in latex.contrast_table(results)
    assert r"depend on the task? {\scriptsize (hidden\_state + attention)/2 $-$ black\_box}" in latex.contrast_table(
        results
    )


def test_intervals_that_coincide_are_marked_and_explained_and_only_where_there_are_any(results: Results) -> None:
    rows = [row for section in ("means", "contrasts") for row in results[section] if row["items"]]
    for row in rows:
        row["items"]["coincides"] = None
    for text in (latex.main_table(results), latex.contrast_table(results)):
        assert "$^{=}$" not in text and "both are one" not in text
    for section in ("means", "contrasts"):
        next(row for row in results[section] if row["items"])["items"]["coincides"] = "V_I < V_E"
    for text in (latex.main_table(results), latex.contrast_table(results)):
        assert text.count("$^{=}$") == 1 and r"(V\_I \textless{} V\_E, cut)" in text
    assert list(frame(tables.contrast_rows(results))["items_coincides"].dropna()) == ["V_I < V_E"]
    assert list(frame(tables.main_rows(results))["items_coincides"].dropna()) == ["V_I < V_E"]


def test_the_note_of_a_verdict_stands_beside_it(results: Results) -> None:
    for each in results["contrasts"]:
        each["verdict_note"] = None
    row = next(row for row in results["contrasts"] if row["status"] == "run")
    row["verdict_note"] = "every group of it is at 99 % or more"
    text = latex.contrast_table(results)
    assert r"$^{\dagger}$: every group of it is at 99 \% or more." in text and text.count(r"$^{\dagger}$") == 2
    row["verdict_note"] = None
    assert r"\dagger" not in latex.contrast_table(results)
    row["verdict_note"] = "every group of it is at 99 % or more"
    assert "every group of it is at 99 % or more" in set(frame(tables.contrast_rows(results))["verdict_note"])


def test_only_holm_significant_contrasts_are_bold(results: Results) -> None:
    rows = [row for row in results["contrasts"] if row["status"] == "run"]
    for row in rows:
        row["p_adjusted"] = None if row["p_adjusted"] is None else 0.2
    assert r"\textbf" not in latex.contrast_table(results)
    rows[0] |= {"p": 0.01, "p_adjusted": 0.03, "verdict": "better, meaningful"}
    assert latex.contrast_table(results).count(r"\textbf") == 2


def test_latex_has_as_many_cells_in_every_row_and_escapes_text(results: Results) -> None:
    results["banners"] = ["100 % of a_b & c # {d} $e ~ ^ \\ <script> «é»"]
    for text, columns in ((latex.main_table(results), 4), (latex.contrast_table(results), 8)):
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        for row in rows:
            spanned = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + 1 + spanned == columns
        assert r"100 \% of a\_b \& c \# \{d\} \$e" in text and r"\textless{}script\textgreater{}" in text
        assert text.isascii() and text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_pdflatex_sets_both_tables(results: Results, tmp_path: Path) -> None:
    results["banners"] = ["Odd: 50 % _ & # <b> “x” ≥ é \\ ^"]
    (tmp_path / "main.tex").write_text(latex.main_table(results), encoding="utf-8")
    (tmp_path / "contrasts.tex").write_text(latex.contrast_table(results), encoding="utf-8")
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{main}\input{contrasts}\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_console_table_is_one_line_per_group(results: Results) -> None:
    n_tasks = len(results["tasks"])
    for row in results["means"][-n_tasks:]:
        row |= {"mean": None, "lower": None, "upper": None, "n": 0, "n_diverged": 3}
    lines = tables.console_table(results).splitlines()
    assert lines[0].split() == ["group", "sst2", "accuracy", "mmlu", "accuracy", "gsm8k", "exact_match"]
    groups = [entry["group"] for entry in results["groups"]]
    names = [line.split("  ")[0] for line in lines[1:]]
    assert names == ["teacher", "student before distillation", *groups[:-1], f"{groups[-1]} (n = 0, 3 diverged)"]
    assert lines[-1].endswith("\u2013") and "\u00b1" in lines[-2]


def test_a_table_that_is_too_long_leaves_out_optional_groups_and_counts_them(results: Results) -> None:
    for entry in results["groups"][-2:]:
        entry["optional"] = True
    lines = tables.console_table(results, 6).splitlines()
    assert len(lines) == 1 + 6 and lines[-1] == "and 2 more of the plan's optional groups: --details"
    assert len(tables.console_table(results, 7).splitlines()) == 1 + 7
    for entry in results["groups"]:
        entry["optional"] = False
    assert len(tables.console_table(results, 3).splitlines()) == 1 + 7


def test_dvc_gets_the_means_the_scores_and_the_curves(results: Results) -> None:
    metrics = tables.dvc_metrics(results)
    mean = next(row["mean"] for row in results["means"] if (row["group"], row["task"]) == ("combined", "gsm8k"))
    assert metrics["combined"]["exact_match_gsm8k"] == mean
    assert len(tables.score_rows(results)) == len(results["trials"]) * len(results["tasks"])
    assert list(tables.curve_rows(results)[0])[-1] == "mean"


def test_a_teacher_with_shots_is_named_with_them(results: Results) -> None:
    assert "-shot" not in tables.console_table(results) + latex.main_table(results)
    results["teacher_shots"] = 8
    assert "teacher (8-shot)" in tables.console_table(results) and "teacher (8-shot)" in latex.main_table(results)
