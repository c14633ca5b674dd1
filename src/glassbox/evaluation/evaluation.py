"""Per-task scores of any causal language model: choices by log-likelihood, running text by its perplexity, everything
else by greedy generation.

Teacher, initial student and every trial are measured by the same code. An item's result does not depend on which items
share its batch, up to floating-point noise.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import EvaluationSettings
from glassbox.errors import GlassboxError
from glassbox.evaluation.perplexity import TextScore, pooled, score_texts
from glassbox.models.context import context_of
from glassbox.models.encoding import decode_answer, encode_prompt, encode_sample, scored_bytes
from glassbox.models.generation import Pick, ends_of, generate_tokens, most_likely, require_finite
from glassbox.models.loading import head_logits, vocabulary_size
from glassbox.models.signals import packed_positions, position_signals
from glassbox.tasks.sample import Sample, is_correct_generation, metric_name

Overflow = Literal["truncate", "refuse"]
CHOICES_REMEMBERED = 1 << 13  # questions with choices, a few kilobytes each


@dataclass(frozen=True)
class ItemResult:
    """`log_likelihoods` are in nats, in the order of the sample's choices; empty where the answer was generated.

    `cluster` is the sample's: "" where its task has no groups of related questions. `cut_off`: the generation reached
    `evaluation.max_new_tokens` without an end. Of a block of running text the only log-likelihood is that of its
    `tokens` predicted tokens, which cover `bytes` of UTF-8; it is neither right nor wrong.
    """

    sample_id: str
    task: str
    correct: bool
    tie: bool
    prediction: str
    gold: str
    log_likelihoods: tuple[float, ...]
    cluster: str = ""
    cut_off: bool = False
    tokens: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class TaskScore:
    """`value` is the share of right items, 0 to 1; exact ties count as wrong and are counted.

    Of running text it is the perplexity, and `text` says what it was formed of.
    """

    task: str
    metric: str
    value: float
    n_evaluated: int
    n_expected: int
    n_ties: int
    n_cut_off: int
    has_choices: bool
    text: TextScore | None = None

    @property
    def counts(self) -> dict[str, int]:
        if self.text is not None:
            return {"tokens": self.text.tokens}
        return {"ties": self.n_ties} if self.has_choices else {"cut_off": self.n_cut_off}


@dataclass(frozen=True)
class Evaluation:
    """One score per task, and one result per item in the order of the samples."""

    scores: dict[str, TaskScore]
    items: list[ItemResult]

    def metrics(self, prefix: str) -> dict[str, float]:
        """{'test/accuracy_sst2': 0.91, ...} for the prefix 'test'; of running text its bits per byte too."""
        found = {f"{prefix}/{score.metric}": score.value for score in self.scores.values()}
        texts = {task: score.text for task, score in self.scores.items() if score.text}
        return found | {f"{prefix}/bits_per_byte_{task}": text.bits_per_byte for task, text in texts.items()}

    def counts(self, prefix: str) -> dict[str, float]:
        """How many items bear on a score without being read in it: {'test/ties_sst2': 0, 'test/cut_off_gsm8k': 3}."""
        return {
            f"{prefix}/{what}_{score.task}": float(count)
            for score in self.scores.values()
            for what, count in score.counts.items()
        }


@dataclass(frozen=True)
class Continuation:
    """A prompt's ids as the model saw them and those that it generated, without the end of sequence."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ScoringRow:
    """One sequence through the model; each of `targets` is scored at its last positions, into its own slot.

    Choices of one token share a row (the prompt alone); longer ones have a row each.
    """

    sample_id: str
    ids: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class PiecesOf:
    """A tokenizer that equals every other one that cuts texts in the same way."""

    digest: str
    tokenizer: PreTrainedTokenizerFast = field(compare=False)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> PiecesOf:
        facts = (tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id, tokenizer.eos_token_id)
        return cls(hashlib.sha256(repr(facts).encode()).hexdigest(), tokenizer)


@dataclass(frozen=True)
class Candidate:
    """The model that is measured, and the limits within which it reads and writes."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    settings: EvaluationSettings
    max_length: int
    overflow: Overflow

    @cached_property
    def pieces(self) -> PiecesOf:
        return PiecesOf.of(self.tokenizer)

    @property
    def vocabulary(self) -> int:
        return vocabulary_size(self.tokenizer, self.model)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    settings: EvaluationSettings,
    max_length: int,
    overflow: Overflow = "truncate",
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Evaluation:
    """Scores every sample; `max_length` and `overflow` are those of the snapshot, `autocast` the one of training.

    Raises DivergedError at a non-finite logit and GlassboxError where an item was not evaluated.
    """
    candidate = Candidate(model, tokenizer, settings, max_length, overflow)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast():
            results = _score_choices(candidate, samples) | _score_generations(candidate, samples)
            results |= _score_blocks(candidate, samples)
    finally:
        model.train(was_training)
    return scored(samples, [results[index] for index in range(len(samples)) if index in results])


def scored(samples: Sequence[Sample], items: list[ItemResult]) -> Evaluation:
    """The evaluation of `samples` from their results; GlassboxError where one is missing."""
    return Evaluation(_task_scores(samples, items), items)


def _score_choices(candidate: Candidate, samples: Sequence[Sample]) -> dict[int, ItemResult]:
    rows: list[ScoringRow] = []
    slots: dict[int, slice] = {}
    used = 0
    for index, sample in enumerate(samples):
        if sample.choices:
            slots[index] = slice(used, used + len(sample.choices))
            rows += _scoring_rows(candidate, sample, used)
            used += len(sample.choices)
    scores = torch.zeros(used, dtype=torch.float64)
    for batch in _by_length(rows, [len(row.ids) for row in rows], candidate.settings.batch_size):
        _add_log_likelihoods(candidate, batch, scores)
    return {index: _choose(samples[index], scores[place].tolist()) for index, place in slots.items()}


def _scoring_rows(candidate: Candidate, sample: Sample, first_slot: int) -> list[ScoringRow]:
    cut = _choice_ids(candidate.pieces, sample.prompt, sample.choices, candidate.max_length, candidate.overflow)
    places = range(first_slot, first_slot + len(cut))
    prompts, targets = {prompt for prompt, _ in cut}, tuple(target for _, target in cut)
    if len(prompts) == 1 and all(len(target) == 1 for target in targets):
        return [ScoringRow(sample.sample_id, prompts.pop(), targets, tuple(places))]
    return [
        ScoringRow(sample.sample_id, prompt + target[:-1], (target,), (place,))
        for (prompt, target), place in zip(cut, places, strict=True)
    ]


@lru_cache(maxsize=CHOICES_REMEMBERED)
def _choice_ids(
    pieces: PiecesOf, prompt: str, choices: tuple[str, ...], max_length: int, overflow: Overflow
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """For each choice the ids before it and its own: the same for every trial of a worker, and slow to form."""
    found = []
    for choice in choices:
        encoded = encode_sample(pieces.tokenizer, prompt, choice, max_length=max_length, overflow=overflow)
        found.append((encoded.ids[: encoded.loss_start + 1], encoded.ids[encoded.loss_start + 1 : -1]))
    return tuple(found)


def _add_log_likelihoods(candidate: Candidate, batch: Sequence[ScoringRow], scores: Tensor) -> None:
    """Adds the log-probability of each target's tokens to its slot in `scores`."""
    model = candidate.model
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row.ids) for row in batch])
    width = int(lengths.max())
    ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in batch])
    mask = torch.arange(width) < lengths[:, None]
    count = torch.tensor([len(row.targets[0]) for row in batch])
    first = lengths - count
    signals = position_signals(
        model, ids.to(device), mask.to(device), first.to(device), count.to(device), want_attention=False
    )
    logits = head_logits(model, signals.hidden, candidate.vocabulary)
    row_of_position = packed_positions(first, count)[0].tolist()
    require_finite(logits, [batch[row].sample_id for row in row_of_position])
    positions, tokens, slots = [], [], []
    start = 0
    for row in batch:
        for target, slot in zip(row.targets, row.slots, strict=True):
            positions += range(start, start + len(target))
            tokens += target
            slots += [slot] * len(target)
        start += len(row.targets[0])
    log_probabilities = torch.log_softmax(logits, dim=-1)[positions, tokens].double().cpu()
    scores.index_add_(0, torch.tensor(slots), log_probabilities)


def _choose(sample: Sample, log_likelihoods: list[float]) -> ItemResult:
    best = max(log_likelihoods)
    tie = log_likelihoods.count(best) > 1
    prediction = sample.choices[log_likelihoods.index(best)]
    correct = prediction == sample.gold and not tie
    scores = tuple(log_likelihoods)
    return ItemResult(sample.sample_id, sample.task, correct, tie, prediction, sample.gold, scores, sample.cluster)


def _score_generations(candidate: Candidate, samples: Sequence[Sample]) -> dict[int, ItemResult]:
    places = [index for index, sample in enumerate(samples) if not sample.choices and not sample.is_text]
    generated = _continue(candidate, [samples[index] for index in places], most_likely)
    results = {}
    for index, continuation in zip(places, generated, strict=True):
        sample = samples[index]
        text = decode_answer(candidate.tokenizer, continuation.ids)
        correct = is_correct_generation(sample, text)
        cut_off = len(continuation.ids) >= candidate.settings.max_new_tokens
        results[index] = ItemResult(
            sample.sample_id, sample.task, correct, False, text, sample.gold, (), sample.cluster, cut_off
        )
    return results


def _score_blocks(candidate: Candidate, samples: Sequence[Sample]) -> dict[int, ItemResult]:
    """Every block of running text by the log-likelihood of its predicted tokens."""
    texts = {index: sample for index, sample in enumerate(samples) if sample.is_text}
    encoded = [
        encode_sample(
            candidate.tokenizer, each.prompt, each.answer, max_length=candidate.max_length, overflow=candidate.overflow
        )
        for each in texts.values()
    ]
    ids = [sample.sample_id for sample in texts.values()]
    batches = _by_length(range(len(ids)), [len(each.ids) for each in encoded], candidate.settings.batch_size)
    found = score_texts(candidate.model, candidate.vocabulary, encoded, ids, batches)
    return {
        index: ItemResult(
            sample.sample_id,
            sample.task,
            False,
            False,
            "",
            "",
            (log_likelihood,),
            sample.cluster,
            tokens=len(each.ids) - 1 - each.loss_start,
            bytes=scored_bytes(sample.prompt + sample.answer, each),
        )
        for (index, sample), each, log_likelihood in zip(texts.items(), encoded, found, strict=True)
    }


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    settings: EvaluationSettings,
    max_length: int,
    overflow: Overflow,
    pick: Pick = most_likely,
) -> list[Continuation]:
    """What the model generates after every sample's prompt, in the order of the samples."""
    return _continue(Candidate(model, tokenizer, settings, max_length, overflow), samples, pick)


def _continue(candidate: Candidate, samples: Sequence[Sample], pick: Pick) -> list[Continuation]:
    settings = candidate.settings
    limit = _prompt_limit(candidate.model, settings.max_new_tokens, candidate.max_length)
    prompts = [_generation_prompt(candidate, sample, limit) for sample in samples]
    found: dict[int, Continuation] = {}
    for batch in _by_length(range(len(samples)), [len(prompt) for prompt in prompts], settings.batch_size):
        generated = generate_tokens(
            candidate.model,
            [prompts[index] for index in batch],
            [samples[index].sample_id for index in batch],
            vocabulary=candidate.vocabulary,
            end=ends_of(candidate.model, candidate.tokenizer),
            max_new_tokens=settings.max_new_tokens,
            pick=pick,
        )
        found |= {
            index: Continuation(tuple(prompts[index]), tuple(ids)) for index, ids in zip(batch, generated, strict=True)
        }
    return [found[index] for index in range(len(samples))]


def _prompt_limit(model: PreTrainedModel, max_new_tokens: int, max_length: int) -> int:
    """The longest prompt that leaves room for the answer in the model's context."""
    context = context_of(model.config)
    if context is None:
        return max_length
    if context <= max_new_tokens:
        raise GlassboxError(
            f"evaluation.max_new_tokens is {max_new_tokens} and {type(model).__name__} reads {context} tokens in all, "
            "which leaves no room for a prompt. Lower evaluation.max_new_tokens."
        )
    return min(max_length, context - max_new_tokens)


def _generation_prompt(candidate: Candidate, sample: Sample, limit: int) -> list[int]:
    if candidate.overflow == "truncate":
        return encode_prompt(candidate.tokenizer, sample.prompt, limit)
    prompt = encode_prompt(candidate.tokenizer, sample.prompt)
    if len(prompt) > limit:
        raise GlassboxError(
            f"The prompt of {sample.sample_id} has {len(prompt)} tokens, the limit is {limit} and snapshot.overflow is "
            "'refuse'. Raise snapshot.max_length, lower evaluation.max_new_tokens, or set overflow to truncate."
        )
    return prompt


def _by_length(items: Sequence[Any], lengths: Sequence[int], batch_size: int) -> Iterator[list[Any]]:
    """Batches of similar length, the longest first: a batch too large for the memory fails at once."""
    order = sorted(range(len(items)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield [items[index] for index in order[start : start + batch_size]]


def _task_scores(samples: Sequence[Sample], items: Sequence[ItemResult]) -> dict[str, TaskScore]:
    expected = Counter(sample.task for sample in samples)
    has_choices = {sample.task: bool(sample.choices) for sample in samples}
    is_text = {sample.task: sample.is_text for sample in samples}
    scores = {}
    for task, n_expected in expected.items():
        mine = [item for item in items if item.task == task]
        if len(mine) != n_expected:
            raise GlassboxError(f"Task '{task}': {len(mine)} of {n_expected} items were evaluated; no score is given.")
        text = pooled([(each.log_likelihoods[0], each.tokens, each.bytes) for each in mine]) if is_text[task] else None
        scores[task] = TaskScore(
            task=task,
            metric=metric_name(task, has_choices[task], is_text[task]),
            value=text.perplexity if text else sum(item.correct for item in mine) / n_expected,
            n_evaluated=len(mine),
            n_expected=n_expected,
            n_ties=sum(item.tie for item in mine),
            n_cut_off=sum(item.cut_off for item in mine),
            has_choices=has_choices[task],
            text=text,
        )
    return scores
