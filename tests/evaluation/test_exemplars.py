"""Training samples before a test prompt: which, how many, and how what follows them is judged."""

from __future__ import annotations

import pytest
from miniatures import tiny_tokenizer
from snapshots import sample

from glassbox.errors import GlassboxError
from glassbox.evaluation.evaluation import Evaluation, ItemResult, scored
from glassbox.evaluation.exemplars import draw_exemplars, judged_alone, shares_in_format, with_exemplars
from glassbox.models.encoding import encode_prompt
from glassbox.tasks.sample import Sample

TRAIN = [sample("train", index) for index in range(30)]
TEST = [sample("test", index) for index in range(2000, 2006)]


def evaluation(samples: list[Sample], texts: list[str]) -> Evaluation:
    items = [
        ItemResult(each.sample_id, each.task, False, False, text, each.gold, ())
        for each, text in zip(samples, texts, strict=True)
    ]
    return scored(samples, items)


def test_exemplars_are_of_their_task_and_depend_on_the_seed_alone() -> None:
    drawn = draw_exemplars(TRAIN, 4, seed=0)
    assert {task: {each.task for each in shown} for task, shown in drawn.items()} == {
        task: {task} for task in ("sst2", "mmlu", "gsm8k")
    }
    assert all(len({each.sample_id for each in shown}) == 4 for shown in drawn.values())
    assert draw_exemplars(TRAIN[::-1], 4, seed=0) == {task: drawn[task] for task in ("gsm8k", "mmlu", "sst2")}
    assert draw_exemplars(TRAIN, 4, seed=1) != drawn


def test_more_shots_than_training_samples_are_refused() -> None:
    with pytest.raises(GlassboxError, match=r"task 'sst2' has 10 training samples to show.*teacher_shots=10"):
        draw_exemplars(TRAIN, 11, seed=0)


def test_every_prompt_begins_with_its_tasks_exemplars_and_ends_as_it_was() -> None:
    exemplars = draw_exemplars(TRAIN, 2, seed=0)
    shots = with_exemplars(TEST, exemplars, tiny_tokenizer(), limit=10_000)
    assert shots.fewer == {"sst2": 0, "mmlu": 0, "gsm8k": 0}
    for before, after in zip(TEST, shots.samples, strict=True):
        first, second = exemplars[before.task]
        assert after.prompt == "\n\n".join([first.prompt + first.answer, second.prompt + second.answer, before.prompt])
        assert (after.sample_id, after.gold, after.choices) == (before.sample_id, before.gold, before.choices)


def test_exemplars_without_room_are_left_out_whole_and_counted() -> None:
    tokenizer, exemplars = tiny_tokenizer(), draw_exemplars(TRAIN, 6, seed=0)
    longest = max(len(encode_prompt(tokenizer, each.prompt)) for each in TEST)
    shots = with_exemplars(TEST, exemplars, tokenizer, limit=longest + 60)
    for after in shots.samples:
        assert len(encode_prompt(tokenizer, after.prompt)) <= longest + 60
        blocks = [each.prompt + each.answer for each in exemplars[after.task]]
        shown = after.prompt.split("\n\n")[:-1]
        assert shown == blocks[len(blocks) - len(shown) :]
    assert shots.fewer["mmlu"] == 2
    assert with_exemplars(TEST, exemplars, tokenizer, limit=1).samples == TEST


def test_a_generated_answer_ends_where_the_model_goes_on_to_a_sample_of_its_own() -> None:
    problem = next(each for each in TEST if each.task == "gsm8k")
    right = f"{problem.answer}\n\nQuestion: another?\nAnswer: #### 1"
    wrong = f" I do not know.\n\nQuestion: another?\nAnswer:{problem.answer}"
    judged = judged_alone(evaluation([problem, problem], [right, wrong]), [problem, problem])
    assert [item.correct for item in judged.items] == [True, False]
    assert judged.items[0].prediction == problem.answer
    assert judged.scores["gsm8k"].value == 0.5


def test_the_share_in_format_counts_numbers_after_the_mark_right_or_wrong() -> None:
    problem, review = (next(each for each in TEST if each.task == task) for task in ("gsm8k", "sst2"))
    samples = [problem, problem, problem, review]
    found = shares_in_format(evaluation(samples, [" #### 12", " It is 12.", " ####", " good"]), samples)
    assert found == {"gsm8k": pytest.approx(1 / 3)}
