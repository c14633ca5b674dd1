"""The teacher's answers: what they are, that they are asked for once, and that sampling is seeded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import sections
from miniatures import tiny_tokenizer
from snapshots import Study, make_study

from glassbox.config.settings import ModelSettings
from glassbox.errors import GlassboxError
from glassbox.evaluation.evaluation import Continuation, evaluate
from glassbox.models.encoding import encode_prompt
from glassbox.models.loading import load_model
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot import answers as answers_module
from glassbox.snapshot.answers import (
    accuracy_of,
    answer_samples,
    ask_teacher,
    kept_answers,
    refuse_the_datas_labels,
    text_after,
)
from glassbox.snapshot.labels import Answer
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import read_split


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return with_answers(make_study(tmp_path_factory.mktemp("study")), max_new_tokens=12, batch_size=5)


def with_answers(study: Study, **changes: Any) -> Study:
    answers = study.settings.answers.model_copy(update=changes)
    return Study(study.settings.model_copy(update={"answers": answers}), study.tasks, study.scratch, study.folder)


def asked(study: Study, scratch: Path) -> list[Answer]:
    return ask_teacher(study.settings, study.tasks, scratch)[0]


def test_every_training_prompt_and_no_other_is_answered(study: Study, tmp_path: Path) -> None:
    answers = asked(study, tmp_path)
    samples = read_split(study.tasks, "train")
    assert sorted(answer.sample_id for answer in answers) == sorted(sample.sample_id for sample in samples)
    choices = {sample.sample_id: sample.choices for sample in samples}
    assert all(answer.answer in choices[answer.sample_id] for answer in answers if choices[answer.sample_id])


def test_answers_are_those_by_which_the_teacher_would_be_scored(study: Study, tmp_path: Path) -> None:
    samples = sorted(read_split(study.tasks, "train"), key=lambda sample: sample.sample_id)
    model, tokenizer = load_model(study.settings.teacher), load_tokenizer(study.settings.teacher)
    settings = sections.evaluation(batch_size=64, max_new_tokens=12, teacher_shots=0)
    evaluation = evaluate(model, tokenizer, samples, settings, max_length=256)
    answers = asked(study, tmp_path)
    assert [answer.correct for answer in answers] == [item.correct for item in evaluation.items]
    assert [answer.answer for answer in answers] == [item.prediction for item in evaluation.items]
    found = accuracy_of(answers, samples)["tasks"]
    assert {f"train/{entry['metric']}": entry["value"] for entry in found.values()} == evaluation.metrics("train")


def test_the_facts_say_who_answered_and_that_the_accuracy_is_about_the_labels(study: Study, tmp_path: Path) -> None:
    facts = ask_teacher(study.settings, study.tasks, tmp_path)[1]
    assert facts["provenance"]["teacher"]["files"].keys() == {"config.json", "model.safetensors"}
    assert facts["provenance"]["settings"]["mode"] == "greedy"
    assert "scores no model" in facts["accuracy"]["of"]
    assert facts["accuracy"]["tasks"]["sst2"]["word_for_word"] == 6 * facts["accuracy"]["tasks"]["sst2"]["value"]
    assert facts["accuracy"]["tasks"]["gsm8k"]["cut_off"] <= facts["accuracy"]["tasks"]["gsm8k"]["n"] == 6


def test_answers_that_are_all_the_datas_own_are_refused() -> None:
    tasks = {name: {"n": 3, "word_for_word": 3} for name in ("sst2", "gsm8k")}
    with pytest.raises(GlassboxError, match="'seqkd' would train what the labels alone train"):
        refuse_the_datas_labels({"tasks": tasks}, "seqkd")
    refuse_the_datas_labels({"tasks": {**tasks, "gsm8k": {"n": 3, "word_for_word": 2}}}, "seqkd")


def test_the_teacher_is_asked_once_and_again_where_settings_or_code_change(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, calls = asked(study, tmp_path), []

    def counted(*given: Any) -> list[Answer]:
        calls.append(given)
        return answer_samples(*given)

    monkeypatch.setattr(answers_module, "answer_samples", counted)
    assert asked(study, tmp_path) == first
    assert calls == []
    asked(with_answers(study, max_new_tokens=6), tmp_path)
    assert len(calls) == 1
    monkeypatch.setattr(answers_module, "CODE", "snapshot/labels.py")
    asked(study, tmp_path)
    assert len(calls) == 2


def test_an_interrupted_teacher_goes_on_where_it_was(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = asked(study, tmp_path / "whole"), []
    monkeypatch.setattr(answers_module, "CHUNK_SAMPLES", 7)

    def interrupted(model: Any, tokenizer: Any, samples: list[Sample], settings: Any) -> list[Answer]:
        sizes.append(len(samples))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return answer_samples(model, tokenizer, samples, settings)

    monkeypatch.setattr(answers_module, "answer_samples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(study, tmp_path)
    assert asked(study, tmp_path) == whole
    assert sizes == [7, 7, 7, 4]


def test_sampled_answers_follow_their_seed_and_no_batch(study: Study, tmp_path: Path) -> None:
    def sampled(name: str, **changes: Any) -> dict[str, str]:
        answers = asked(with_answers(study, mode="sampled", **changes), tmp_path / name)
        return {answer.sample_id: answer.answer for answer in answers}

    first = sampled("a", seed=3)
    assert first == sampled("b", seed=3, batch_size=2)
    assert first != sampled("c", seed=4)
    greedy = {answer.sample_id: answer.answer for answer in asked(study, tmp_path / "d")}
    assert first != greedy
    assert sampled("e", seed=3, temperature=1e-6) == greedy


def test_text_follows_its_prompt_with_its_space() -> None:
    tokenizer = tiny_tokenizer()
    prompt, answer = encode_prompt(tokenizer, "Answer:"), encode_prompt(tokenizer, " 7 - 5 = 2")[1:]
    assert text_after(tokenizer, Continuation(tuple(prompt), tuple(answer))) == " 7 - 5 = 2"


@pytest.mark.real
@pytest.mark.parametrize("name", ["llama2", "mistral-7b-v0.1"])
def test_llama_s_text_keeps_the_space_that_decoding_alone_drops(name: str) -> None:
    root = Path(os.environ.get("GLASSBOX_REAL_DATA", "absent")) / "tokenizers"
    if not root.is_dir():
        pytest.skip("GLASSBOX_REAL_DATA names no folder with real tokenizers")
    tokenizer = load_tokenizer(ModelSettings(model=str(root / name)))
    prompt = encode_prompt(tokenizer, "How many?\nAnswer:")
    whole = encode_prompt(tokenizer, "How many?\nAnswer: 12 - 5 = 7\n#### 7")
    assert whole[: len(prompt)] == prompt
    answer = whole[len(prompt) :]
    assert text_after(tokenizer, Continuation(tuple(prompt), tuple(answer))) == " 12 - 5 = 7\n#### 7"
    assert not tokenizer.decode(answer).startswith(" ")


def test_a_kept_answer_with_a_changed_bit_is_asked_for_again(study: Study, tmp_path: Path) -> None:
    before = asked(study, tmp_path)
    (path,) = tmp_path.rglob("part-00000.parquet")
    table = parquet.read_table(path)
    other = ["other", *table.column("answer").to_pylist()[1:]]
    parquet.write_table(table.set_column(2, table.schema.field(2), [pa.array(other)]), path)
    assert asked(study, tmp_path) == before


def test_kept_answers_of_other_samples_do_not_count(study: Study, tmp_path: Path) -> None:
    samples = sorted(read_split(study.tasks, "train"), key=lambda sample: sample.sample_id)
    answers = asked(study, tmp_path)
    (path,) = tmp_path.rglob("part-00000.parquet")
    assert kept_answers(path, samples) == answers
    assert kept_answers(path, samples[1:]) is None and kept_answers(tmp_path / "absent", samples) is None
