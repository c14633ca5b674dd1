"""Components that compare teacher and student chunk by chunk, where their tokens differ (docs/tokenizers.md).

A chunk is read at the position that predicts its first token. With one tokenizer for both that is every position.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.objective import attention, hidden
from glassbox.objective.alm import coin_divergence, label_log_probabilities, sums_by_chunk
from glassbox.objective.reading import Ingredients, Reading, present
from glassbox.objective.roots import RootTarget
from glassbox.snapshot.aligned import Aligned, chunk_of_position


def likelihoods(reading: Reading) -> Float[Tensor, " chunks"]:
    """The `alm` component: every chunk's likelihood under the student and under the teacher."""
    both, batch, source = _both(reading), reading.batch, reading.source
    stored = present(source.label_logp, "label_logp")
    sample = both.chosen(reading.reach).sample
    sides = []
    for side, signal, rows in (
        (batch, batch.labels, both.student_rows(batch, batch.labels, reading.reach)),
        (source, stored, both.teacher_rows(source, stored, reading.reach)),
    ):
        count = side.counts(side.reach_of(signal))
        of_position = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        sides.append(chunk_of_position(rows, sample, of_position))
    read = sides[0] >= 0
    said = label_log_probabilities(reading.student.hidden[read], reading.head, batch.labels[read])
    mine = sums_by_chunk(said, sides[0][read], len(sample))
    theirs = sums_by_chunk(stored.to(mine.dtype), sides[1], len(sample))
    return coin_divergence(mine, theirs, reading.settings.alm_temperature)


def root_target(reading: Reading) -> RootTarget:
    """The `aligned_logits` component's target: the teacher's full distribution where a chunk begins."""
    weight, bias = present(reading.ingredients.head, "head")
    both, batch = _both(reading), reading.batch
    labels = batch.labels[both.student_rows(batch, batch.labels, reading.reach)]
    pieces = present(reading.ingredients.vocabularies, "vocabularies")
    return RootTarget(stored(reading, "hidden"), weight, bias, labels, pieces, reading.settings.aligned_top_k)


def states(reading: Reading) -> Float[Tensor, " chunks"]:
    """The `aligned_hidden` component: final states where chunks meet, projected and standardised as `hidden`."""
    target = hidden.standardise(stored(reading, "hidden"), *present(reading.ingredients.channels, "channels"))
    predicted = reading.projector(given(reading, reading.student.hidden))
    return (hidden.cosine if reading.settings.hidden_loss == "cosine" else hidden.mse)(predicted, target)


def maps(reading: Reading) -> Float[Tensor, " chunks"]:
    """The `aligned_attention` component: final-layer rows where chunks meet, over the chunks before them."""
    rows = attention.present_rows(reading.student)
    both, sample = _both(reading), _both(reading).chosen(reading.reach).sample
    chunks = int(max(both.student_chunks.max(), both.teacher_chunks.max())) + 1
    mine = sum_columns(given(reading, rows), both.student_chunks[sample], chunks)
    theirs = sum_columns(stored(reading, "attention"), both.teacher_chunks[sample], chunks)
    student, teacher, _ = attention.match_heads(mine, theirs, reading.settings.heads == "strict")
    return (attention.map_kl if reading.settings.attention_loss == "kl" else attention.map_mse)(student, teacher)


def sum_columns(
    rows: Float[Tensor, "rows heads length"], chunk: Int[Tensor, "rows length"], chunks: int
) -> Float[Tensor, "rows heads chunks"]:
    """Attention rows with the columns of every chunk's tokens added up; they remain distributions."""
    room = rows.new_zeros(*rows.shape[:2], chunks)
    return room.scatter_add(2, chunk[:, None, :].expand(rows.shape), rows)


def stored(reading: Reading, signal: str) -> Float[Tensor, "chunks ..."]:
    """A signal of the teacher's side, or its partner's, where chunks begin."""
    values = present(getattr(reading.source, signal), signal)
    return values[_both(reading).teacher_rows(reading.source, values, reading.reach)]


def given(reading: Reading, values: Tensor) -> Float[Tensor, "chunks ..."]:
    """What the student gives where chunks begin."""
    return values[_both(reading).student_rows(reading.batch, values, reading.reach)]


def _both(reading: Reading) -> Aligned:
    return present(reading.batch.aligned, "aligned")


def refuse_missing_states(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError for states that cannot be standardised or projected."""
    hidden.refuse_missing(ingredients, settings, "aligned_hidden")


def refuse_missing_pieces(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError where vocabularies or the teacher's output layer are missing."""
    if ingredients.head is None or ingredients.vocabularies is None:
        raise GlassboxError(
            "The aligned_logits component needs the teacher's output layer and both vocabularies, and got "
            f"{'no output layer' if ingredients.head is None else 'no vocabularies'}. Capture a snapshot with hidden "
            "states (`dvc repro snapshot`), or set the group's aligned_logits weight to 0."
        )
