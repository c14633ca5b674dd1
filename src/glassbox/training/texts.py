"""Training and validation samples as the student's own tokens: what a group without signals can learn from.

It stands where the snapshot stands, for labels that the snapshot lacks (the teacher's answers) and for a student that
cuts text into other tokens than the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from glassbox.config.settings import SnapshotSettings
from glassbox.errors import GlassboxError
from glassbox.files import brief_ids
from glassbox.models.encoding import byte_spans, encode_sample
from glassbox.snapshot.batch import Batch, StoredSample, assemble_tokens
from glassbox.snapshot.labels import Answer
from glassbox.snapshot.reader import SampleInfo
from glassbox.snapshot.schema import ANSWERED, CAPTURED_SPLITS, Cell, answered_id
from glassbox.tasks.sample import Sample
from glassbox.tasks.splits import read_split


class Source(Protocol):
    """Where a trial's samples come from: a snapshot or texts."""

    def samples(self, split: str) -> list[SampleInfo]: ...

    def batches(
        self,
        plan: Sequence[Sequence[str]],
        signals: frozenset[str],
        device: torch.device | str = "cpu",
        whole: frozenset[str] = frozenset(),
    ) -> Iterator[Batch]: ...


class Texts:
    """Every training and validation sample, tokenized when it is opened.

    With the teacher's `answers` every training sample whose tokens differ with its answer comes once more, under
    `answered_id`, as in a snapshot. Validation keeps the data's, so that its loss is the same measure for every group.
    """

    def __init__(
        self,
        tasks_folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        limits: SnapshotSettings,
        answers: Mapping[str, Answer] | None = None,
    ) -> None:
        self._stored: dict[str, dict[str, StoredSample]] = {}
        for split in CAPTURED_SPLITS:
            samples = read_split(tasks_folder, split)
            stored = [_stored(sample, None, tokenizer, limits) for sample in samples]
            self._stored[split] = {each.sample_id: each for each in stored}
            if split == "train" and answers is not None:
                _refuse_unanswered(samples, answers)
                again = [_stored(sample, answers[sample.sample_id], tokenizer, limits) for sample in samples]
                differing = [
                    a for a, s in zip(again, stored, strict=True) if a.input_ids.tolist() != s.input_ids.tolist()
                ]
                self._stored[ANSWERED] = {each.sample_id: each for each in differing}
        self.stored = {sample_id: sample for split in self._stored.values() for sample_id, sample in split.items()}

    def samples(self, split: str) -> list[SampleInfo]:
        """The samples of "train", "validation" or "answered" in the order of their ids."""
        chosen = sorted(self._stored.get(split, {}).values(), key=lambda sample: sample.sample_id)
        return [SampleInfo(s.sample_id, s.task, s.n_tokens, s.n_answer) for s in chosen]

    def batches(
        self,
        plan: Sequence[Sequence[str]],
        signals: frozenset[str],
        device: torch.device | str = "cpu",
        whole: frozenset[str] = frozenset(),
    ) -> Iterator[Batch]:
        """The planned batches in order. Raises GlassboxError where signals are asked for: texts have none."""
        if signals:
            raise GlassboxError(
                f"Texts carry no {' and no '.join(sorted(signals))}: a group that uses signals reads the snapshot."
            )
        for sample_ids in plan:
            chosen = [self.stored[sample_id] for sample_id in sample_ids]
            yield assemble_tokens(chosen, torch.device(device), "tokens" in whole)


def _refuse_unanswered(samples: Sequence[Sample], answers: Mapping[str, Answer]) -> None:
    unanswered = [sample.sample_id for sample in samples if sample.sample_id not in answers]
    if unanswered:
        raise GlassboxError(
            f"The teacher gave no answer to {brief_ids(unanswered)}. Run `dvc repro --force answers`, which asks again."
        )


def _stored(
    sample: Sample, answer: Answer | None, tokenizer: PreTrainedTokenizerFast, limits: SnapshotSettings
) -> StoredSample:
    """[bos, prompt, answer, eos]; an answer that the teacher did not end has no eos, and one may be empty."""
    encoded = encode_sample(
        tokenizer,
        sample.prompt,
        sample.answer if answer is None else answer.answer,
        max_length=limits.max_length,
        overflow=limits.overflow,
        ends=answer is None or answer.ended,
        may_be_empty=answer is not None,
    )
    ids = np.array(encoded.ids, dtype=np.int64)
    sample_id = sample.sample_id if answer is None else answered_id(sample.sample_id)
    text = sample.prompt + (sample.answer if answer is None else answer.answer)
    cells: dict[str, Cell] = {"byte_spans": byte_spans(text, encoded).tobytes()}
    return StoredSample(sample_id, sample.task, ids, encoded.loss_start, len(ids) - 1 - encoded.loss_start, cells)
