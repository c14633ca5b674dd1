"""results.json: the same bytes each time, curves, costs and what every trial recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import studies
from scipy import stats

import compare
from glassbox import tracking
from glassbox.command import run
from glassbox.comparison.costs import group_cost, unequal_load
from glassbox.comparison.learning_curves import learning_curves
from glassbox.comparison.notes import unscored_notes
from glassbox.comparison.results import rounded
from glassbox.comparison.study import Comparison, results_of
from glassbox.report import report
from glassbox.tracking.manifest import read_manifest

SIZES = {"topk": 300, "hidden": 1000, "attention": 600, "head": 50, "channels": 7}


def test_two_calls_give_the_same_bytes(
    compared: Comparison, in_compared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    again = results_of(studies.settings(), studies.key_of, folder=in_compared_folder)
    report.write_reports(again, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == (compared.page.parent / "results.json").read_bytes()


def test_every_number_is_finite_and_short(results: dict[str, Any]) -> None:
    text = json.dumps(results, allow_nan=False)
    assert rounded(json.loads(text)) == json.loads(text)
    assert results["schema"] == 4 and results["alpha"] == 0.05 and results["confidence"] == 0.95


def test_what_a_trial_recorded_is_in_its_row(results: dict[str, Any]) -> None:
    content = studies.manifest("combined", 2)
    (row,) = [row for row in results["trials"] if (row["group"], row["seed"]) == ("combined", 2)]
    assert row["scores"] == {task: content["metrics"][key] for task, key in studies.METRICS.items()}
    assert row["validation_scores"] == row["scores"]
    assert row["losses"] == {"train/loss_total": 1.25, "validation/loss_task": 0.5}
    assert (
        row["digests"] == {**content["digests"], "answers": None, "label_rank": None}
        and row["peak_memory_bytes"] == 700_000_002
    )


def test_exact_ties_and_many_answers_that_were_cut_off_are_told(in_compared_folder: Path) -> None:
    trial = read_manifest(in_compared_folder / "runs" / "combined" / "2.json")
    questions = {"mmlu": 100, "gsm8k": 100}
    few = replace(trial, metrics={**trial.metrics, "test/ties_mmlu": 4.0, "test/cut_off_gsm8k": 5.0})
    (said,) = unscored_notes([few, trial], questions)
    ties = "On mmlu, up to 4 of 100 answers of a student are exact ties, which count as wrong"
    assert said == f"{ties} (2.0 on average over 2 trials)."
    many = replace(trial, metrics={**trial.metrics, "test/cut_off_gsm8k": 6.0})
    assert "up to 6 of 100 answers of a student ran into evaluation.max_new" in unscored_notes([many], questions)[0]


def test_tasks_say_what_the_plan_and_the_questions_say(results: dict[str, Any]) -> None:
    (mmlu,) = [task for task in results["tasks"] if task["task"] == "mmlu"]
    assert (mmlu["n_items"], mmlu["n_clusters"], mmlu["chance"], mmlu["margin"]) == (100, 10, 0.25, 0.02)
    assert mmlu["planned"] and mmlu["margin_reason"]


def test_the_data_is_what_prepare_told_of_it(store: Path) -> None:
    studies.write_study(store, ("sft",), (0,), log=False)
    settings = studies.settings(("sft",), (0,))
    assert results_of(settings, studies.key_of, folder=store)["data"] == []
    origin = {"place": "here", "revision": None, "commit": None, "offered": 9, "repeated": 1, "in_another_split": 2}
    told = {"mmlu": {"test": {**origin, "taken": 6}}}
    (store / "reports" / "tasks.json").write_text(json.dumps(told), encoding="utf-8")
    (row,) = results_of(settings, studies.key_of, folder=store)["data"]
    assert row == {"task": "mmlu", "split": "test", **origin, "taken": 6}


def test_a_curve_has_a_pointwise_t_band(results: dict[str, Any]) -> None:
    rows = [row for row in results["curves"] if (row["group"], row["metric"]) == ("sft", "train/loss_total")]
    assert [row["step"] for row in rows] == [1, 100, 200]
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert rows[0]["n"] == 3 and rows[0]["mean"] == pytest.approx(2.1)
    assert (rows[0]["lower"], rows[0]["upper"]) == (pytest.approx(2.1 - half), pytest.approx(2.1 + half))


def test_a_curve_keeps_sixty_steps_and_its_last_and_counts_who_is_left(store: Path) -> None:
    for seed, last in ((0, 400), (1, 200)):
        studies.write_trial(store, "sft", seed, log=False)
        steps = list(range(1, last + 1))
        rows = {"step": steps, "metric": ["validation/loss_task"] * last, "value": [1.0] * last}
        studies.write_history(store / "runs" / "sft" / str(seed), rows)
    trials = [read_manifest(store / "runs" / "sft" / f"{seed}.json") for seed in (0, 1)]
    curve = learning_curves(trials, 0.95)
    assert len(curve) == 60 and (curve[0]["step"], curve[-1]["step"]) == (1, 400)
    assert (curve[0]["n"], curve[-1]["n"], curve[-1]["lower"]) == (2, 1, None)


@pytest.mark.parametrize(
    ("components", "target", "size"),
    [
        (("task",), "dense", 0),
        (("task", "logits"), "dense", 1050),
        (("task", "logits"), "topk", 300),
        (("task", "logits", "hidden"), "dense", 1057),
        (("task", "logits", "hidden", "attention"), "topk", 1907),
    ],
)
def test_a_group_costs_what_it_reads_and_hidden_states_count_once(
    components: tuple[str, ...], target: str, size: int
) -> None:
    assert group_cost(components, [], SIZES, target)["snapshot_bytes"] == size


def test_costs_are_medians_over_seeds_beside_the_gain_over_the_control(results: dict[str, Any]) -> None:
    costs = {row["group"]: row for row in results["costs"]}
    means = {(row["group"], row["task"]): row["mean"] for row in results["means"]}
    assert costs["combined"]["signals"] == ["logits", "hidden", "attention"]
    assert costs["combined"]["step_seconds"] == pytest.approx(20.5 / 200)
    assert costs["combined"]["peak_memory_bytes"] == 700_000_001
    assert costs["combined"]["gain"]["mmlu"] == pytest.approx(means["combined", "mmlu"] - means["sft", "mmlu"])
    assert set(costs["sft"]["gain"].values()) == {0.0}


def cost(group: str, signals: tuple[str, ...], *seconds: float) -> dict[str, Any]:
    steps = {"step_seconds": sum(seconds) / len(seconds), "step_seconds_range": [min(seconds), max(seconds)]}
    return {"group": group, "signals": signals, **steps}


def test_step_times_that_contradict_what_groups_do_are_not_compared() -> None:
    """A superset that takes half the time was measured on a quieter machine."""
    quick = cost("combined", ("logits", "hidden", "attention"), 0.113, 0.115)
    told = unequal_load([cost("hidden_state", ("logits", "hidden"), 0.240, 0.244), quick])
    assert told and "hidden_state took 242 ms a step and combined, which does all of that and more, 114 ms" in told
    assert unequal_load([cost("hidden_state", ("logits", "hidden"), 0.110, 0.112), quick]) is None
    assert unequal_load([cost("sft", (), 0.1, 0.16)]) is not None


def test_gains_carry_the_interval_of_their_pairs_and_step_times_their_spread(results: dict[str, Any]) -> None:
    costs = {row["group"]: row for row in results["costs"]}
    lower, upper = costs["combined"]["gain_interval"]["mmlu"]
    assert lower < costs["combined"]["gain"]["mmlu"] < upper
    assert costs["sft"]["gain_interval"] == dict.fromkeys(studies.METRICS)
    assert costs["combined"]["step_seconds_range"] == pytest.approx([20.5 / 200] * 2)


def test_liveness_is_summed_up_per_group_and_component(results: dict[str, Any]) -> None:
    rows = {(row["group"], row["component"]): row for row in results["integrity"]["liveness"]}
    assert rows["combined", "hidden"]["n"] == 3 and rows["combined", "hidden"]["gradient_norm"] == 2.0
    assert ("sft", "logits") not in rows


def test_the_comparison_run_holds_every_report_and_names_plan_and_sources(
    compared: Comparison, in_compared_folder: Path
) -> None:
    (record,) = tracking.find_runs([compared.run_id])
    assert record.tags["plan"] == compared.results["plan"]["digest"] and record.tags["kind"] == "comparison"
    sources = tracking.artifact(compared.run_id, "source_runs.json")
    assert sources and json.loads(sources.read_text(encoding="utf-8")) == {
        "source_run_ids": compared.results["source_run_ids"]
    }
    for name in ("results.json", "report.html", "metrics.json"):
        logged = tracking.artifact(compared.run_id, name)
        assert logged and logged.read_bytes() == (in_compared_folder / "reports" / name).read_bytes()


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = studies.CONF.parent / "src" / "compare.py"
    shutil.copy(studies.CONF.parent / "params.yaml", folder)
    shutil.copytree(studies.CONF, folder / "conf", dirs_exist_ok=True)
    return subprocess.run([sys.executable, str(path), *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_power_of_the_plan_needs_no_trial_where_a_deviation_is_given(store: Path) -> None:
    done = script(store, "--plan-power", "--deviation", "2")
    assert done.returncode == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("Q1/mmlu")]
    assert row[1:4] == ["2.00", "20", "%"]
    refused = script(store, "--plan-power")
    assert refused.returncode == 1 and "--deviation 2" in refused.stderr


def test_a_study_without_trials_ends_with_three_and_writes_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(studies.CONF.parent / "params.yaml", store)
    shutil.copytree(studies.CONF, store / "conf")
    monkeypatch.chdir(store)
    monkeypatch.setattr("sys.argv", ["compare.py"])
    with pytest.raises(SystemExit) as end:
        run(compare.main)
    said = capsys.readouterr().err
    assert end.value.code == 3 and "70 of 70 trials are missing" in said and "and 60 more" in said
    assert not (store / "reports").exists()
