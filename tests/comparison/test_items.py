"""Item results: what is refused, and that questions of every trial meet in one order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import studies

from glassbox.comparison.items import item_table, read_answers
from glassbox.comparison.study import results_of
from glassbox.errors import IncomparableRunsError
from glassbox.tracking.items import items_digest, read_items, write_items
from glassbox.tracking.manifest import TrialRecord, read_manifest

PAIR = ("sft", "black_box")
Rows = list[dict[str, Any]]


def compare(folder: Path, groups: tuple[str, ...] = PAIR, seeds: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return results_of(studies.settings(groups, seeds), studies.key_of, folder=folder)


def trial(folder: Path, group: str = "sft", seed: int = 0) -> TrialRecord:
    return read_manifest(folder / "runs" / group / f"{seed}.json")


def test_questions_are_aligned_by_id_whatever_their_order_in_the_file(store: Path) -> None:
    rows = studies.items_of("black_box", 0)
    studies.write_trial(store, "sft", 0, log=False)
    studies.write_trial(store, "black_box", 0, log=False, items=rows[::-1])
    answers, faults = read_answers([trial(store), trial(store, "black_box")], studies.METRICS)
    table = item_table(answers, PAIR, (0, 1), tuple(studies.METRICS))["mmlu"]
    right = {row["sample_id"]: row["correct"] for row in rows if row["task"] == "mmlu"}
    assert faults == [] and table.ids == tuple(sorted(right))
    np.testing.assert_array_equal(table.correct[1, 0], [right[each] for each in table.ids])
    assert np.isnan(table.correct[:, 1]).all()
    assert table.clusters is not None and len(set(table.clusters)) == 10
    assert item_table(answers, PAIR, (0,), ("sst2",))["sst2"].clusters is None


def test_a_question_without_a_subject_is_a_cluster_of_its_own(store: Path) -> None:
    rows = studies.items_of("sft", 0)
    for row in rows:
        row["cluster"] = "" if row["sample_id"].endswith(("000", "001")) else row["cluster"]
    studies.write_trial(store, "sft", 0, log=False, items=rows)
    answers, _ = read_answers([trial(store)], studies.METRICS)
    clusters = item_table(answers, ("sft",), (0,), ("mmlu",))["mmlu"].clusters
    assert clusters is not None and len(set(clusters)) == 12


def flip(rows: Rows) -> Rows:
    rows[3] = {**rows[3], "correct": not rows[3]["correct"]}
    return rows


def double(rows: Rows) -> Rows:
    return [*rows, rows[0]]


def rename(rows: Rows) -> Rows:
    rows[150] = {**rows[150], "sample_id": "mmlu/test/other"}
    return rows


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (flip, r"test/accuracy_sst2 +\| [\d.]+ is the score, [\d.]+ of the questions are right"),
        (double, "one question is there twice"),
        (rename, r"questions of mmlu +\| 2 differ from those of sft/0"),
    ],
)
def test_items_that_do_not_fit_the_score_or_the_other_trials_are_refused(
    store: Path, change: Callable[[Rows], Rows], field: str
) -> None:
    studies.write_study(store, ("sft",), (0,), log=False)
    usual = studies.manifest("black_box", 0)
    rows = change(studies.items_of("black_box", 0))
    digests = {**usual["digests"], "items": items_digest(rows)}
    studies.write_trial(store, "black_box", 0, log=False, items=rows, metrics=usual["metrics"], digests=digests)
    with pytest.raises(IncomparableRunsError, match=field) as refusal:
        compare(store)
    assert refusal.value.exit_code == 2


def rewrite(path: Path) -> None:
    write_items(path, flip(read_items(path)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "named", "complaint"),
    [
        (rewrite, True, "not the file that the manifest names"),
        (cut, True, "not the file that the manifest names"),
        (cut, False, "damaged"),
        (rewrite, False, "not the results that the trial recorded the digest of"),
        (Path.unlink, True, "missing"),
    ],
)
def test_a_changed_damaged_or_missing_file_is_refused(
    store: Path, damage: Callable[[Path], None], named: bool, complaint: str
) -> None:
    studies.write_study(store, PAIR, (0,), log=False)
    path = store / "runs" / "sft" / "0.json"
    if not named:
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, "files": {}}), encoding="utf-8")
    damage(path.with_suffix("") / "items.parquet")
    with pytest.raises(IncomparableRunsError, match=rf"items\.parquet +\| {complaint}"):
        compare(store)


def test_a_trial_that_names_no_items_is_compared_without_them_and_said_to_be(store: Path) -> None:
    studies.write_study(store, PAIR, (0, 1), log=False)
    path = store / "runs" / "sft" / "0.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "files": {}}), encoding="utf-8")
    (path.with_suffix("") / "items.parquet").unlink()
    results = compare(store, seeds=(0, 1))
    assert results["integrity"]["without_items"] == ["sft/0"]
    assert "Without results by question: sft/0." in results["notes"]


def test_items_without_the_column_cluster_are_read(store: Path) -> None:
    studies.write_study(store, PAIR, (0,), log=False)
    for group in PAIR:
        path = store / "runs" / group / "0.json"
        items = path.with_suffix("") / "items.parquet"
        parquet.write_table(parquet.read_table(items).drop_columns("cluster"), items)
        content = json.loads(path.read_text(encoding="utf-8"))
        content["digests"]["items"] = items_digest(read_items(items))
        path.write_text(json.dumps({**content, "files": {}}), encoding="utf-8")
    assert [task["n_clusters"] for task in compare(store)["tasks"]] == [None, None, None]


def test_equal_log_likelihoods_in_two_groups_are_refused_and_equal_scores_alone_are_not(store: Path) -> None:
    studies.write_study(store, ("sft",), (0, 1), log=False)
    likelihoods = {row["sample_id"]: row["log_likelihoods"] for row in studies.items_of("sft", 0)}
    correct = {row["sample_id"]: row["correct"] for row in studies.items_of("sft", 0)}
    own = studies.items_of("black_box", 0)
    same_scores = [{**row, "correct": correct[row["sample_id"]]} for row in own]
    studies.write_trial(store, "black_box", 0, log=False, items=same_scores)
    studies.write_trial(store, "black_box", 1, log=False)
    assert compare(store, seeds=(0, 1))["integrity"]["finished"] == 4
    same = [{**row, "log_likelihoods": likelihoods[row["sample_id"]]} for row in own]
    studies.write_trial(store, "attention", 0, log=False, items=same)
    studies.write_trial(store, "attention", 1, log=False)
    with pytest.raises(IncomparableRunsError, match="same log-likelihoods in two groups .* sft, attention"):
        compare(store, (*PAIR, "attention"), (0, 1))


def test_items_of_a_trial_from_the_store_come_from_its_artifacts(store: Path) -> None:
    studies.write_conf(store, (0,))
    studies.log_trial(studies.manifest("combined", 0))
    studies.write_study(store, ("black_box",), (0,))
    results = compare(store, ("black_box",))
    assert results["integrity"]["from_store"] == ["combined/0"] and results["integrity"]["without_items"] == []
    (row,) = [row for row in results["trials"] if row["group"] == "combined"]
    assert row["peak_memory_bytes"] == 700_000_000 and row["liveness"]["hidden"]["share"] == 0.5
