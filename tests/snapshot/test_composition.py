"""The teacher's own answers beside the data's: which rows they add, what these hold, and what the gate says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from snapshots import Study, make_study

from glassbox.errors import GlassboxError
from glassbox.models.loading import load_model
from glassbox.models.signals import position_signals
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.labels import Answer, write_teacher_labels
from glassbox.snapshot.partners import batches_with_partners, partners_of, with_answered
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.schema import answered_id
from glassbox.snapshot.verify import verify
from glassbox.tasks.splits import read_split, tasks_digest

ANSWERS = Path("data/answers")


def write_answers(study: Study, folder: Path, text: str = " 7") -> None:
    """The data's answer to every third sample, the same without an end to the next, and `text` to the others."""
    answers = []
    for number, sample in enumerate(read_split(study.tasks, "train")):
        own = text if number % 3 == 2 else sample.answer
        answers.append(Answer(sample.sample_id, sample.task, own, ended=number % 3 != 1, correct=number % 3 != 2))
    write_teacher_labels(folder / ANSWERS, answers, {"provenance": {"tasks": tasks_digest(study.tasks)}})


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("answered")
    study = make_study(folder, samples=12)
    train = study.settings.train.model_copy(update={"labelled": 0.5, "labelled_per_step": 2})
    study = replace(study, settings=study.settings.model_copy(update={"train": train}))
    write_answers(study, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study.capture()
    return study


@pytest.fixture
def study(captured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """In a folder with answers of its own, which may be changed."""
    shutil.copytree(captured.folder.parent / ANSWERS, tmp_path / ANSWERS)
    monkeypatch.chdir(tmp_path)
    return captured


def test_a_training_sample_comes_again_where_the_teachers_answer_has_other_tokens(study: Study) -> None:
    ids = [sample.sample_id for sample in read_split(study.tasks, "train")]
    expected = sorted(answered_id(each) for number, each in enumerate(ids) if number % 3)
    snapshot = Snapshot(study.folder)
    assert [info.sample_id for info in snapshot.samples("answered")] == expected
    assert [info.sample_id for info in snapshot.samples("train")] == sorted(ids)
    assert snapshot.manifest["rows"] == 12 + 6 + 8


def test_its_row_holds_what_the_teacher_says_of_its_own_answer(study: Study) -> None:
    snapshot, model = Snapshot(study.folder), load_model(study.settings.teacher)
    tokenizer = load_tokenizer(study.settings.teacher)
    texts = []
    for number, sample in enumerate(read_split(study.tasks, "train")):
        if number % 3 == 0:
            continue
        batch = snapshot.read([answered_id(sample.sample_id)], frozenset({"hidden", "attention"}))
        texts.append(tokenizer.decode(batch.labels))
        end = tokenizer.eos_token
        assert texts[-1] == (sample.answer if number % 3 == 1 else f" 7{end}")
        with torch.no_grad():
            true = position_signals(
                model, batch.input_ids, batch.attention_mask, batch.first, batch.count, want_attention=True
            )
        torch.testing.assert_close(batch.hidden, true.hidden, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(batch.attention, true.attention, atol=6e-3, rtol=0)


def test_the_channels_are_those_of_the_datas_answers_alone(study: Study) -> None:
    snapshot = Snapshot(study.folder)
    hidden = snapshot.read([info.sample_id for info in snapshot.samples("train")], frozenset({"hidden"})).hidden
    assert hidden is not None
    torch.testing.assert_close(snapshot.channels()[0], hidden.mean(0), atol=1e-4, rtol=1e-4)


def test_the_gate_lets_it_pass_and_captures_it_again(study: Study) -> None:
    assert verify(study.settings, study.folder, study.tasks)["recapture"] == {"samples": 26, "same_bits": 26}


def test_the_gate_refuses_it_once_an_answer_changed(study: Study, tmp_path: Path) -> None:
    write_answers(study, tmp_path, " 8")
    with pytest.raises(GlassboxError, match="made from something else: answers changed since"):
        verify(study.settings, study.folder, study.tasks)


def test_a_text_gets_the_signals_of_its_partners_own_text(study: Study) -> None:
    snapshot = Snapshot(study.folder)
    own = partners_of(snapshot.samples("train"), "train")
    texts = {each: answered_id(each) for each in own if answered_id(each) in snapshot_ids(snapshot)}
    partners = with_answered(own, texts)
    assert {each: partners[each] for each in own} == own
    for sample_id, text in texts.items():
        assert partners[text] == texts.get(own[sample_id], own[sample_id]) != text
    plan = [list(texts.values())[:4]]
    (batch,) = batches_with_partners(snapshot, plan, frozenset(), frozenset({"hidden"}), partners)
    lent = snapshot.read([partners[plan[0][0]]], frozenset({"hidden"})).hidden
    assert batch.partner is not None and batch.partner.hidden is not None and lent is not None
    assert torch.equal(batch.partner.hidden[0], lent[0])


def snapshot_ids(snapshot: Snapshot) -> set[str]:
    return {info.sample_id for info in snapshot.samples("answered")}
