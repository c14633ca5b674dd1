"""How the values of answer positions are averaged over an optimizer step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.errors import GlassboxError


def position_weights(
    sample_index: Int[Tensor, " positions"],
    counts: Int[Tensor, " samples"],
    *,
    samples_in_step: int,
    positions_in_step: int,
    reduction: str,
) -> Float[Tensor, " positions"]:
    """What each position of a micro-batch counts in its optimizer step; over the step the weights sum to 1.

    `counts` are the answer positions of the micro-batch's samples. `samples_in_step` (those with at least one position)
    and `positions_in_step` are totals over all micro-batches and processes of the step. `sample`: a sample's mean over
    its positions, then the mean over samples; `position`: the plain mean over positions. A micro-batch without a
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
