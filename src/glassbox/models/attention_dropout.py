"""Causal attention with dropout on a CPU: torch's fused kernel takes none there, and its other one draws each weight by
itself and masks in passes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

PARTS = 1 << 16  # a draw is 16 bits, so that a probability is met within 1 / 131,072
DRAWS_PER_WORD = 4
FURTHER = ("position_bias", "softcap", "cache")  # what Transformers' function knows beside


def drops_here(module: nn.Module, query: Tensor, key: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether attention without a mask of its own is that of this module: causal, dropping, on a CPU, nothing added."""
    is_causal = options.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    drops = 0.0 < options.get("dropout", 0.0) < 1.0 and query.device.type == "cpu"
    return drops and is_causal and query.shape[2] == key.shape[2] and all(options.get(name) is None for name in FURTHER)


def draw_kept(shape: Sequence[int], dropout: float) -> tuple[Bool[Tensor, ...], float]:
    """Which weights stay, from torch's own generator, and the share of them that is expected to."""
    size, least = math.prod(shape), min(round(dropout * PARTS), PARTS - 1)
    words = torch.empty(-(-size // DRAWS_PER_WORD), dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[:size].view(*shape)
    return draws >= least - PARTS // 2, 1 - least / PARTS


def dropped_attention(
    query: Float[Tensor, "batch heads length depth"],
    key: Float[Tensor, "batch key_heads length depth"],
    value: Float[Tensor, "batch key_heads length value_depth"],
    scaling: float,
    dropout: float,
) -> Float[Tensor, "batch length heads value_depth"]:
    """dropout(softmax(scaling q k^T)) v over each position and those before it, the kept weights scaled up (Srivastava
    et al. 2014); softmax in at least float32."""
    batch, heads, length, _ = query.shape
    grouped = (batch, key.shape[1], heads // key.shape[1] * length, -1)
    dtype = torch.promote_types(query.dtype, torch.float32)
    later = torch.full((length, length), -math.inf, dtype=dtype).triu(1)
    scores = (query * scaling).reshape(grouped) @ key.transpose(2, 3)
    weights = torch.softmax(scores.view(batch, heads, length, length) + later, dim=-1)
    kept, share = draw_kept(weights.shape, dropout)
    result = (weights * kept).to(value.dtype).view(grouped) @ value
    return (result / share).view(batch, heads, length, -1).transpose(1, 2)
