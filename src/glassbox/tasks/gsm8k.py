"""GSM8K: a word problem worked out step by step. Scored by exact match of the generated number after '####'."""

from __future__ import annotations

import re

from glassbox.tasks.sample import ANSWER_MARK, Sample, extract_number, make_sample

TASK = "gsm8k"
_CALCULATION = re.compile(r"<<[^<>]*>>")


def sample(split: str, question: str, worked_answer: str) -> Sample:
    """`worked_answer` is the data set's own text: steps, with or without <<calculations>>, then '#### number'."""
    number = extract_number(worked_answer)
    if number is None:
        raise ValueError(
            f"a GSM8K answer ends in '{ANSWER_MARK} number', this one does not: ...{worked_answer[-60:]!r}"
        )
    answer = f" {_CALCULATION.sub('', worked_answer).strip()}"
    return make_sample(TASK, split, f"Question: {question.strip()}\nAnswer:", answer, (), number)
