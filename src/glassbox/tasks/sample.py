"""One item of a task, and how its parts are judged: the vocabulary every task module and source shares."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol, TypeVar

from glassbox.models.running import is_running

ANSWER_MARK = "####"
FIELD_SEPARATOR = "\x1f"

_CURRENCY = "$€£¥₹"
_BLANK = r"[^\S\n]"
_NUMBER_AFTER_MARK = re.compile(
    rf"""
    \#{{4}} \s*+ [*`(\[]*+                                       # the mark, then emphasis or brackets
    (?P<sign>[-+\u2212]?) [{_CURRENCY}]? {_BLANK}*+ (?P<inner_sign>[-+\u2212]?)
    (?= \.?[0-9] )
    (?P<plain>
        (?P<digits>
            (?: [0-9]{{1,3}} (?:,[0-9]{{2,3}})* ,[0-9]{{3}}          # 1,000,000 and 10,00,000
            | [0-9]{{1,3}} (?:[ \u00a0\u2009\u202f][0-9]{{3}})+     # 1 000 000
            | [0-9]+ ) (?:\.[0-9]+)?
        | \.[0-9]+ )
        (?! [0-9] | [.,:'\u2019_] [0-9] | {_BLANK}+ [0-9] )        # 1.5.2, 1_000 and 5 1/2 are no numbers,
        (?! {_BLANK}* [-+*/^x×\u00f7\u2212\u2013] {_BLANK}* [0-9] | [eE][-+]?[0-9] )              # expressions neither,
        (?! {_BLANK}* (?: [\u00bc-\u00be\u2150-\u215e] | \\frac | (?:hundred|thousand|[bm]illion)s?\b ))
    )?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Sample:
    """`answer` is the training target; `choices` are scored by log-likelihood, and without them a text is generated.

    `answer` and every choice begin with a space, or as the chat template that rendered the prompt has it. `gold` is the
    right member of `choices`, or the number or text that the generation must match. `cluster` names the group of
    related questions, such as a subject ("": none). A prompt without labels has the empty answer. A block of running
    text (models/running.py) has its context as prompt; it has neither choices nor gold, and its answer is not generated
    but scored.
    """

    sample_id: str
    task: str
    prompt: str
    answer: str
    choices: tuple[str, ...]
    gold: str
    cluster: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it is a block of running text, scored by the likelihood of every token."""
        return is_running(self.prompt)

    @property
    def identity(self) -> str:
        """What no two samples of a study share: the prompt, or of running text all of it."""
        return f"{self.prompt}{self.answer}" if self.is_text else self.prompt


def make_sample(
    task: str, split: str, prompt: str, answer: str, choices: tuple[str, ...], gold: str, cluster: str = ""
) -> Sample:
    """A sample under its stable id: task, split and a digest of prompt and answer."""
    digest = hashlib.sha256(f"{prompt}{FIELD_SEPARATOR}{answer}".encode()).hexdigest()[:16]
    return Sample(f"{task}/{split}/{digest}", task, prompt, answer, choices, gold, cluster)


def assign(sample: Sample, task: str, split: str) -> Sample:
    """The same item as a member of `task` and `split`: nothing else changes."""
    digest = sample.sample_id.rpartition("/")[2]
    return replace(sample, sample_id=f"{task}/{split}/{digest}", task=task)


def normalise_number(digits: str) -> str:
    """'1,000.50' -> '1000.5', '-0.0' -> '0': one spelling for each value."""
    value = Decimal(re.sub(r"[,\s]", "", digits).replace("\u2212", "-"))
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "", "-") else plain


def extract_number(text: str) -> str | None:
    """The number after the first '####' that a digit follows, normalised; None where that is no plain number.

    The first such mark counts, as in GSM8K's own scorer: headings (`#### Step one`) are passed over, and what a model
    writes after its answer is not its answer. docs/own_data.md lists what is read otherwise than by that scorer.
    """
    match = _NUMBER_AFTER_MARK.search(text)
    if match is None or match["plain"] is None or (match["sign"] and match["inner_sign"]):
        return None
    return normalise_number(f"{match['sign'] or match['inner_sign']}{match['digits']}")


def has_number_answer(sample: Sample) -> bool:
    return ANSWER_MARK in sample.answer


def is_correct_generation(sample: Sample, generated_text: str) -> bool:
    """Exact match: of the number after '####' where the answer has one, of the stripped text otherwise."""
    if has_number_answer(sample):
        return extract_number(generated_text) == sample.gold
    return generated_text.strip() == sample.gold


PERPLEXITY = "perplexity"
METRICS = ("accuracy", "exact_match", PERPLEXITY)


def metric_name(task: str, has_choices: bool, is_text: bool = False) -> str:
    """'accuracy_<task>' counts right choices, 'exact_match_<task>' generated answers that match; 'perplexity_<task>'
    is that of running text."""
    return f"{PERPLEXITY if is_text else 'accuracy' if has_choices else 'exact_match'}_{task}"


def chance_levels(samples: Iterable[Sample]) -> dict[str, float]:
    """The share of right answers that guessing gives, by task: 0 where answers are generated."""
    shares: dict[str, list[float]] = {}
    for sample in samples:
        shares.setdefault(sample.task, []).append(1 / len(sample.choices) if sample.choices else 0.0)
    return {task: sum(found) / len(found) for task, found in shares.items()}


class HasTask(Protocol):
    """Anything that names the task it belongs to."""

    @property
    def task(self) -> str: ...


OfTask = TypeVar("OfTask", bound=HasTask)


def spread(samples: Sequence[OfTask], count: int) -> list[OfTask]:
    """`count` samples, evenly from all tasks: the first of each, in turn."""
    by_task: dict[str, list[OfTask]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, []).append(sample)
    chosen: list[OfTask] = []
    for index in range(count):
        chosen += [mine[index] for mine in by_task.values() if index < len(mine)]
    return chosen[:count]
