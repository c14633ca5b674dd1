"""The script of the stage `compare`: its options, and the keys that it looks trials up by."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import studies

from glassbox import tracking
from glassbox.comparison.experiments import experiment_table, known_groups
from glassbox.comparison.study import Comparison
from glassbox.config.settings import Group, Settings
from glassbox.errors import GlassboxError
from glassbox.report.answer import answer, limits
from glassbox.tracking.key import study_key, trial_key

SCRIPT = Path(__file__).parents[2] / "src" / "compare.py"
DIGESTS = (studies.digest("snapshot"), studies.digest("tasks"))


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def call(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    params = str(SCRIPT.parents[1] / "params.yaml")
    monkeypatch.setattr(sys, "argv", ["compare.py", "--params", params, *options])
    script["main"]()


def test_help_tells_the_exit_codes(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(script, monkeypatch, "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "exit codes: 0 compared; 1 refused" in told and "2 the runs cannot be compared" in told
    assert "3 trials are missing" in told


@pytest.mark.parametrize("option", ["--difference", "--deviation"])
def test_an_option_of_the_planner_is_refused_without_it(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    with pytest.raises(GlassboxError, match=f"{option} has no effect on a comparison: write --plan-power with it"):
        call(script, monkeypatch, option, "2")


def with_seqkd() -> Settings:
    settings = studies.settings(("black_box",), (0,))
    distill = {**settings.distill, "seqkd": Group(task=1.0, labels="teacher")}
    all_labels = settings.train.model_copy(update={"labelled": 1.0})
    return settings.model_copy(update={"distill": distill, "train": all_labels})


def log_seqkd(settings: Settings, answers: str, seed: int) -> None:
    content = studies.manifest("seqkd", seed, study_key=study_key(settings, *DIGESTS))
    content["tags"] |= {
        "answers_digest": answers,
        "key": trial_key(settings, "seqkd", seed, *DIGESTS, answers),
    }
    studies.log_trial(content)


def test_runs_on_the_teachers_answers_are_found_by_the_answers_that_the_store_names(
    script: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    settings = with_seqkd()
    log_seqkd(settings, "answers", 0)
    expected = trial_key(settings, "seqkd", 0, *DIGESTS, "answers")
    assert script["keys"]()(settings, "seqkd", 0, *DIGESTS) == expected
    of_black_box = trial_key(settings, "black_box", 0, *DIGESTS)
    assert script["keys"]()(settings, "black_box", 0, *DIGESTS) == of_black_box


def test_of_two_sets_of_answers_in_the_store_none_is_chosen(
    script: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    settings = with_seqkd()
    for seed, answers in enumerate(("first", "second")):
        log_seqkd(settings, answers, seed)
    nobodys = trial_key(settings, "seqkd", 0, *DIGESTS, None)
    assert script["keys"]()(settings, "seqkd", 0, *DIGESTS) == nobodys


def test_the_answer_its_table_and_limits_are_at_most_25_lines_with_the_two_addresses(
    script: dict[str, Any], results: dict[str, Any]
) -> None:
    lines = "\n".join(script["answer_lines"](results)).splitlines()
    assert " ".join(lines).startswith(answer(results)[:60]) and all(len(line) <= 130 for line in lines[:4])
    assert lines[-3:] == [f"- {line}" for line in limits(results)[:3]]
    template = results["groups"][-1]
    means = [row for row in results["means"] if row["group"] == template["group"]]
    for number in range(12):
        results["groups"].append({**template, "group": f"control{number}", "optional": True})
        results["means"] += [{**row, "group": f"control{number}"} for row in means]
    lines = "\n".join(script["answer_lines"](results)).splitlines()
    assert "more of the plan's optional groups: --details" in "\n".join(lines)
    assert len(lines) + len(["", "The page", "All runs"]) <= 25


def test_the_details_hold_every_question_banner_and_note(script: dict[str, Any], results: dict[str, Any]) -> None:
    results["banners"] = ["Partial, exploratory: the plan also holds seed 6."]
    told = "\n".join(script["details"](results))
    for asked in results["answers"]:
        assert f"{asked['id']} ({asked['role']}): {asked['question']}" in told
        assert all(sentence in told for sentence in asked["sentences"])
    for line in (*results["banners"], *results["notes"], results["hypothesis"]["text"], results["not_run"]):
        assert line in told


def test_an_experiment_is_one_row_with_what_differs_and_a_groups_means(
    compared: Comparison, in_compared_folder: Path
) -> None:
    header, *rows = experiment_table("black_box").splitlines()
    assert header.split("  ")[0] == "compared" and header.endswith("gsm8k") and len(rows) == 1
    mean = next(
        row["mean"] for row in compared.results["means"] if row["group"] == "black_box" and row["task"] == "mmlu"
    )
    assert "nothing" in rows[0] and "black_box  3" in rows[0] and f"{100 * mean:.1f} " in rows[0]
    assert "combined" in experiment_table(None) and "combined" in known_groups(tracking.find_comparisons())
