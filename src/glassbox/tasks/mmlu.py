"""MMLU: a question with four options. Scored by the likelihood of the option's letter."""

from __future__ import annotations

from collections.abc import Sequence

from glassbox.tasks.sample import Sample, make_sample

TASK = "mmlu"
LETTERS = "ABCD"
CHOICES = tuple(f" {letter}" for letter in LETTERS)


def sample(split: str, question: str, options: Sequence[str], answer_index: int, subject: str = "") -> Sample:
    """`subject` becomes the sample's cluster: questions of one subject vary together."""
    if len(options) != len(LETTERS) or not 0 <= answer_index < len(LETTERS):
        raise ValueError(f"an MMLU question has four options and an answer among them, not {options!r}, {answer_index}")
    lines = [f"Question: {question.strip()}"]
    lines += [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=True)]
    answer = CHOICES[answer_index]
    return make_sample(TASK, split, "\n".join([*lines, "Answer:"]), answer, CHOICES, answer, subject)
