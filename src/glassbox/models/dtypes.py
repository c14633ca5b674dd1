"""The number formats in which logits and losses are computed, whatever the model ran in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def loss_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest format among `tensors`, at least float32: half formats are lifted, float64 stays float64."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def linear(
    inputs: Float[Tensor, "rows width"],
    weight: Float[Tensor, "out width"],
    bias: Float[Tensor, " out"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "rows out"]:
    """A linear layer whose operands are all in `dtype`."""
    return functional.linear(inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def widest_dtype(tensor: Tensor) -> torch.dtype:
    """float64, or float32 on Apple's mps, which has no wider format."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which products on the tensor's device keep the format of their operands."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
