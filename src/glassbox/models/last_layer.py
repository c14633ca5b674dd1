"""The last layer's feed-forward block where it is wanted alone: nothing reads what it gives at other positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

POSITION_WISE = {"gate_proj", "up_proj", "down_proj", "act_fn"}
"""Parts of a gated block as Llama has it, which treats every position by itself."""
FEWEST_ROWS = 16
"""Products of fewer rows take another kernel on a CPU, whose last bits differ from those of the whole batch."""
LARGEST_SHARE = 0.75


@contextmanager
def feed_forward_at(model: PreTrainedModel, positions: Int[Tensor, " positions"]) -> Iterator[None]:
    """Within it the last layer's feed-forward block runs at these places of a flat batch and gives zeros elsewhere.

    For models whose block is a gated one of Llama's kind, and where most places are not wanted; others run as ever.
    """
    layers = getattr(model.base_model, "layers", None)
    block = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    if not isinstance(block, nn.Module) or {name for name, _ in block.named_children()} != POSITION_WISE:
        yield
        return
    whole = block.forward
    rows = positions if len(positions) >= FEWEST_ROWS else positions.repeat(FEWEST_ROWS)

    def at_rows(hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, -2)
        if not len(positions) or len(rows) > LARGEST_SHARE * len(flat):
            return whole(hidden)
        return torch.zeros_like(flat).index_copy_(0, rows, whole(flat[rows])).view_as(hidden)

    block.forward = at_rows
    try:
        yield
    finally:
        del block.forward
