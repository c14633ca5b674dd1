"""From tasks to batches: which samples are captured, in which part and in which batch, decided before any is run.

The composition depends on the samples and the settings alone, so that a resumed capture and a recapture by `verify` run
the same batches: padding changes the last bits of half-precision arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER
from glassbox.errors import GlassboxError
from glassbox.models.encoding import Encoded, byte_spans, encode_sample
from glassbox.snapshot.labels import Answer, TeacherLabels, read_teacher_labels
from glassbox.snapshot.schema import ANSWERED, CAPTURED_SPLITS, Format, answered_id, attention_entries
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import read_split, tasks_digest


@dataclass(frozen=True)
class Item:
    """A tokenized sample. `n_positions` hidden states and `n_attention` rows are captured, the last ones of it."""

    sample: Sample
    split: str
    encoded: Encoded
    n_positions: int
    n_attention: int

    @property
    def n_tokens(self) -> int:
        return len(self.encoded.ids)

    @property
    def n_answer(self) -> int:
        return self.n_tokens - 1 - self.encoded.loss_start

    @property
    def first(self) -> int:
        return self.n_tokens - 1 - self.n_positions

    def byte_spans(self) -> np.ndarray:
        return byte_spans(self.sample.prompt + self.sample.answer, self.encoded)


def captured_answers(settings: Settings, tasks_folder: Path) -> TeacherLabels | None:
    """The teacher's answers to training prompts, where signals are wanted of them: not all samples are labelled."""
    return read_teacher_labels(ANSWERS_FOLDER, tasks_digest(tasks_folder)) if settings.captures_answers else None


def compose_items(
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    tasks_folder: Path,
    answers: Mapping[str, Answer] | None = None,
) -> list[Item]:
    """Every training and validation sample, tokenized, by ascending id; GlassboxError for an id that comes twice.

    A training sample whose answer in `answers` differs from the data's comes once more with that one.
    """
    items = {}
    for split in CAPTURED_SPLITS:
        for sample in read_split(tasks_folder, split):
            if sample.sample_id in items:
                raise GlassboxError(
                    f"Sample id {sample.sample_id} comes twice in {tasks_folder}. Run `dvc repro --force prepare`."
                )
            item = _item(settings, tokenizer, sample, split)
            items[sample.sample_id] = item
            if answers is not None and split == "train":
                again = _item(settings, tokenizer, sample, ANSWERED, answers[sample.sample_id])
                if again.encoded.ids != item.encoded.ids:
                    items[again.sample.sample_id] = again
    if not items:
        raise GlassboxError(f"{tasks_folder} holds no training or validation sample. Run `dvc repro prepare`.")
    return [items[sample_id] for sample_id in sorted(items)]


def _item(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, sample: Sample, split: str, answer: Answer | None = None
) -> Item:
    if answer is not None:
        sample = replace(sample, sample_id=answered_id(sample.sample_id), answer=answer.answer)
    encoded = encode_sample(
        tokenizer,
        sample.prompt,
        sample.answer,
        max_length=settings.snapshot.max_length,
        overflow=settings.snapshot.overflow,
        ends=answer is None or answer.ended,
        may_be_empty=answer is not None,
    )
    positions, last = settings.snapshot.positions, len(encoded.ids) - 1
    hidden, attention = (
        last - (0 if reach == "all" else encoded.loss_start) for reach in (positions.hidden, positions.attention)
    )
    return Item(sample, split, encoded, hidden, attention)


def estimated_bytes(items: Sequence[Item], layout: Format) -> int:
    """Bytes of all cells before compression."""
    entry = layout.attention_dtype.itemsize * layout.heads
    position = layout.top_k * (layout.topk_id_dtype.itemsize + 2) + 4 * len(layout.temperatures) + 4 + 2 * layout.width
    return sum(
        item.n_positions * position
        + attention_entries(item.n_tokens, item.n_attention) * entry
        + 12 * item.n_tokens
        + sum(
            column.count(layout, item.n_tokens, item.encoded.loss_start) * column.position_bytes(layout)
            for column in layout.further.values()
        )
        for item in items
    )


def share_out(items: Sequence[Item], layout: Format, part_bytes: int) -> list[list[Item]]:
    """Spread samples over parts of about `part_bytes` by a hash of their id; empty parts are left out."""
    count = max(1, -(-estimated_bytes(items, layout) // part_bytes))
    parts: list[list[Item]] = [[] for _ in range(count)]
    for item in items:
        digest = hashlib.sha256(item.sample.sample_id.encode("utf-8")).digest()
        parts[int.from_bytes(digest[:8], "big") % count].append(item)
    return [part for part in parts if part]


def batches(part: Sequence[Item], batch_size: int) -> list[list[Item]]:
    """A part's batches, of similar length, the longest first."""
    order = sorted(part, key=lambda item: (-item.n_tokens, item.sample.sample_id))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def draw_audit(items: Sequence[Item], count: int, generator: np.random.Generator) -> dict[str, list[int]]:
    """Random captured positions by sample id, as offsets into the sample's captured positions."""
    ends = np.cumsum([item.n_positions for item in items])
    drawn: dict[str, list[int]] = {}
    for flat in sorted(generator.choice(ends[-1], size=min(count, int(ends[-1])), replace=False)):
        index = int(np.searchsorted(ends, flat, side="right"))
        offset = int(flat - (ends[index] - items[index].n_positions))
        drawn.setdefault(items[index].sample.sample_id, []).append(offset)
    return drawn
