"""The number formats in which a loss is computed, whatever the model ran in."""

from __future__ import annotations

import torch
from torch import Tensor


def loss_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest format among `tensors`, at least float32: half formats are lifted, float64 stays float64."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def widest_dtype(tensor: Tensor) -> torch.dtype:
    """float64, or float32 on Apple's mps, which has no wider format."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which products on the tensor's device keep the format of their operands."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
