"""The `relations` component: how positions of a sample relate to each other, in queries, keys and values of one layer.

All heads stand side by side and are cut anew into relation heads, the same number for both models, so that any head
counts and widths can be compared without a projector (MiniLMv2: Wang et al., 2021, arXiv 2012.15828).
"""

from __future__ import annotations

from math import gcd

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import loss_dtype, without_autocast
from glassbox.models.signals import packed_positions
from glassbox.objective.reading import Ingredients, Reading, present


def relation_heads_of(widths: tuple[int, ...], most: int, given: int | None) -> int:
    """Into how many relation heads every width is cut: `given`, else the largest common divisor that is at most `most`.

    Raises GlassboxError where `given` does not divide every width.
    """
    common = gcd(*widths)
    if given is None:
        return max(count for count in range(1, most + 1) if common % count == 0)
    if common % given:
        fits = ", ".join(str(count) for count in range(1, common + 1) if common % count == 0)
        raise GlassboxError(
            f"objective.relation_heads is {given}, which does not divide the widths {', '.join(map(str, widths))} of "
            f"queries, keys and values of both models. These do: {fits}; or set it to null."
        )
    return given


def relation_rows(
    states: Float[Tensor, "batch length width"],
    sample: Int[Tensor, " rows"],
    column: Int[Tensor, " rows"],
    heads: int,
) -> tuple[Float[Tensor, "rows heads length"], Bool[Tensor, "rows 1 length"]]:
    """`log softmax(x_i x_j^T / sqrt(d_r))` over the columns j <= i of row i, and which columns these are.

    `sample` and `column` name the rows, sample by sample; d_r = width / heads. Entries of other columns are 0. In at
    least float32, also under autocast.
    """
    batch, length, width = states.shape
    cut = states.to(loss_dtype(states)).reshape(batch, length, heads, width // heads).transpose(1, 2)
    counts = torch.bincount(sample, minlength=batch)
    first = torch.cumsum(counts, 0) - counts
    within = torch.arange(len(sample), device=sample.device) - first[sample]
    places = torch.zeros(batch, int(counts.max()) if len(sample) else 0, dtype=torch.long, device=sample.device)
    places[sample, within] = column
    asked = cut.gather(2, places[:, None, :, None].expand(-1, heads, -1, width // heads))
    with without_autocast(states):
        scores = (asked @ cut.transpose(2, 3)) / (width // heads) ** 0.5
    rows = scores.transpose(1, 2)[sample, within]
    visible = (torch.arange(length, device=sample.device) <= column[:, None])[:, None]
    return rows.masked_fill(~visible, float("-inf")).log_softmax(-1).masked_fill(~visible, 0.0), visible


def relation_kl(
    student: Float[Tensor, "batch length student"],
    teacher: Float[Tensor, "batch length teacher"],
    sample: Int[Tensor, " rows"],
    column: Int[Tensor, " rows"],
    heads: int,
) -> Float[Tensor, " rows"]:
    """`KL(teacher || student)` of the relations of one kind, mean over relation heads, per row.

    Raises GlassboxError where `heads` does not divide a width.
    """
    relation_heads_of((student.shape[-1], teacher.shape[-1]), heads, heads)
    log_q, visible = relation_rows(student, sample, column, heads)
    log_p, _ = relation_rows(teacher, sample, column, heads)
    return (log_p.exp() * (log_p - log_q)).masked_fill(~visible, 0.0).sum(-1).mean(-1)


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `relations` component at the positions of a reading: the mean of Q-Q, K-K and V-V."""
    batch, own = reading.batch, reading.ingredients
    mine = present(reading.student.relations, "relations")
    tokens = batch.attention_mask.sum(1) - 1
    packed = present(reading.source.further.get("relations"), "relations")
    theirs = _padded(packed, tokens, batch.input_ids.shape[1]).split(list(own.relation_widths), dim=-1)
    start = batch.attention_mask.int().argmax(1)
    sample, column = packed_positions(batch.first - start, batch.count)
    if reading.rows is not None:
        sample, column = sample[reading.rows], column[reading.rows]
    pairs = zip(mine, theirs, strict=True)
    return torch.stack([relation_kl(s, t, sample, column, own.relation_heads) for s, t in pairs]).mean(0)


def _padded(
    packed: Float[Tensor, "tokens width"], tokens: Int[Tensor, " batch"], length: int
) -> Float[Tensor, "batch length width"]:
    """Samples side by side as rows of a padded batch."""
    inside = torch.arange(length, device=packed.device) < tokens[:, None]
    padded = packed.new_zeros(*inside.shape, packed.shape[-1])
    padded[inside] = packed
    return padded


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError where the snapshot holds no queries, keys and values."""
    if not ingredients.relation_widths or not ingredients.relation_heads:
        raise GlassboxError(
            "The relations component needs the teacher's queries, keys and values, and this snapshot holds none. "
            "Capture them with `dvc repro snapshot`, or set the group's relations weight to 0."
        )
