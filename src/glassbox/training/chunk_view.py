"""A sample as groups across tokenizers see it: a line for each chunk, with the tokens of both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from transformers import PreTrainedTokenizerFast

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import Settings
from glassbox.config.storage import ANSWERS_FOLDER, TASKS_FOLDER
from glassbox.models.pieces import END_OF_TEXT, piece_texts
from glassbox.models.tokenizers import load_tokenizer
from glassbox.snapshot.aligned import chunk_of_position
from glassbox.snapshot.labels import read_teacher_labels
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.tasks.splits import tasks_digest
from glassbox.training.aligned_texts import AlignedTexts
from glassbox.training.texts import Texts

Pair = tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]


def views(
    settings: Settings, snapshot: Snapshot, group: str, texts: Sequence[str], positions: Mapping[str, str], width: int
) -> Iterator[list[str]]:
    """The lines of every text, none wider than `width`; all chunks where a component of the group counts at all."""
    tokenizers = load_tokenizer(settings.student), load_tokenizer(settings.teacher)
    answers = None
    if settings.reads_answers(group):
        answers = read_teacher_labels(ANSWERS_FOLDER, tasks_digest(TASKS_FOLDER)).answers
    source = AlignedTexts(Texts(TASKS_FOLDER, tokenizers[0], settings.snapshot, answers), snapshot)
    whole = frozenset({"tokens", "label_logp"} if "all" in positions.values() else ())
    with closing(source.batches([texts], frozenset({"label_logp"}), whole=whole)) as batches:  # pyright: ignore[reportArgumentType]
        batch = next(iter(batches))
    for row in range(len(texts)):
        lines = _lines(batch, row, tokenizers, positions)
        yield [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _lines(batch: Batch, row: int, tokenizers: Pair, positions: Mapping[str, str]) -> list[str]:
    aligned = batch.aligned
    assert aligned is not None
    teacher, log_probabilities = aligned.teacher, aligned.teacher.label_logp
    assert log_probabilities is not None
    names = [piece_texts(tokenizer, len(tokenizer)) for tokenizer in tokenizers]
    sizes = [int(side.attention_mask[row].sum()) for side in (batch, teacher)]
    rows = aligned.teacher_rows(teacher, log_probabilities, "all")
    chunk = chunk_of_position(rows, aligned.sample, teacher.sample_index)
    columns = aligned.student, aligned.teacher_column
    own = (aligned.sample == row).nonzero()[:, 0].tolist()
    lines = [
        f"{batch.sample_ids[row]}: {sizes[0]} tokens of the student, {sizes[1]} of the teacher, "
        f"{int(aligned.answer[own].sum())} chunks of the answer",
        f"{'at':>4}  {'student':<28} {'teacher':<28} {'counts':<7} the teacher's likelihood",
    ]
    for place in own:
        firsts = [int(each[place]) + 1 for each in columns]
        ends = [int(each[place + 1]) + 1 for each in columns] if place != own[-1] else sizes
        said = [
            " ".join(_shown(pieces[int(token)]) for token in side.input_ids[row, first:end])
            for pieces, side, first, end in zip(names, (batch, teacher), firsts, ends, strict=True)
        ]
        likelihood = math.exp(float(log_probabilities[chunk == place].sum()))
        counts = "".join(
            COMPONENTS[name].letter
            for name, reach in positions.items()
            if COMPONENTS[name].by_chunk and (reach == "all" or bool(aligned.answer[place]))
        )
        lines.append(f"{firsts[0]:>4}  {said[0]:<28} {said[1]:<28} {counts:<7} {likelihood:.2f}")
    return lines


def _shown(piece: str) -> str:
    """A piece as text, spaces included, which decoding it alone may drop."""
    if piece == END_OF_TEXT:
        return "end"
    return repr(piece.encode("latin-1", errors="replace").decode(errors="replace"))
