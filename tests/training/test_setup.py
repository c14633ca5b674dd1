"""Trials in which some samples have no label: what each group reads of them, and what it may not depend on."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from projects import shrunk_settings
from torch import nn

from glassbox.config.settings import SPLITS, Settings
from glassbox.errors import GlassboxError
from glassbox.snapshot.capture import capture
from glassbox.snapshot.labels import Answer, write_teacher_labels
from glassbox.tasks.splits import read_split, tasks_digest, write_splits
from glassbox.training import trial
from glassbox.training.draws import draw
from glassbox.training.setup import Setup, prepare
from glassbox.training.student import set_dropout

GROUPS = ["sft", "black_box", "hidden_state", "attention", "combined", "seqkd", "replica"]
SCARCE = {"labelled": 0.5, "labelled_per_step": 4}
TEACHERS_TEXT = " 77"


def settings_of(project: Path, **train: Any) -> Settings:
    groups = {"seqkd": {"task": 1.0, "labels": "teacher"}, "replica": {"task": 1.0, "logits": 0.5, "replica": 1}}
    return shrunk_settings(project, groups=GROUPS, distill=groups, train=train)


def unlabelled(project: Path) -> frozenset[str]:
    tasks = {sample.sample_id: sample.task for sample in read_split(project / "data/tasks", "train")}
    return frozenset(tasks) - draw(tasks, None, 0.5, 0).labelled


def recapture(project: Path, settings: Settings) -> None:
    """The teacher's text stands for each of its answers; the signals are those of a model."""
    tasks = project / "data/tasks"
    answers = [Answer(s.sample_id, s.task, TEACHERS_TEXT, True, False) for s in read_split(tasks, "train")]
    write_teacher_labels(project / "data/answers", answers, {"provenance": {"tasks": tasks_digest(tasks)}})
    capture(settings, tasks, project / "data/snapshot", project / ".glassbox")


def rewrite(project: Path, sample_ids: Collection[str]) -> None:
    """Give training samples another answer under their old ids."""
    splits = {split: list(read_split(project / "data/tasks", split)) for split in SPLITS}
    train = [replace(s, answer=f"{s.answer} no") if s.sample_id in sample_ids else s for s in splits["train"]]
    write_splits(project / "data/tasks", splits | {"train": train})


@pytest.fixture
def scarce(project: Path) -> Settings:
    """A project half of whose samples have labels."""
    settings = settings_of(project, **SCARCE)
    recapture(project, settings)
    return settings


def trained(project: Path, settings: Settings, group: str) -> dict[str, Any]:
    trial.run_trial(settings, group, 0)
    return json.loads((project / f"runs/{group}/0.json").read_text(encoding="utf-8"))


def first_batches(setup: Setup) -> dict[str, tuple[str, bool]]:
    """Of every sample of a trial's steps: the text of its answer, and whether its label counts."""
    plan = [batch for step in setup.schedule.steps for batch in step]
    seen = {}
    for sample_ids, batch in zip(plan, setup.batches(plan), strict=True):
        for row, sample_id in enumerate(sample_ids):
            answer = batch.labels[batch.sample_index == row][-int(batch.answer_count[row]) :]
            text = setup.tokenizer.decode(answer, skip_special_tokens=True)
            seen[sample_id] = text, batch.labelled is None or bool(batch.labelled[row])
    return seen


def test_all_groups_share_the_order_and_the_rank_and_name_their_share(project: Path, scarce: Settings) -> None:
    manifests = [trained(project, scarce, group) for group in ("sft", "seqkd", "black_box")]
    for name in ("data_order", "label_rank", "initial_student", "snapshot"):
        assert len({manifest["digests"][name] for manifest in manifests}) == 1, name
    assert len({manifest["digests"]["final_student"] for manifest in manifests}) == 3
    assert {manifest["steps"] for manifest in manifests} == {6}
    assert all(manifest["params"]["labelled"] == "0.5" for manifest in manifests)
    assert ["answers" in manifest["digests"] for manifest in manifests] == [False, True, True]


def test_each_group_reads_the_datas_answer_of_labelled_samples_and_the_teachers_of_others(
    project: Path, scarce: Settings
) -> None:
    samples = {sample.sample_id: sample for sample in read_split(project / "data/tasks", "train")}
    without = unlabelled(project)
    for group in ("sft", "seqkd", "black_box", "combined"):
        seen = first_batches(prepare(scarce, group, 0))
        assert (seen.keys() & without == set()) == (group == "sft")
        for sample_id, (text, counts) in seen.items():
            expected = TEACHERS_TEXT if sample_id in without else samples[sample_id].answer
            assert text.strip() == expected.strip(), (group, sample_id)
            assert counts == (sample_id not in without or group == "seqkd"), (group, sample_id)


def test_a_snapshot_without_the_teachers_answers_is_refused(project: Path) -> None:
    answers = [Answer(s.sample_id, s.task, " 9", True, False) for s in read_split(project / "data/tasks", "train")]
    tasks = tasks_digest(project / "data/tasks")
    write_teacher_labels(project / "data/answers", answers, {"provenance": {"tasks": tasks}})
    with pytest.raises(GlassboxError, match=r"Group black_box reads the teacher's own answers.*`dvc repro snapshot`"):
        prepare(settings_of(project, **SCARCE), "black_box", 0)


def test_validation_keeps_its_labels_for_every_group(scarce: Settings) -> None:
    setup = prepare(scarce, "black_box", 0)
    ids = [sample.sample_id for sample in setup.validation]
    (batch,) = setup.batches([ids])
    assert batch.labelled is not None and batch.labelled.all()


def test_the_control_depends_on_no_answer_of_a_sample_without_a_label(project: Path) -> None:
    alone = settings_of(project, **SCARCE)
    alone = alone.model_copy(update={"groups": ("sft",), "distill": {"sft": alone.distill["sft"]}})
    without, students = unlabelled(project), []
    labelled = {sample.sample_id for sample in read_split(project / "data/tasks", "train")} - without
    for changed in (set(), without, labelled):
        rewrite(project, changed)
        recapture(project, alone)
        students.append(trained(project, alone, "sft")["digests"]["final_student"])
    assert students[0] == students[1] != students[2]


def test_a_replica_without_projector_and_dropout_is_its_group_once_more(project: Path) -> None:
    settings = settings_of(project)
    black_box, replica = (trained(project, settings, group) for group in ("black_box", "replica"))
    assert replica["digests"] == black_box["digests"]
    assert replica["key"] != black_box["key"] and replica["params"]["replica"] == 1


def test_a_replica_has_another_stream_of_dropout_and_the_same_order(project: Path) -> None:
    settings = settings_of(project, dropout=0.2, max_steps=3)
    black_box, replica = (trained(project, settings, group) for group in ("black_box", "replica"))
    differing = {name for name in black_box["digests"] if black_box["digests"][name] != replica["digests"][name]}
    assert "final_student" in differing and differing <= {"final_student", "items"}
    again = trained(project, settings, "black_box")
    assert again["digests"] == black_box["digests"]
    plain = trained(project, settings_of(project, max_steps=3), "black_box")
    assert plain["digests"]["final_student"] != black_box["digests"]["final_student"]


def test_a_replica_with_a_projector_starts_from_another_one(project: Path) -> None:
    settings = settings_of(project)
    own = settings.distill["hidden_state"]
    again = settings.model_copy(
        update={"distill": {**settings.distill, "replica": own.model_copy(update={"replica": 1})}}
    )
    first, second = (prepare(again, group, 0) for group in ("hidden_state", "replica"))
    assert first.initial_student == second.initial_student
    own, other = (trial.student.projectors["hidden"].weight for trial in (first, second))
    assert not torch.equal(own, other)


def test_samples_are_drawn_anew_by_each_seed_and_the_same_for_every_group(project: Path) -> None:
    settings = settings_of(project, samples=4)
    drawn = [
        set(prepare(settings, group, seed).draw.samples) for group, seed in (("sft", 0), ("combined", 0), ("sft", 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 12
    assert sorted(first_batches(prepare(settings, "combined", 0))) == sorted(drawn[0])


def test_dropout_reaches_layers_and_attentions_whatever_their_attribute_is_called() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout, self.dropout, self.layerdrop = 0.0, 0, 0.0
            self.resid_dropout = nn.Dropout(0.3)

    model = nn.Sequential(Attention(), nn.Dropout(0.5))
    set_dropout(model, 0.1)
    attention = model[0]
    assert (attention.attention_dropout, attention.dropout, attention.layerdrop) == (0.1, 0.1, 0.0)
    assert attention.resid_dropout.p == model[1].p == 0.1
