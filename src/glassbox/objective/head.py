"""The student's output layer with the components that read its logits, a chunk of positions at a time.

Logits exist for one chunk only. Their gradient is formed in the same pass and turned at once into that of the hidden
states and of the output layer, so that nothing of positions x vocabulary survives and no product is formed twice (the
idea of fused linear cross-entropy: Hsu et al., 2024, Liger Kernel). The weights of components and positions must
therefore be known in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from glassbox.models.dtypes import loss_dtype, without_autocast
from glassbox.objective.reading import Target
from glassbox.objective.task import cross_entropy
from glassbox.objective.term import Term

AT_ONE = "kl_at_temperature_1"
SMALLEST_CHUNK = 32


class Head(NamedTuple):
    """The rows of a student's output layer that the teacher's vocabulary has too."""

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None


@dataclass(frozen=True)
class HeadTerms:
    """What is wanted of the logits: `task` against `labels`, others against their target, and KL of `logits` at T = 1
    for the log."""

    labels: Int[Tensor, " positions"]
    targets: Mapping[str, Target] = field(default_factory=dict)
    temperature: float = 1.0
    squared: bool = True
    at_one: bool = False

    def of(self, name: str, logits: Float[Tensor, "chunk vocabulary"], chunk: slice) -> Term:
        if name == "task":
            return cross_entropy(logits, self.labels[chunk])
        if name == AT_ONE:
            return self.targets["logits"].divergence(logits, chunk, 1.0, squared=False)
        return self.targets[name].divergence(logits, chunk, self.temperature, self.squared)


def head_losses(
    hidden: Float[Tensor, "positions width"],
    head: Head,
    terms: HeadTerms,
    weights: Mapping[str, Float[Tensor, " positions"]],
    *,
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " positions"]]]:
    """`sum over components and positions of weight x value`, and the values without gradient.

    `weights` names the components that are wanted and says what each position counts in them. Everything
    is computed in at least float32, also under autocast. The loss can be differentiated once.
    """
    rows = chunk or positions_per_chunk(hidden, len(head.weight))
    names = [*weights, *([AT_ONE] if terms.at_one else [])]
    ordered = sorted(names, key="task".__eq__)  # KL needs most room, and the task's gradient would lie beside it
    loss, values = _HeadLosses.apply(  # pyright: ignore[reportGeneralTypeIssues]
        hidden, head.weight, head.bias, terms, dict(weights), ordered, rows, torch.is_grad_enabled()
    )
    found = dict(zip(ordered, values, strict=True))
    return loss, {name: found[name] for name in names}


def positions_per_chunk(hidden: Tensor, vocabulary: int) -> int:
    """As many rows as stay near a processor (2 MiB of float32), or occupy an accelerator (64 MiB)."""
    entries = 2**19 if hidden.device.type == "cpu" else 2**24
    return max(SMALLEST_CHUNK, entries // vocabulary)


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        terms: HeadTerms,
        weights: Mapping[str, Tensor],
        names: list[str],
        rows: int,
        grows: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = loss_dtype(hidden, weight, bias)
        states, matrix, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        values = states.new_zeros(len(names), len(states))
        wanted = [grows and needed for needed in ctx.needs_input_grad[:3]]
        gradients = [
            torch.zeros_like(tensor) if tensor is not None and needed else None
            for tensor, needed in zip((states, matrix, offset), wanted, strict=True)
        ]
        of_states, of_matrix, of_offset = gradients
        with without_autocast(hidden):
            for start in range(0, len(states), rows):
                part = slice(start, start + rows)
                logits = functional.linear(states[part], matrix, offset)
                slope = None
                for row, name in enumerate(names):
                    term = terms.of(name, logits, part)
                    values[row, part] = term.values
                    if name in weights and any(wanted):
                        own = term.gradient.mul_(weights[name][part].unsqueeze(-1))
                        slope = own if slope is None else slope.add_(own)
                if slope is None:
                    continue
                if of_states is not None:
                    torch.mm(slope, matrix, out=of_states[part])
                if of_matrix is not None:
                    of_matrix.addmm_(slope.t(), states[part])
                if of_offset is not None:
                    of_offset += slope.sum(dim=0)
        loss = values.new_zeros(())
        for row, name in enumerate(names):
            if name in weights:
                loss += (values[row] * weights[name]).sum()
        ctx.gradients, ctx.dtypes = gradients, (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(values)
        return loss, values

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream: Tensor, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "head_losses can be differentiated once"
        scaled = [
            None if gradient is None else gradient.mul_(upstream).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None, None, None
