"""What tokenizers make of the samples: ties, answers that do not come back, lengths beyond the limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import save_model_folder, tiny_tokenizer
from projects import merged, shrunk_settings
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.tasks.reading import sample_doubts
from glassbox.tasks.sample import Sample, make_sample

Doubts = Callable[..., list[str]]


@pytest.fixture
def doubts(tmp_path: Path) -> Doubts:
    def of(samples: list[Sample], tokenizer: PreTrainedTokenizerFast | None = None, **changes: Any) -> list[str]:
        for role in ("teacher", "student"):
            save_model_folder(tmp_path / "models" / role, tokenizer or tiny_tokenizer())
        values = shrunk_settings(tmp_path).model_dump(mode="json")
        del values["prepare"]["tasks"]
        task = {"source": "jsonl", "files": dict.fromkeys(("train", "validation", "test"), "mine.jsonl")}
        settings = Settings.model_validate(
            merged(values, {"prepare": {"tasks": {"mine": task}}, "evaluation": {"max_new_tokens": 64}, **changes})
        )
        return sample_doubts(settings, {"train": samples[:1], "validation": [], "test": samples[1:]})

    return of


def choosing(*pairs: tuple[str, str]) -> list[Sample]:
    return [
        make_sample("mine", "test", f"Case {number}?", f" {first}", (f" {first}", f" {second}"), f" {first}")
        for number, (first, second) in enumerate(pairs)
    ]


def writing(*answers: str) -> list[Sample]:
    return [
        make_sample("mine", "test", f"Case {number}?", f" {answer}", (), answer)
        for number, answer in enumerate(answers)
    ]


def lowering_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def test_samples_that_are_read_whole_raise_no_doubt(doubts: Doubts) -> None:
    assert doubts(choosing(("yes", "no"), ("no", "yes"))) == []
    assert doubts(writing("yes", "no </s> it is")) == []


def test_choices_that_are_the_same_tokens_are_counted_and_named(doubts: Doubts) -> None:
    samples = choosing(("yes", "no"), ("polish", "Polish"), ("yes", "no"))
    (said,) = doubts(samples, lowering_tokenizer())
    assert said.startswith("1 of 3 mine samples have choices that are the same tokens to the teacher's tokenizer")
    assert samples[1].sample_id in said


def test_a_task_that_nobody_can_answer_is_refused(doubts: Doubts) -> None:
    with pytest.raises(
        GlassboxError, match="No mine test sample can be answered right: 2 of 2 mine samples have choices"
    ):
        doubts(choosing(("polish", "Polish"), ("Polish", "polish")), lowering_tokenizer())
    with pytest.raises(GlassboxError, match="have an answer that the teacher's tokenizer does not give back"):
        doubts(writing("yes", "Paris"), lowering_tokenizer())


def test_an_answer_that_does_not_come_back_is_named(doubts: Doubts) -> None:
    samples = writing("yes", "Paris", "no")
    (said,) = doubts(samples, lowering_tokenizer())
    assert said.startswith("1 of 3 mine samples have an answer that") and samples[1].sample_id in said


def test_answers_longer_than_the_limit_are_counted_with_the_limit_that_would_do(doubts: Doubts) -> None:
    samples = writing("x", "1 2 3", "1 2 3 4 5 6 7 8 9", "1 2")
    (said,) = doubts(samples, evaluation={"max_new_tokens": 6})
    assert said.startswith("1 of 3 mine test answers have more tokens than evaluation.max_new_tokens 6")
    needed = int(said.partition("evaluation.max_new_tokens=")[2].partition("`")[0])
    assert doubts(samples, evaluation={"max_new_tokens": needed}) == []


def test_shortened_prompts_are_counted_with_the_length_that_keeps_all(doubts: Doubts) -> None:
    samples = choosing(*[("yes", "no")] * 4)
    (said,) = doubts(samples, snapshot={"max_length": 5})
    assert said.startswith("Most mine samples, 4 of 4, have more tokens than snapshot.max_length 5")
    needed = int(said.partition("snapshot.max_length=")[2].partition("`")[0])
    assert doubts(samples, snapshot={"max_length": needed}) == []
