"""The embedded miniature tasks: their answers are right, and no item is shared between splits or with pretraining."""

import itertools
import re
from collections import Counter

import pytest

from glassbox.config.rules import EMBEDDED_ITEMS
from glassbox.config.settings import SPLITS, TaskSettings
from glassbox.errors import GlassboxError
from glassbox.tasks import mmlu
from glassbox.tasks.miniature import generators as embedded
from glassbox.tasks.miniature import world

SETTINGS = TaskSettings(source="embedded", train=120, validation=30, test=120)
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


@pytest.mark.parametrize("task", embedded.GENERATORS)
def test_splits_hold_as_many_distinct_items_as_were_asked_for_and_share_none(task: str) -> None:
    splits = embedded.load(task, SETTINGS, seed=0)
    prompts = {split: {sample.prompt for sample in samples} for split, samples in splits.items()}
    assert {split: len(found) for split, found in prompts.items()} == {"train": 120, "validation": 30, "test": 120}
    assert not (prompts["train"] & prompts["test"] | prompts["train"] & prompts["validation"])
    assert not prompts["test"] & prompts["validation"]


@pytest.mark.parametrize("task", embedded.GENERATORS)
def test_pretraining_never_sees_an_item_of_any_study(task: str) -> None:
    studied = {
        sample.prompt
        for seed in range(3)
        for samples in embedded.load(task, SETTINGS, seed).values()
        for sample in samples
    }
    pretrained = {sample.prompt for sample in itertools.islice(embedded.stream(task, "pretraining", "1"), 3000)}
    assert not studied & pretrained


@pytest.mark.parametrize("task", embedded.GENERATORS)
def test_the_same_seed_gives_the_same_items_and_another_seed_others(task: str) -> None:
    first, again, other = (embedded.load(task, SETTINGS, seed)["train"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_worked_steps_of_a_word_problem_are_right_and_lead_to_its_number() -> None:
    for sample in itertools.islice(embedded.stream("gsm8k", "train", "test"), 300):
        steps, number = sample.answer.split("####")
        lines = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", steps)
        assert 2 <= len(lines) <= 4
        for left, sign, right, result in lines:
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
        assert int(number) == int(lines[-1][3]) == int(sample.gold)
        assert all(left == earlier[3] for earlier, (left, *_) in itertools.pairwise(lines))


def test_the_answer_to_a_question_is_the_fact_that_the_world_holds() -> None:
    for sample in itertools.islice(embedded.stream("mmlu", "train", "test"), 300):
        question, *options = sample.prompt.removesuffix("\nAnswer:").split("\n")
        path, who = next(
            (path, who)
            for path in world.PATHS
            for who in world.PEOPLE
            if question == f"Question: {path.question.format(who=who)}"
        )
        assert options["ABCD".index(sample.gold.strip())][3:] == world.answer(who, path)
        assert len(set(options)) == 4
        assert sample.cluster == "-".join(path.relations)


def polarity(clause: str) -> bool:
    negated = any(f" {negation} " in f" {clause.replace('_', ' ')} " for negation in embedded.NEGATIONS)
    return (clause.split()[-1] in embedded.PRAISE) != negated


def main_clause(sentence: str) -> str:
    """The clause that decides, found by another way than the generator's."""
    sentence = sentence.removesuffix(" .").replace("anything but", "anything_but")
    for mark, side in ((", yet", 1), (" but ", 1), (", even though", 0)):
        if mark in sentence:
            return sentence.split(mark)[side].strip()
    return sentence.rpartition(" , ")[2] if sentence.startswith("although") else sentence.split(" and ")[0]


def test_the_settings_know_how_many_questions_the_closed_world_has() -> None:
    prompts = set()
    for path, who in itertools.product(world.PATHS, world.PEOPLE):
        answer = world.answer(who, path)
        for others in itertools.combinations([option for option in path.options if option != answer], 3):
            options = sorted([answer, *others])
            question = path.question.format(who=who)
            prompts.add(mmlu.sample("train", question, options, options.index(answer)).prompt)
    held = Counter(map(embedded.bucket_of, prompts))
    assert {split: held[split] for split in SPLITS} == EMBEDDED_ITEMS["mmlu"]


def test_a_review_is_as_positive_as_its_main_clause() -> None:
    for sample in itertools.islice(embedded.stream("sst2", "train", "test"), 500):
        sentence = sample.prompt.removeprefix("Review: ").removesuffix("\nSentiment:")
        assert sample.gold == (" positive" if polarity(main_clause(sentence)) else " negative"), sentence


def test_most_questions_need_more_than_one_fact() -> None:
    assert sum(len(path.relations) > 1 for path in world.PATHS) > len(world.PATHS) / 2


def test_a_task_that_is_not_embedded_is_refused_with_those_that_are() -> None:
    with pytest.raises(GlassboxError, match="sst2, mmlu, gsm8k"):
        embedded.load("squad", SETTINGS, seed=0)
