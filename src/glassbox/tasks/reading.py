"""What a model's tokenizer makes of the samples: which of them nobody can answer, and which are not read whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.errors import GlassboxError
from glassbox.files import brief_ids
from glassbox.models.encoding import Encoded, decode_answer, encode_sample
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.tasks.sample import Sample, is_correct_generation

NO_LIMIT = 2**31


@dataclass(frozen=True)
class Reading:
    """One sample in tokens. `alike`: two of its choices are the same ids. `returns`: its own answer counts as right
    once it has been encoded and decoded."""

    sample: Sample
    split: str
    tokens: int
    answer_tokens: int
    alike: bool
    returns: bool


def readings(splits: Mapping[str, Sequence[Sample]], tokenizer: PreTrainedTokenizerFast) -> list[Reading]:
    """Every sample as the tokenizer reads it, without a limit on its length; running text is none to be answered."""
    known: dict[tuple[str, ...], bool] = {}
    found = []
    for split, samples in splits.items():
        for sample in (each for each in samples if not each.is_text):
            encoded = _encoded(tokenizer, sample, sample.answer)
            own = encoded.ids[encoded.loss_start + 1 : -1]
            if sample.choices not in known:
                known[sample.choices] = _are_alike(tokenizer, sample)
            alike = known[sample.choices]
            returns = bool(sample.choices) or is_correct_generation(sample, decode_answer(tokenizer, own))
            found.append(Reading(sample, split, len(encoded.ids), len(own), alike, returns or not sample.answer))
    return found


def _encoded(tokenizer: PreTrainedTokenizerFast, sample: Sample, answer: str) -> Encoded:
    return encode_sample(tokenizer, sample.prompt, answer, max_length=NO_LIMIT, overflow="refuse")


def _are_alike(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> bool:
    encoded = [_encoded(tokenizer, sample, choice) for choice in sample.choices]
    return len({each.ids[each.loss_start + 1 : -1] for each in encoded}) < len(encoded)


def sample_doubts(settings: Settings, splits: Mapping[str, Sequence[Sample]]) -> list[str]:
    """A sentence for everything about the samples that no training can make good, for each tokenizer of the pair.

    Raises GlassboxError for a task of which no test sample can be answered right.
    """
    models = {"teacher": settings.teacher, "student": settings.student}
    by_tokenizer: dict[str, tuple[str, PreTrainedTokenizerFast]] = {}
    for role, model in models.items():
        tokenizer = load_tokenizer(model)
        by_tokenizer.setdefault(tokenizer_fingerprint(tokenizer), (role, tokenizer))
    sentences: list[str] = []
    for role, tokenizer in by_tokenizer.values():
        found = readings(splits, tokenizer)
        for task in settings.prepare.tasks:
            mine = [reading for reading in found if reading.sample.task == task]
            sentences += [sentence for sentence in _of_task(task, mine, role, settings) if sentence not in sentences]
    return sentences


def _of_task(task: str, found: Sequence[Reading], role: str, settings: Settings) -> Iterator[str]:
    whose = f"the {role}'s tokenizer"
    alike = [reading for reading in found if reading.alike]
    if alike:
        why = f"have choices that are the same tokens to {whose}, so that they tie and count as wrong"
        yield _unanswerable(task, found, alike, why, "Write choices that differ in more than that, or remove them")
    lost = [reading for reading in found if not reading.returns]
    if lost:
        why = f"have an answer that {whose} does not give back as it was, so that no generation can match it"
        yield _unanswerable(task, found, lost, why, "Write those answers in its characters, or remove them")
    limit = settings.evaluation.max_new_tokens
    tests = [reading for reading in found if reading.split == "test" and not reading.sample.choices]
    long = [reading for reading in tests if reading.answer_tokens > limit]
    if long:
        needed = max(reading.answer_tokens for reading in long) + 1
        yield (
            f"{len(long)} of {len(tests)} {task} test answers have more tokens than evaluation.max_new_tokens {limit}, "
            f"so that they cannot be generated whole ({_named(long)}). "
            f"`-S evaluation.max_new_tokens={needed}` would do."
        )
    limit = settings.snapshot.max_length
    cut = [reading for reading in found if reading.tokens > limit]
    if cut:
        share = "Most" if len(cut) > len(found) / 2 else "Some"
        yield (
            f"{share} {task} samples, {len(cut)} of {len(found)}, have more tokens than snapshot.max_length {limit}, "
            f"so that their prompts lose their beginning ({_named(cut)}). "
            f"`-S snapshot.max_length={max(reading.tokens for reading in cut)}` keeps all."
        )


def _unanswerable(task: str, found: Sequence[Reading], faulty: Sequence[Reading], why: str, next_step: str) -> str:
    sentence = f"{len(faulty)} of {len(found)} {task} samples {why} ({_named(faulty)}). {next_step}."
    tests, affected = (sum(each.split == "test" for each in some) for some in (found, faulty))
    if tests and tests == affected:
        raise GlassboxError(f"No {task} test sample can be answered right: {sentence}")
    return sentence


def _named(found: Sequence[Reading]) -> str:
    shown = found[0].sample.prompt.strip().splitlines()[-1][:40]
    return f"{brief_ids([reading.sample.sample_id for reading in found])}; the first ends {shown!r}"
