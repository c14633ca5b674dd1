"""Training samples before a test prompt, so that a model which was never trained on a task sees how answers look.

For the teacher's own score only: a pretrained model that never writes '####' fails every GSM8K item at 0 shots, which
measures its format and not what it knows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from glassbox.errors import GlassboxError
from glassbox.evaluation.evaluation import Evaluation, scored
from glassbox.models.encoding import encode_prompt
from glassbox.tasks.sample import Sample, extract_number, has_number_answer, is_correct_generation

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Shots:
    """Test samples with exemplars before their prompts. `fewer` counts, by task, those that had no room for all."""

    samples: list[Sample]
    exemplars: dict[str, list[Sample]]
    fewer: dict[str, int]


def draw_exemplars(train: Sequence[Sample], shots: int, seed: int) -> dict[str, list[Sample]]:
    """`shots` training samples of every task, the same for all of its test samples.

    Each task has a generator of its own. Raises GlassboxError for a task with too few training samples.
    """
    drawn = {}
    for task in dict.fromkeys(sample.task for sample in train):
        pool = sorted((sample for sample in train if sample.task == task), key=lambda sample: sample.sample_id)
        if len(pool) < shots:
            raise GlassboxError(
                f"evaluation.teacher_shots is {shots}, and task '{task}' has {len(pool)} training samples to show. "
                f"Use `-S evaluation.teacher_shots={len(pool)}` or fewer."
            )
        place = hashlib.sha256(f"{task}/exemplars".encode()).digest()
        generator = np.random.default_rng([seed, int.from_bytes(place[:8], "little")])
        drawn[task] = [pool[index] for index in generator.permutation(len(pool))[:shots]]
    return drawn


def with_exemplars(
    samples: Sequence[Sample], exemplars: Mapping[str, Sequence[Sample]], tokenizer: PreTrainedTokenizerFast, limit: int
) -> Shots:
    """Every sample with its task's exemplars before its prompt: as many of the last as fit into `limit` tokens."""
    shown: list[Sample] = []
    fewer: Counter[str] = Counter()
    for sample in samples:
        if sample.is_text:
            shown.append(sample)
            continue
        blocks = [f"{each.prompt}{each.answer}" for each in exemplars.get(sample.task, ())]
        left = next(
            count
            for count in range(len(blocks), -1, -1)
            if count == 0 or len(encode_prompt(tokenizer, _joined(blocks, count, sample.prompt))) <= limit
        )
        fewer[sample.task] += left < len(blocks)
        shown.append(replace(sample, prompt=_joined(blocks, left, sample.prompt)))
    return Shots(shown, {task: list(each) for task, each in exemplars.items()}, dict(fewer))


def _joined(blocks: Sequence[str], count: int, prompt: str) -> str:
    return SEPARATOR.join([*blocks[len(blocks) - count :], prompt])


def judged_alone(evaluation: Evaluation, samples: Sequence[Sample]) -> Evaluation:
    """The same results with each generated answer cut where the model went on to a sample of its own."""
    items = []
    for sample, item in zip(samples, evaluation.items, strict=True):
        if not sample.choices and not sample.is_text:
            text = item.prediction.partition(SEPARATOR)[0]
            item = replace(item, prediction=text, correct=is_correct_generation(sample, text))
        items.append(item)
    return scored(samples, items)


def shares_in_format(evaluation: Evaluation, samples: Sequence[Sample]) -> dict[str, float]:
    """By task, the share of generated answers that hold a number after '####', right or wrong; tasks that need none
    are left out."""
    found: dict[str, list[bool]] = {}
    for sample, item in zip(samples, evaluation.items, strict=True):
        if not sample.choices and not sample.is_text and has_number_answer(sample):
            found.setdefault(sample.task, []).append(extract_number(item.prediction) is not None)
    return {task: sum(each) / len(each) for task, each in found.items()}
