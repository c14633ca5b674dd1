"""A component's values as a function that autograd can differentiate, from the values and gradients that it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassbox.objective.term import Term


def differentiable(compute: Callable[[Tensor], Term], logits: Tensor) -> Tensor:
    """The values of `compute(logits)`, whose backward pass is the gradient that came with them."""
    return _Values.apply(logits, compute)  # type: ignore[no-any-return]


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, compute: Callable[[Tensor], Term]) -> Tensor:
        values, gradient = compute(logits)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0].unsqueeze(-1) * gradient, None
