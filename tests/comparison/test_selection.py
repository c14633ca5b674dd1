"""Which trials enter a comparison, and which sets of trials are refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import studies
import yaml

from glassbox import tracking
from glassbox.comparison import notes
from glassbox.comparison.plan import check_plan, planned_weights, read_plan
from glassbox.comparison.selection import Selection, select_trials
from glassbox.comparison.study import compare_study, results_of
from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError, IncomparableRunsError, MissingTrialsError
from glassbox.report import report
from glassbox.report.answer import answer, limits
from glassbox.tracking.items import items_digest
from glassbox.tracking.trial_run import RunStatus

PAIR = ("sft", "black_box")


def select(folder: Path, settings: Settings, **options: object) -> Selection:
    if not (folder / "conf").exists():
        studies.write_conf(folder, settings.seeds)
    plan = read_plan(folder / "conf", settings.scale)
    planned = planned_weights(folder / "conf", plan, settings)
    return select_trials(settings, planned, folder / "runs", studies.key_of, **options)  # type: ignore[arg-type]


def compare(folder: Path, settings: Settings, **options: object) -> dict[str, Any]:
    if not (folder / "conf").exists():
        studies.write_conf(folder, settings.seeds)
    return results_of(settings, studies.key_of, folder=folder, **options)  # type: ignore[arg-type]


def names(selection: Selection) -> list[str]:
    return [trial.name for trial in selection.trials]


def test_the_grid_is_groups_by_seeds_and_other_manifests_are_named_and_ignored(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1), log=False)
    studies.write_trial(store, "combined", 0, log=False)
    selection = select(store, studies.settings(PAIR, (0,)))
    assert names(selection) == ["sft/0", "black_box/0"]
    assert selection.ignored_files == ("black_box/1.json", "combined/0.json", "sft/1.json")


def test_groups_that_were_not_selected_come_from_the_store(store: Path) -> None:
    studies.write_conf(store)
    for group in ("sft", "combined"):
        for seed in (0, 1, 2):
            studies.log_trial(studies.manifest(group, seed))
    studies.write_study(store, ("black_box",))
    selection = select(store, studies.settings(("black_box",)))
    assert selection.store_groups == ("sft", "combined")
    assert selection.absent_groups == ("hidden_state", "attention")
    assert {trial.source for trial in selection.of("sft")} == {"store"} and len(selection.of("sft")) == 3
    results = compare(store, studies.settings(("black_box",)))
    assert any(note.startswith("From the store: sft, combined") for note in results["notes"])
    assert any("group hidden_state" in banner for banner in results["banners"])


def test_a_group_trained_under_other_weights_is_not_taken_from_the_store(store: Path) -> None:
    studies.write_conf(store)
    studies.log_trial(studies.manifest("combined", 0))
    studies.write_study(store, ("black_box",), (0,))
    settings = studies.settings(("black_box",), (0,))
    other = settings.model_copy(update={"weights": settings.weights.model_copy(update={"hidden": 0.3})})
    assert select(store, settings).store_groups == ("combined",)
    assert select(store, other).store_groups == ()


def test_runs_of_one_key_count_once_when_they_agree_and_need_a_choice_when_they_differ(store: Path) -> None:
    studies.write_conf(store, (0,))
    studies.write_study(store, ("black_box",), (0,))
    settings = studies.settings(("black_box",), (0,))
    first = studies.log_trial(studies.manifest("combined", 0))
    studies.log_trial(studies.manifest("combined", 0))
    assert len(select(store, settings).of("combined")) == 1
    other = studies.manifest("combined", 0)
    other["tags"]["final_student_digest"] = studies.digest("another")
    second = studies.log_trial(other)
    with pytest.raises(IncomparableRunsError, match=second):
        select(store, settings)
    (chosen,) = select(store, settings, use={"combined/0": first}).of("combined")
    assert chosen.run_id == first


def test_a_missing_cell_is_refused_unless_incomplete_is_allowed(store: Path) -> None:
    studies.write_study(store, PAIR, log=False)
    (store / "runs" / "sft" / "1.json").unlink()
    settings = studies.settings(PAIR)
    with pytest.raises(MissingTrialsError, match=r"1 of 6 trials are missing: sft/1.*--allow-incomplete") as refusal:
        compare(store, settings)
    assert refusal.value.exit_code == 3
    results = compare(store, settings, allow_incomplete=True)
    assert results["banners"][0].startswith("Incomplete: 1 trials are missing (sft/1)")


def test_a_cell_without_a_manifest_that_the_store_has_finished_is_taken_from_there(store: Path) -> None:
    studies.write_study(store, PAIR)
    settings = studies.settings(PAIR)
    before = compare(store, settings)
    (store / "runs" / "sft" / "1.json").unlink()
    selection = select(store, settings)
    assert (selection.store_cells, selection.missing, selection.store_groups) == (("sft/1",), {}, ())
    results = compare(store, settings)
    assert (results["means"], results["contrasts"]) == (before["means"], before["contrasts"])
    assert results["integrity"]["from_store"] == ["sft/1"] and results["banners"] == before["banners"]
    assert any(note.startswith("From the store: sft/1. Without a manifest under runs/") for note in results["notes"])
    assert not any("From the store" in note for note in before["notes"])


def test_a_narrowed_grid_is_called_partial(store: Path) -> None:
    studies.write_conf(store, (0, 1, 2))
    studies.write_study(store, studies.GROUPS, (0, 1))
    results = compare(store, studies.settings(seeds=(0, 1)))
    assert results["banners"] == ["Partial, exploratory: the plan also holds seed 2."]
    assert compare(store, studies.settings(seeds=(0, 1))) == results


def test_a_diverged_trial_is_shown_and_has_no_score(store: Path) -> None:
    studies.write_study(store, ("black_box",))
    for seed in (0, 1):
        studies.write_trial(store, "sft", seed)
    digests = {**studies.manifest("sft", 2)["digests"], "final_student": None, "items": None}
    studies.write_trial(store, "sft", 2, status="diverged", metrics={"train/loss_total": 9.0}, digests=digests)
    results = compare(store, studies.settings(PAIR))
    (row,) = [row for row in results["means"] if row["group"] == "sft" and row["task"] == "mmlu"]
    assert (row["n"], row["n_diverged"]) == (2, 1)
    assert results["integrity"]["diverged"] == ["sft/2"]
    assert any(note.startswith("Diverged: sft/2") for note in results["notes"])


def test_a_component_with_an_unusual_share_of_the_gradient_is_warned_of(store: Path) -> None:
    studies.write_snapshot_report(store)
    for seed in (0, 1):
        studies.write_trial(store, "sft", seed, liveness={"task": {"share": 1.0}})
        shares = {"task": {"share": 0.996}, "logits": {"share": 0.004}}
        studies.write_trial(store, "black_box", seed, liveness=shares)
    notes = compare(store, studies.settings(PAIR, (0, 1)))["notes"]
    warnings = [note for note in notes if note.startswith("Warning: ")]
    rest = "of the gradient of black_box in its first steps (median of 2 trials), outside 1 to 90 %."
    assert warnings == [f"Warning: task has 99.6 % {rest}", f"Warning: logits has 0.4 % {rest}"]


def test_runs_that_mlflow_has_lost_are_noticed(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1))
    studies.write_trial(store, "combined", 0)
    studies.write_trial(store, "combined", 1, log=False)
    results = compare(store, studies.settings((*PAIR, "combined"), (0, 1)))
    assert results["integrity"]["lost_runs"] == ["combined/1"]
    assert any("misses the runs of combined/1" in note and "python src/restore.py" in note for note in results["notes"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"study_key": "other"}, "study key"),
        ({"digests": {"data_order": "x"}}, "data order of seed 0"),
        ({"digests": {"initial_student": "x"}}, "initial student of seed 0"),
        ({"digests": {"snapshot": "x"}}, "digest of the snapshot"),
        ({"digests": {"final_student": studies.digest("final", "sft", 0)}}, "same final student in two groups"),
        ({"metrics": {"test/accuracy_sst2": None}}, "test/accuracy_sst2 +| not a number"),
        ({"metrics": {"test/accuracy_sst2": float("nan")}}, "not a number"),
    ],
)
def test_trials_that_do_not_fit_are_refused_with_a_table(store: Path, changes: dict, field: str) -> None:
    studies.write_trial(store, "sft", 0)
    usual = studies.manifest("black_box", 0)
    merged = {name: {**usual[name], **value} if isinstance(value, dict) else value for name, value in changes.items()}
    assert merged.get("metrics", usual["metrics"]).keys() == usual["metrics"].keys()
    studies.write_trial(store, "black_box", 0, log=False, **merged)
    with pytest.raises(IncomparableRunsError, match=field) as refusal:
        compare(store, studies.settings(PAIR, (0,)))
    assert refusal.value.exit_code == 2
    assert "field" in str(refusal.value) and "| groups" in str(refusal.value) and "| run ids" in str(refusal.value)
    assert not (store / "reports").exists()


def test_equal_students_are_no_reason_to_train_again(store: Path) -> None:
    studies.write_trial(store, "sft", 0)
    same = {**studies.manifest("black_box", 0)["digests"], "final_student": studies.digest("final", "sft", 0)}
    studies.write_trial(store, "black_box", 0, log=False, digests=same)
    with pytest.raises(IncomparableRunsError, match="leave it out") as refusal:
        compare(store, studies.settings(PAIR, (0,)))
    assert "--force" not in str(refusal.value)


def test_one_group_under_two_objectives_is_refused(store: Path) -> None:
    studies.write_trial(store, "black_box", 0)
    params = {**studies.manifest("black_box", 1)["params"], "weight_logits": 0.7}
    studies.write_trial(store, "black_box", 1, params=params)
    with pytest.raises(IncomparableRunsError, match="objective of black_box"):
        compare(store, studies.settings(("black_box",), (0, 1)))


def test_a_score_that_mlflow_remembers_differently_is_refused(store: Path) -> None:
    content = studies.write_trial(store, "sft", 0)
    content["metrics"]["test/accuracy_mmlu"] = 0.99
    (store / "runs" / "sft" / "0.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(IncomparableRunsError, match=r"0.99 in the manifest, 0\.\d+ in MLflow"):
        compare(store, studies.settings(("sft",), (0,)))


def test_a_file_that_is_no_manifest_is_named(store: Path) -> None:
    studies.write_trial(store, "sft", 0, log=False)
    (store / "runs" / "sft" / "0.json").write_text("{}", encoding="utf-8")
    with pytest.raises(GlassboxError, match=r"0\.json cannot be read as a trial's manifest"):
        select(store, studies.settings(("sft",), (0,)))


def test_the_result_does_not_depend_on_other_runs_in_the_store(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1))
    before = compare(store, studies.settings(PAIR, (0, 1)))
    studies.log_trial(studies.manifest("attention", 5))
    assert compare(store, studies.settings(PAIR, (0, 1))) == before


def test_the_plan_is_what_conf_names_under_the_current_weights(store: Path) -> None:
    studies.write_conf(store, (0, 1, 2, 3))
    settings = studies.settings(("sft",), (0,))
    plan = read_plan(store / "conf", settings.scale)
    assert plan.groups == studies.GROUPS and plan.seeds == (0, 1, 2, 3)
    planned = planned_weights(store / "conf", plan, settings)
    assert planned["combined"].hidden == 0.1 and planned["black_box"].hidden == 0.0


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FAILED"])
def test_a_run_without_an_outcome_is_no_trial_and_a_missing_cell_names_it(store: Path, status: RunStatus) -> None:
    studies.write_study(store, ("black_box",), (0,))
    unfinished = studies.manifest("combined", 0)
    unfinished["tags"].pop("outcome")
    run_id = studies.log_trial(unfinished, status=status)
    settings = studies.settings(("black_box",), (0,))
    assert select(store, settings).of("combined") == ()
    with pytest.raises(MissingTrialsError, match=rf"combined/0 \(MLflow: run {run_id[:8]} {status}\)"):
        compare(store, studies.settings(("black_box", "combined"), (0,)))


def test_a_run_that_was_cut_off_after_it_published_everything_is_noted(store: Path) -> None:
    studies.write_conf(store, (0,))
    content = studies.manifest("sft", 0)
    place = store / "runs" / "sft" / "0.json"
    studies.write_files(content, place)
    content["run_id"] = studies.log_trial(content, place, status="KILLED")
    place.write_text(json.dumps(content), encoding="utf-8")
    results = compare(store, studies.settings(("sft",), (0,)))
    assert any("sft/0 (KILLED)" in note for note in results["notes"]) and results["integrity"]["finished"] == 1


def test_a_use_without_an_effect_is_refused(store: Path) -> None:
    studies.write_study(store, ("sft",), (0,))
    settings = studies.settings(("sft",), (0,))
    with pytest.raises(GlassboxError, match=r"--use sft/0=abc has no effect: runs/sft/0\.json names"):
        select(store, settings, use={"sft/0": "abc"})
    with pytest.raises(GlassboxError, match=r"--use combined/0=abc has no effect: MLflow holds no finished"):
        select(store, settings, use={"combined/0": "abc"})


def test_trials_of_a_snapshot_that_verify_did_not_pass_are_refused(store: Path) -> None:
    studies.write_study(store, ("sft",), (0,), log=False)
    report = store / "reports" / "snapshot.json"
    report.write_text(json.dumps({"logical_digest": studies.digest("recaptured")}), encoding="utf-8")
    with pytest.raises(IncomparableRunsError, match="snapshot that `verify` did not pass"):
        compare(store, studies.settings(("sft",), (0,)))


def test_neither_stray_runs_nor_other_experiments_nor_their_order_change_the_result(store: Path) -> None:
    studies.write_conf(store, (0, 1))
    stored = [studies.log_trial(studies.manifest("combined", seed)) for seed in (1, 0)]
    studies.write_study(store, PAIR, (0, 1))
    settings = studies.settings(PAIR, (0, 1))
    before = compare(store, settings)
    database = store / "mlflow.db"
    studies.clone_run(database, stored[0], 1200, tags={"key": "another", "study_key": "another"})
    elsewhere = studies.clone_run(database, stored[1], 3, tags={"final_student_digest": "another"})
    with closing(sqlite3.connect(database)) as connection, connection:
        columns = "'another', artifact_location, lifecycle_stage, creation_time, last_update_time, workspace"
        connection.execute(f"INSERT INTO experiments SELECT 99, {columns} FROM experiments WHERE name = 'glassbox'")
        for run_id in elsewhere:
            connection.execute("UPDATE runs SET experiment_id = 99 WHERE run_uuid = ?", (run_id,))
    assert tracking.find_runs(elsewhere) == []
    assert compare(store, settings) == before


def test_a_group_of_the_store_that_lacks_seeds_makes_the_comparison_partial(store: Path) -> None:
    studies.write_conf(store, (0, 1))
    studies.log_trial(studies.manifest("combined", 0))
    studies.write_study(store, ("sft",), (0, 1))
    results = compare(store, studies.settings(("sft",), (0, 1)))
    (partial,) = [banner for banner in results["banners"] if banner.startswith("Partial, exploratory")]
    assert partial.endswith("combined/1.")
    assert [row["status"] for row in results["trials"] if row["group"] == "combined"] == ["finished", "missing"]
    assert {row["status"] for row in results["contrasts"] if row["id"] == "Q1"} == {"not run"}


def test_an_optional_group_is_compared_where_it_ran_and_never_missed(store: Path) -> None:
    studies.write_study(store, ("black_box",), (0, 1))
    path = store / "conf" / "distill" / "shuffled_logits.yaml"
    path.write_text("shuffled_logits: {task: 1.0, logits: 0.5, shuffled: [logits]}\n", encoding="utf-8")
    settings = studies.settings(("black_box",), (0, 1))
    assert "shuffled_logits" not in json.dumps(compare(store, settings)["banners"])
    objective = planned_weights(store / "conf", read_plan(store / "conf", "small"), settings)["shuffled_logits"]
    own = settings.model_copy(update={"distill": {"shuffled_logits": objective}})
    digests = studies.digest("snapshot"), studies.digest("tasks")
    studies.log_trial(studies.manifest("shuffled_logits", 0, key=studies.key_of(own, "shuffled_logits", 0, *digests)))
    results = compare(store, settings)
    (entry,) = [group for group in results["groups"] if group["group"] == "shuffled_logits"]
    assert entry["optional"] and entry["n_from_store"] == 1
    assert "shuffled_logits" not in json.dumps(results["banners"])


def test_seeds_beyond_the_plan_are_exploratory(store: Path) -> None:
    studies.write_conf(store, (0, 1))
    studies.write_study(store, studies.GROUPS, (0, 1, 2), log=False)
    results = compare(store, studies.settings(seeds=(0, 1, 2)))
    assert results["banners"] == ["Beyond the plan, exploratory: it does not hold the seeds 2."]


@pytest.mark.parametrize(
    ("carried", "told"), [("0" * 64, "1 of 2 trials began under another plan"), ("", "1 of 2 trials carry no plan")]
)
def test_a_plan_that_the_trials_do_not_carry_makes_the_report_exploratory(store: Path, carried: str, told: str) -> None:
    studies.write_study(store, ("sft",), (0,), log=False)
    studies.write_trial(store, "black_box", 0, log=False, plan=carried)
    results = compare(store, studies.settings(PAIR, (0,)))
    assert results["plan"]["state"] == "plan changed after the data: exploratory"
    assert results["plan"]["trial_digests"][carried] == ["black_box/0"]
    assert any(
        banner.startswith("Plan changed after the data: exploratory") and told in banner
        for banner in results["banners"]
    )


def test_the_same_plan_on_every_trial_is_as_planned(store: Path) -> None:
    studies.write_study(store, studies.GROUPS, (0,), log=False)
    results = compare(store, studies.settings(seeds=(0,)))
    assert results["plan"]["state"] == "as planned" and results["banners"] == []


def test_a_seed_that_the_plan_had_seen_makes_its_own_scale_exploratory(store: Path) -> None:
    studies.write_conf(store, (0, 14))
    studies.write_study(store, studies.GROUPS, (0, 14), log=False, scale="faithful")
    told = "Exploratory: these seeds' scores were known when the plan was made: 0."
    results = compare(store, studies.settings(seeds=(0, 14), scale="faithful"))
    assert results["banners"] == [told]
    assert results["plan"]["state"] == "exploratory: these seeds' scores were known when the plan was made"
    assert results["plan"]["seen_note"].startswith("margins set after seeds 0-6 had been seen")
    results = compare(store, studies.settings(seeds=(14,), scale="faithful"))
    assert results["banners"] == ["Partial, exploratory: the plan also holds seed 0."]
    assert results["plan"]["state"] == "as planned"
    shutil.rmtree(store / "runs")
    studies.write_study(store, studies.GROUPS, (0, 14), log=False, scale="paper")
    assert compare(store, studies.settings(seeds=(0, 14), scale="paper"))["banners"] == []


def test_a_scale_without_margins_of_its_own_is_named_with_those_that_are_used(store: Path) -> None:
    studies.write_conf(store, (0,))
    studies.write_study(store, studies.GROUPS, (0,), log=False)
    own = [each for each in compare(store, studies.settings(seeds=(0,), scale="paper"))["notes"] if "margins" in each]
    (told,) = [each for each in compare(store, studies.settings(seeds=(0,)))["notes"] if "margins" in each]
    assert own == [] and told == (
        "Scale small has no margins of its own in conf/analysis.yaml; the default ones are used "
        "(points: sst2 2, mmlu 2, gsm8k 2)."
    )


def test_trials_of_other_settings_are_told_from_those_of_the_present_ones(store: Path) -> None:
    studies.write_study(store, ("black_box",), (0,), log=False)
    settings = studies.settings(("black_box",), (0,))
    distill = {"black_box": settings.distill["black_box"].model_copy(update={"logits": 0.7})}
    assert compare(store, settings)["integrity"]["out_of_date"] == []
    changed = compare(store, settings.model_copy(update={"distill": distill}))
    assert changed["integrity"]["out_of_date"] == ["black_box/0"]
    assert any(note.startswith("Trained under other settings or code") for note in changed["notes"])


def test_no_head_room_is_read_from_a_teacher_whose_score_measures_a_format(store: Path) -> None:
    studies.write_study(store, seeds=(0, 1))
    path = store / "reports/snapshot.json"
    note = "The teacher gave a number after '####' in 1% of its gsm8k answers at 0 shots."
    gate = json.loads(path.read_text(encoding="utf-8")) | {"teacher_unread": ["gsm8k"], "teacher_notes": [note]}
    path.write_text(json.dumps(gate), encoding="utf-8")
    results = compare(store, studies.settings(seeds=(0, 1)))
    rooms = {key: row for row in results["contrasts"] for key in row["tasks"] if "teacher" in row["weights"]}
    assert rooms["mmlu"]["status"] == "run"
    assert (rooms["gsm8k"]["status"], rooms["gsm8k"]["estimate"]) == ("not run", None)
    assert "the teacher's score on gsm8k is not known" in rooms["gsm8k"]["reason"]
    assert results["references"]["teacher"]["gsm8k"] == studies.TEACHER["test/exact_match_gsm8k"]
    assert note in results["notes"]


def test_seeds_of_a_group_that_learnt_from_different_answers_are_refused(store: Path) -> None:
    for seed, answers in ((0, "a"), (1, "b")):
        digests = {**studies.manifest("sft", seed)["digests"], "answers": answers}
        studies.write_trial(store, "sft", seed, log=False, digests=digests)
    with pytest.raises(IncomparableRunsError, match="teacher's answers of sft"):
        compare(store, studies.settings(("sft",), (0, 1)))


# --- what must not pass in silence ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"group": "sft"}, {"seed": 1}])
def test_a_manifest_of_another_cell_than_its_place_is_refused(store: Path, change: dict[str, Any]) -> None:
    studies.write_study(store, ("sft", "black_box"), (0, 1), log=False)
    place = store / "runs" / "black_box" / "0.json"
    content = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(IncomparableRunsError, match=r"0\.json is the manifest of .*, not of black_box/0") as refusal:
        compare(store, studies.settings(PAIR, (0, 1)))
    assert refusal.value.exit_code == 2


def test_a_second_finished_run_with_other_results_is_refused_beside_a_manifest_until_one_is_chosen(
    store: Path,
) -> None:
    studies.write_study(store, PAIR, (0, 1))
    settings = studies.settings(PAIR, (0, 1))
    first = compare(store, settings)
    other = studies.manifest("black_box", 0, items=studies.items_of("combined", 0))
    other["tags"]["final_student_digest"] = studies.digest("another")
    other["tags"]["items_digest"] = other["digests"]["items"]
    second = studies.log_trial(other)
    with pytest.raises(IncomparableRunsError, match=rf"other results: {second}.*--use black_box/0=<run id>"):
        compare(store, settings)
    named = json.loads((store / "runs/black_box/0.json").read_text(encoding="utf-8"))["run_id"]
    assert compare(store, settings, use={"black_box/0": named})["means"] == first["means"]
    chosen = select(store, settings, use={"black_box/0": second})
    assert {trial.run_id for trial in chosen.of("black_box")} >= {second}


def test_a_cell_that_diverged_before_it_finished_says_how_often_it_was_tried(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1))
    settings = studies.settings(PAIR, (0, 1))
    assert compare(store, settings)["integrity"]["attempts"] == {}
    for _ in range(2):
        studies.log_trial(studies.manifest("sft", 1, status="diverged"))
    results = compare(store, settings)
    assert results["integrity"]["attempts"] == {"sft/1": {"diverged": 2, "finished": 1}}
    assert any("sft/1: 3 attempts, 1 finished and 2 diverged" in note for note in results["notes"])


def test_a_study_run_again_under_an_edited_plan_is_exploratory(store: Path) -> None:
    studies.write_study(store, studies.GROUPS, (0,))
    settings = studies.settings(seeds=(0,))
    assert compare(store, settings)["plan"]["state"] == "as planned"
    plan = store / "conf" / "analysis.yaml"
    plan.write_text(plan.read_text(encoding="utf-8").replace("power: 0.8", "power: 0.9"), encoding="utf-8")
    for group in studies.GROUPS:
        place = store / "runs" / group
        shutil.rmtree(place)
        studies.write_trial(store, group, 0)
    results = compare(store, settings)
    assert results["plan"]["state"] == "plan changed after the data: exploratory"
    assert any("began under an earlier plan" in banner for banner in results["banners"])


def test_a_finished_manifest_whose_run_failed_in_mlflow_is_noted(store: Path) -> None:
    studies.write_conf(store, (0,))
    content = studies.manifest("sft", 0)
    place = store / "runs" / "sft" / "0.json"
    studies.write_files(content, place)
    content["run_id"] = studies.log_trial(content, place, status="FAILED")
    place.write_text(json.dumps(content), encoding="utf-8")
    results = compare(store, studies.settings(("sft",), (0,)))
    assert results["integrity"]["cut_off"] == {"sft/0": "FAILED"}
    assert any("sft/0 (FAILED)" in note for note in results["notes"])


def test_a_refused_call_leaves_no_earlier_report_that_looks_current(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])
    studies.write_study(store, PAIR, (0, 1))
    settings = studies.settings(PAIR, (0, 1))
    compare_study(settings, studies.key_of, folder=store)
    assert (store / "reports" / "report.html").is_file()
    (store / "runs" / "sft" / "1.json").write_text("{}", encoding="utf-8")
    with pytest.raises(GlassboxError, match=r"earlier report .* lies in \.glassbox/earlier_report"):
        compare_study(settings, studies.key_of, folder=store)
    left = {path.name for path in (store / "reports").iterdir()}
    assert left == {"snapshot.json"}
    assert (store / ".glassbox/earlier_report/results.json").is_file()


def test_precision_that_follows_the_group_is_refused_and_one_that_follows_the_seed_is_named(store: Path) -> None:
    for seed, precision in ((0, "no"), (1, "bf16")):
        for group in PAIR:
            studies.write_trial(store, group, seed, precision=precision)
    settings = studies.settings(PAIR, (0, 1))
    studies.write_snapshot_report(store)
    (note,) = [note for note in compare(store, settings)["notes"] if "precision" in note]
    assert "bf16: sft/1, black_box/1; no: sft/0, black_box/0" in note
    shutil.rmtree(store / "runs" / "black_box")
    for seed in (0, 1):
        studies.write_trial(store, "black_box", seed, precision="bf16", log=False)
    with pytest.raises(IncomparableRunsError, match="precision of seed 0 +| bf16") as refusal:
        compare(store, settings)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("cluster", ["nan", "-1", "NaN"])
def test_a_cluster_that_is_a_missing_value_is_refused_with_a_sentence(store: Path, cluster: str) -> None:
    items = studies.items_of("sft", 0)
    for row in items[:300:7]:
        row["cluster"] = cluster
    studies.write_trial(store, "sft", 0, items=items, log=False)
    with pytest.raises(IncomparableRunsError, match="is no name of a cluster"):
        compare(store, studies.settings(("sft",), (0,)))


# --- plans that name roles, not tasks ----------------------------------------------------------------------------


def own_task(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same answers as those of a task `mine`, which no plan names."""
    rows = [row for row in items if row["task"] == "mmlu"]
    return [row | {"task": "mine", "sample_id": row["sample_id"].replace("mmlu", "mine")} for row in rows]


def study_of_own_task(store: Path, groups: tuple[str, ...] = PAIR, keep: tuple[str, ...] = ()) -> Settings:
    for group in groups:
        for seed in (0, 1, 2):
            items = studies.items_of(group, seed)
            rows = [*own_task(items), *(row for row in items if row["task"] in keep)]
            metrics = studies.scores_of([row for row in rows if row["task"] != "mine"])
            mine = [row["correct"] for row in rows if row["task"] == "mine"]
            metrics["test/accuracy_mine"] = sum(mine) / len(mine)
            studies.write_trial(store, group, seed, items=rows, metrics=metrics, log=False)
    studies.write_snapshot_report(store)
    settings = studies.settings(groups)
    known = settings.prepare.tasks
    tasks = {**{task: known[task] for task in keep}, "mine": known["mmlu"]}
    return settings.model_copy(update={"prepare": settings.prepare.model_copy(update={"tasks": tasks})})


def test_questions_of_each_task_are_asked_of_a_task_that_the_plan_does_not_name(store: Path) -> None:
    results = compare(store, study_of_own_task(store))
    f1 = [row for row in results["contrasts"] if row["id"] == "F1"]
    assert [(row["tasks"], row["status"]) for row in f1] == [({"mine": 1.0}, "run")]
    assert results["plan"]["state"] == notes.OTHER_TASKS
    assert results["banners"][0].startswith("No plan of these tasks: exploratory. conf/analysis.yaml names none")
    assert answer(results).startswith("Exploratory: ") and "Exploratory: no plan was fixed" in limits(results)[0]
    assert "tasks: {mine: {metric: accuracy, chance: 0.25}}" in results["plan_lines"]
    assert "seeds: {default: [3, 4, 5, 6, 7, 8, 9]} # other ones than those that ran" in results["plan_lines"]
    assert not any("plan also holds" in banner for banner in results["banners"])
    assert f1[0]["equivalence"]["margin"] == 0.02
    assert results["answers"][0]["sentences"][0].startswith("On mine, black_box - sft is")
    assert any("does not name mine" in note and "default margin of 2 points" in note for note in results["notes"])
    assert not any("not among the study's tasks" in text for each in results["answers"] for text in each["sentences"])
    assert results["tasks"][0]["margin"] == 0.02 and "convention" in results["tasks"][0]["margin_reason"]


def test_an_own_task_beside_planned_ones_joins_their_family(store: Path) -> None:
    results = compare(store, study_of_own_task(store, keep=("sst2",)))
    status = {row["key"]: row["status"] for row in results["contrasts"] if row["id"] == "F1"}
    assert status == {"F1/sst2": "run", "F1/mmlu": "not run", "F1/gsm8k": "not run", "F1/mine": "run"}
    assert {row["family_size"] for row in results["contrasts"] if row["id"] == "F1"} == {4}


def test_what_was_not_run_is_one_line_and_the_hypothesis_is_not_tested(store: Path) -> None:
    studies.write_study(store, PAIR, log=False)
    results = compare(store, studies.settings(PAIR))
    assert results["not_run"] == "Q1 to Q4: not run, they need hidden_state, attention, combined."
    assert results["hypothesis"]["verdict"] == "not tested"
    assert {each["id"] for each in results["answers"]} == {"F1"}


def test_a_plan_without_a_hypothesis_or_margins_compares_with_the_default_margin(store: Path) -> None:
    studies.write_conf(store)
    plan = store / "conf" / "analysis.yaml"
    content = yaml.safe_load(plan.read_text(encoding="utf-8"))
    for section in ("hypothesis", "margins"):
        del content[section]
    plan.write_text(yaml.safe_dump(content), encoding="utf-8")
    studies.write_study(store, PAIR, log=False)
    results = compare(store, studies.settings(PAIR))
    assert (results["hypothesis"]["verdict"], results["hypothesis"]["legs"]) == ("not tested", [])
    assert {task["margin"] for task in results["tasks"]} == {0.02}


def test_without_a_plan_contrasts_come_from_the_groups_and_the_lines_of_a_plan_are_given(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = ("sft", "black_box", "hidden_state")
    studies.write_study(store, groups, log=False)
    (store / "conf" / "analysis.yaml").unlink()
    settings = studies.settings(groups)
    results = results_of(settings, studies.key_of, folder=store)
    assert results["plan"]["state"] == "no plan: exploratory"
    assert results["banners"][0].startswith("No plan: exploratory.")
    assert {row["formula"] for row in results["contrasts"]} == {"black_box - sft", "hidden_state - black_box"}
    assert {row["status"] for row in results["contrasts"]} == {"run"}
    (store / "conf" / "analysis.yaml").write_text("\n".join(results["plan_lines"]), encoding="utf-8")
    planned = results_of(settings, studies.key_of, folder=store)
    keys = [(row["key"], row["p_adjusted"], row["verdict"]) for row in results["contrasts"]]
    assert [(row["key"], row["p_adjusted"], row["verdict"]) for row in planned["contrasts"]] == keys


def test_a_replica_may_equal_its_group_and_must_be_equivalent(store: Path) -> None:
    studies.write_conf(store)
    (store / "conf" / "distill" / "replica_null.yaml").write_text(
        "replica_null:\n  task: ${weights.task}\n  logits: ${weights.logits}\n", encoding="utf-8"
    )
    for seed in (0, 1, 2):
        items = studies.items_of("black_box", seed)
        studies.write_trial(store, "black_box", seed, items=items, log=False)
        digests = studies.manifest("black_box", seed, items)["digests"]
        params = studies.manifest("black_box", seed)["params"]
        studies.write_trial(store, "replica_null", seed, items=items, digests=digests, params=params, log=False)
    settings = studies.settings(("black_box", "replica_null"))
    found = {row["key"]: row for row in compare(store, settings)["contrasts"]}
    assert {found[f"N1/{task}"]["verdict"] for task in studies.METRICS} == {"equivalent"}
    assert found["N1/mmlu"]["identical"]
    answer = next(each for each in compare(store, settings)["answers"] if each["id"] == "N1")
    assert "identical on every seed (3 seeds), within the margin" in answer["sentences"][0]


def test_shuffled_logits_are_tested_for_a_benefit_in_one_direction(store: Path) -> None:
    studies.write_conf(store)
    (store / "conf" / "distill" / "shuffled_logits.yaml").write_text(
        "shuffled_logits:\n  task: ${weights.task}\n  logits: ${weights.logits}\n", encoding="utf-8"
    )
    for group in ("sft", "shuffled_logits"):
        for seed in (0, 1, 2):
            items = studies.items_of("sft", seed)
            digests = {**studies.manifest("sft", seed, items)["digests"], "final_student": studies.digest(group, seed)}
            for row in items:
                row["log_likelihoods"] = [each + len(group) for each in row["log_likelihoods"]]
            digests["items"] = items_digest(items)
            studies.write_trial(store, group, seed, items=items, digests=digests, log=False)
    found = {row["key"]: row for row in compare(store, studies.settings(("sft", "shuffled_logits")))["contrasts"]}
    assert found["N2/mmlu"]["verdict"] == "no benefit" and found["N2/mmlu"]["sides"] == "one-sided"
    assert found["N2/mmlu"]["bound"] is not None


@pytest.mark.parametrize("before", ["weights: {black_box: 1, seqkd: -1}"])
def test_the_plan_is_checked_before_anything_trains(store: Path, before: str) -> None:
    studies.write_conf(store)
    settings = studies.settings(PAIR)
    check_plan(store / "conf", settings)
    path = store / "conf" / "analysis.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before, "weights: {black_box: 1, seqkt: -1}"), encoding="utf-8")
    with pytest.raises(GlassboxError, match="the nearest is `seqkd`"):
        check_plan(store / "conf", settings)
    path.unlink()
    check_plan(store / "conf", settings)


# --- guards of the report ----------------------------------------------------------------------------------------


def test_a_signal_with_a_faint_share_of_the_gradient_is_named_beside_each_answer_about_it(store: Path) -> None:
    studies.write_snapshot_report(store)
    for seed in (0, 1):
        studies.write_trial(store, "sft", seed, log=False, liveness={"task": {"share": 1.0}})
        shares = {"task": {"share": 0.98}, "logits": {"share": 0.02}}
        studies.write_trial(store, "black_box", seed, log=False, liveness=shares)
    results = compare(store, studies.settings(PAIR, (0, 1)))
    (answer,) = [each for each in results["answers"] if each["id"] == "F1"]
    assert answer["sentences"][-1].startswith("Note: logits has 2.0 % of the gradient of black_box: ")


def test_a_teacher_below_chance_is_at_chance_and_one_above_it_is_open() -> None:
    def told(score: float) -> list[str]:
        scores = {"teacher": {"mine": score}, "initial_student": {}}
        return notes.teacher_notes(scores, {"mine": 0.5}, {"mine": 12}, {})

    assert told(0.75) == [
        "The teacher cannot be told from chance on mine (75.0 % of 12 questions, where guessing gets 50 %): whether "
        "its signals hold anything is open."
    ]
    assert told(0.4)[0].startswith("The teacher is at chance on mine (40.0 % of 12 questions")
    assert told(0.9) == []


def test_a_teacher_with_little_to_teach_is_named(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1), log=False)
    path = store / "reports/snapshot.json"
    gate = json.loads(path.read_text(encoding="utf-8"))
    gate["teacher_scores"] |= {"test/accuracy_sst2": 0.52, "test/accuracy_mmlu": 0.5}
    path.write_text(json.dumps(gate | {"label_probability": {"mmlu": 0.9912, "gsm8k": 0.7}}), encoding="utf-8")
    notes = compare(store, studies.settings(PAIR, (0, 1)))["notes"]
    assert "The teacher is below the student before distillation on sst2 (52.0 % against 88.0 %)." in notes
    assert any(note.startswith("The teacher cannot be told from chance on sst2 (52.0 % of ") for note in notes)
    assert any("training labels of mmlu a mean probability of 0.9912" in note for note in notes)
    assert not any("chance on mmlu" in note or "labels of gsm8k" in note for note in notes)
