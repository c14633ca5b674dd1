"""The two sides of a batch whose texts teacher and student cut into other tokens, and the chunks in which they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from glassbox.models.chunks import Chunks, chunk_of_token
from glassbox.snapshot.codec import carried

if TYPE_CHECKING:
    from glassbox.snapshot.batch import Batch


@dataclass(frozen=True)
class Aligned:
    """The teacher's side of a batch, and its chunks, sample by sample in the order of the text.

    `teacher` holds its own ids, positions and signals. A chunk is read where it begins: at the position that predicts
    its first token, which is the last token of the chunk before. `student` and `teacher_column` are the columns of that
    position, `sample` its row, `answer` whether the chunk is of the answer. A chunk counts only where it lies wholly in
    positions that both sides hold. `student_chunks` and `teacher_chunks` number the chunk of every token of a sample.
    """

    teacher: Batch
    sample: Int[Tensor, " chunks"]
    student: Int[Tensor, " chunks"]
    teacher_column: Int[Tensor, " chunks"]
    answer: Bool[Tensor, " chunks"]
    student_chunks: Int[Tensor, "batch length"]
    teacher_chunks: Int[Tensor, "batch teacher_length"]

    def chosen(self, reach: str) -> Aligned:
        """With the chunks that "answer" or "all" means."""
        if reach == "all":
            return self
        kept = {name: getattr(self, name)[self.answer] for name in ("sample", "student", "teacher_column", "answer")}
        return Aligned(self.teacher, **kept, student_chunks=self.student_chunks, teacher_chunks=self.teacher_chunks)

    def counts(self, reach: str) -> Int[Tensor, " batch"]:
        """How many chunks of each sample are meant by "answer" or "all"."""
        return torch.bincount(self.chosen(reach).sample, minlength=len(self.student_chunks))

    def student_rows(self, batch: Batch, signal: Tensor, reach: str) -> Int[Tensor, " chunks"]:
        """Where these chunks begin in what the student gives at its packed positions, all or the answers' alone."""
        own = self.chosen(reach)
        return _rows(batch, signal, own.sample, own.student)

    def teacher_rows(self, source: Batch, signal: Tensor, reach: str) -> Int[Tensor, " chunks"]:
        """Where they begin in a signal of the teacher's side, `source`, or of its partner."""
        own = self.chosen(reach)
        return _rows(source, signal, own.sample, own.teacher_column)


def _rows(batch: Batch, signal: Tensor, sample: Tensor, column: Tensor) -> Tensor:
    first, count = batch.span(batch.reach_of(signal))
    return (torch.cumsum(count, 0) - count)[sample] + column - first[sample]


def chunk_of_position(
    rows: Int[Tensor, " chunks"], sample: Int[Tensor, " chunks"], sample_index: Int[Tensor, " positions"]
) -> Int[Tensor, " positions"]:
    """The chunk that each position's next token belongs to, -1 before the first chunk of its sample.

    `rows` are the positions at which chunks begin; each reaches to the next, or to the end of its sample.
    """
    position = torch.arange(len(sample_index), device=rows.device)
    found = torch.searchsorted(rows, position, right=True) - 1
    own = sample[found.clamp(min=0)] == sample_index if len(sample) else torch.zeros_like(position, dtype=torch.bool)
    return torch.where((found >= 0) & own, found, -1)


def align_batch(batch: Batch, teacher: Batch, chunks: Sequence[Chunks]) -> Aligned:
    """Both sides of the same samples with their chunks, one entry of `chunks` a sample; on the device of the batch."""
    device, length, teacher_length = batch.input_ids.device, batch.input_ids.shape[1], teacher.input_ids.shape[1]
    firsts = [
        torch.stack((side.first, side.first + side.count - side.answer_count)).cpu().numpy()
        for side in (batch, teacher)
    ]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("sample", "student", "teacher_column", "answer")}
    maps = np.zeros((len(chunks), length), dtype=np.int64), np.zeros((len(chunks), teacher_length), dtype=np.int64)
    for row, own in enumerate(chunks):
        mine, theirs = own.student[:-1] - 1, own.teacher[:-1] - 1
        held = (mine >= firsts[0][0, row]) & (theirs >= firsts[1][0, row])
        answer = (mine >= firsts[0][1, row]) & (theirs >= firsts[1][1, row])
        values = (np.full(int(held.sum()), row), mine[held], theirs[held], answer[held])
        for name, found in zip(columns, values, strict=True):
            columns[name].append(found)
        for side, first in zip(maps, (own.student, own.teacher), strict=True):
            side[row, : first[-1]] = chunk_of_token(first, int(first[-1]))
    packed = {name: carried(np.concatenate(found), device) for name, found in columns.items()}
    return Aligned(teacher, **packed, student_chunks=carried(maps[0], device), teacher_chunks=carried(maps[1], device))
