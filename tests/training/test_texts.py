"""Samples as the student's own tokens: the same batches as the snapshot's, or with the teacher's answers in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from snapshots import Study, make_study

from glassbox.errors import GlassboxError
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.labels import Answer
from glassbox.snapshot.reader import Snapshot
from glassbox.tasks.splits import read_split
from glassbox.training.texts import Texts


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make_study(tmp_path_factory.mktemp("study"))
    study.capture()
    return study


def texts(study: Study, answers: dict[str, Answer] | None = None) -> Texts:
    return Texts(study.tasks, load_tokenizer(study.settings.student), study.settings.snapshot, answers)


def all_answers(study: Study, text: str, ended: bool = True) -> dict[str, Answer]:
    return {s.sample_id: Answer(s.sample_id, s.task, text, ended, False) for s in read_split(study.tasks, "train")}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_with_the_datas_labels_texts_give_what_the_snapshot_gives(study: Study, split: str) -> None:
    mine, theirs = texts(study), Snapshot(study.folder)
    assert mine.samples(split) == theirs.samples(split)
    plan = [tuple(info.sample_id for info in mine.samples(split)[:4])]
    first, second = (next(iter(source.batches(plan, frozenset()))) for source in (mine, theirs))
    for name in ("sample_ids", "tasks"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("input_ids", "attention_mask", "first", "count", "labels", "sample_index"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
        assert getattr(first, name).dtype == getattr(second, name).dtype


def test_the_teachers_answer_and_an_end_are_what_is_learned(study: Study) -> None:
    tokenizer = load_tokenizer(study.settings.student)
    source = texts(study, all_answers(study, " good, not bad"))
    batch = next(iter(source.batches([[source.samples("answered")[0].sample_id]], frozenset())))
    assert tokenizer.decode(batch.labels.tolist()) == " good, not bad</s>"


def test_an_answer_that_was_cut_off_teaches_no_end_and_an_empty_one_nothing_else(study: Study) -> None:
    tokenizer = load_tokenizer(study.settings.student)
    for text, ended, learned in ((" good, not", False, " good, not"), ("", True, "</s>")):
        source = texts(study, all_answers(study, text, ended))
        batch = next(iter(source.batches([[source.samples("answered")[0].sample_id]], frozenset())))
        assert tokenizer.decode(batch.labels.tolist()) == learned


def test_validation_keeps_the_datas_labels(study: Study) -> None:
    assert texts(study, all_answers(study, " x")).samples("validation") == texts(study).samples("validation")


def test_a_prompt_without_an_answer_and_a_signal_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(GlassboxError, match="gave no answer to"):
        texts(study, dict(list(all_answers(study, " x").items())[1:]))
    with pytest.raises(GlassboxError, match="Texts carry no attention and no hidden"):
        next(iter(texts(study).batches([["a"]], frozenset({"hidden", "attention"}))))
