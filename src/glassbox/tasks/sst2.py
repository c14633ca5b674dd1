"""SST-2: is a film review's sentence positive or negative? Scored by the likelihood of the label word."""

from __future__ import annotations

from glassbox.tasks.sample import Sample, make_sample

TASK = "sst2"
CHOICES = (" negative", " positive")


def sample(split: str, sentence: str, positive: bool) -> Sample:
    answer = CHOICES[int(positive)]
    return make_sample(TASK, split, f"Review: {sentence.strip()}\nSentiment:", answer, CHOICES, answer)
