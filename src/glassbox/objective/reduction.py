"""How the values of positions are averaged over an optimizer step, each component over the samples that have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.config.components import COMPONENTS
from glassbox.errors import GlassboxError
from glassbox.objective.reading import rows_of

if TYPE_CHECKING:
    from glassbox.snapshot.batch import Batch


def component_counts(batch: Batch, positions: Mapping[str, str], components: Iterable[str]) -> dict[str, Tensor]:
    """At how many positions, or in how many chunks, of each sample a component counts: none in a task loss without a
    label. [samples] each."""
    counts = {name: batch.counts(positions[name], COMPONENTS[name].by_chunk) for name in components}
    if "task" in counts and batch.labelled is not None:
        counts["task"] = counts["task"] * batch.labelled
    return counts


def totals_of(batches: Iterable[Batch], positions: Mapping[str, str], components: Iterable[str]) -> dict[str, float]:
    """`samples/<component>` and `positions/<component>`: how many count over these micro-batches."""
    names = list(components)
    sums = [[0.0] * len(names), [0.0] * len(names)]
    for batch in batches:
        counts = torch.stack(list(component_counts(batch, positions, names).values()))
        own = torch.stack([(counts > 0).sum(1), counts.sum(1)]).tolist()  # one wait for the device a micro-batch
        sums = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(sums, own, strict=True)]
    return {
        f"{what}/{name}": value
        for what, row in zip(("samples", "positions"), sums, strict=True)
        for name, value in zip(names, row, strict=True)
    }


def component_weights(
    batch: Batch, positions: Mapping[str, str], components: Iterable[str], totals: Mapping[str, float], reduction: str
) -> dict[str, Float[Tensor, " positions"]]:
    """What each packed position of a micro-batch counts in each component of its optimizer step, 0 where in none.

    `totals` are those of `totals_of` over the whole step of all processes. Over the step the weights of a component sum
    to 1, and to 0 where no sample of the step has it. Raises GlassboxError for a step in which no component has any.
    """
    names = list(components)
    empty = [name for name in names if totals[f"positions/{name}"] <= 0]
    found = {}
    for name, counts in component_counts(batch, positions, names).items():
        if name in empty and len(empty) < len(names):
            found[name] = torch.zeros(len(batch.sample_index), device=batch.sample_index.device)
            continue
        weights = position_weights(
            batch.sample_index,
            counts.clamp(min=1),
            samples_in_step=int(totals[f"samples/{name}"]),
            positions_in_step=int(totals[f"positions/{name}"]),
            reduction=reduction,
        )
        rows = rows_of(batch, name, positions[name])
        if rows is not None:
            weights = weights * rows
        if name == "task" and batch.labelled is not None:
            weights = weights * batch.labelled.index_select(0, batch.sample_index.long())
        found[name] = weights
    return found


def position_weights(
    sample_index: Int[Tensor, " positions"],
    counts: Int[Tensor, " samples"],
    *,
    samples_in_step: int,
    positions_in_step: int,
    reduction: str,
) -> Float[Tensor, " positions"]:
    """What each position of a micro-batch counts in its optimizer step; over the step the weights sum to 1.

    `counts` are the positions of the micro-batch's samples that count. `samples_in_step` (those with at least one of
    them) and `positions_in_step` are totals over all micro-batches and processes of the step. `sample`: a sample's mean
    over its positions, then the mean over samples; `position`: the plain mean over positions. A micro-batch without a
    position gets no weights and so contributes zero; a step without one is a GlassboxError, to be met before the
    update.
    """
    if samples_in_step <= 0 or positions_in_step <= 0:
        raise GlassboxError(
            f"This optimizer step holds no answer position ({samples_in_step} samples, {positions_in_step} positions), "
            "so it has no loss to average and the update was not made. Every training sample must keep its answer: "
            "run `python src/verify.py`, and compare snapshot.max_length with the samples' lengths."
        )
    if reduction == "position":
        return torch.full(sample_index.shape, 1.0 / positions_in_step, device=sample_index.device)
    return 1.0 / (counts.index_select(0, sample_index.long()).to(torch.float32) * samples_in_step)
