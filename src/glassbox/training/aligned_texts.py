"""The student's own texts, each beside the teacher's signals on it: what groups across tokenizers learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from glassbox.models.chunks import Chunks, align
from glassbox.snapshot.aligned import align_batch
from glassbox.snapshot.batch import StoredSample
from glassbox.snapshot.codec import array
from glassbox.snapshot.partners import batches_with_partners
from glassbox.snapshot.reader import Batch, SampleInfo, Snapshot
from glassbox.snapshot.schema import ANSWERED, CAPTURED_SPLITS, answered_id
from glassbox.training.texts import Texts


class AlignedTexts:
    """Every training and validation sample in the student's tokens, aligned with the snapshot's when it is opened."""

    def __init__(self, texts: Texts, snapshot: Snapshot) -> None:
        self.texts = texts
        self.snapshot = snapshot
        captured = {info.sample_id for split in (*CAPTURED_SPLITS, ANSWERED) for info in snapshot.samples(split)}
        self._ids = {text: text if text in captured else _without_answer(text) for text in texts.stored}
        teacher = {each.sample_id: each for each in snapshot.stored([*self._ids.values()], ["byte_spans"])}
        self._chunks: dict[str, Chunks] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        for text, student in texts.stored.items():
            other = teacher[self._ids[text]]
            chunks = align(_spans(student), _spans(other))
            self._chunks[text], self._counts[text] = chunks, _counts(chunks, student.loss_start, other.loss_start)

    def samples(self, split: str) -> list[SampleInfo]:
        """The samples of "train", "validation" or "answered", in the student's tokens, with their chunks."""
        return [replace(info, n_chunks=self._counts[info.sample_id]) for info in self.texts.samples(split)]

    def batches(
        self,
        plan: Sequence[Sequence[str]],
        signals: frozenset[str],
        device: torch.device | str = "cpu",
        whole: frozenset[str] = frozenset(),
        lent: frozenset[str] = frozenset(),
        partners: Mapping[str, str] | None = None,
    ) -> Iterator[Batch]:
        """The planned batches, each with the teacher's side and the signals `lent` by its samples' partners."""
        own = self.texts.batches(plan, frozenset(), device, whole)
        ids = [[self._ids[text] for text in texts] for texts in plan]
        others = batches_with_partners(self.snapshot, ids, signals, lent, partners or {}, device, whole)
        for texts, batch, teacher in zip(plan, own, others, strict=True):
            yield replace(batch, aligned=align_batch(batch, teacher, [self._chunks[text] for text in texts]))


def _without_answer(text: str) -> str:
    """The sample of a text with the teacher's own answer, whose tokens are the data's in the snapshot."""
    return text.removesuffix(answered_id(""))


def _spans(sample: StoredSample) -> np.ndarray:
    return array(sample.cells["byte_spans"], "<u4", -1, 2)


def _counts(chunks: Chunks, student: int, teacher: int) -> tuple[int, int]:
    """Chunks of the answer, which begins at `student` and `teacher`, and all that some position predicts."""
    mine, theirs = chunks.student[:-1] - 1, chunks.teacher[:-1] - 1
    return tuple(int(((mine >= a) & (theirs >= b)).sum()) for a, b in ((student, teacher), (0, 0)))  # type: ignore[return-value]
