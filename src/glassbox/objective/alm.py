"""The `alm` component: the likelihood of a chunk of text, whatever the tokens (Minixhofer et al., 2025).

A chunk (models/chunks.py) is one span of bytes in both tokenizations. Whether it comes or not is a coin with the
chunk's likelihood under a temperature; the loss compares the student's coin with the teacher's.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from glassbox.models.dtypes import linear, loss_dtype, without_autocast
from glassbox.objective.head import Head, positions_per_chunk

LARGEST = -1e-6
"""The most that a chunk's scaled log-likelihood counts as: at 0 its complement would have no logarithm."""


def coin_divergence(
    student: Float[Tensor, " chunks"], teacher: Float[Tensor, " chunks"], temperature: float
) -> Float[Tensor, " chunks"]:
    """`-[e^a b + (1 - e^a) log(1 - e^b)]` minus the same at b = a, per chunk: 0 at a match, and never negative.

    a and b are the log-likelihoods of a chunk under teacher and student, divided by `temperature`, at most -1e-6.
    """
    dtype = loss_dtype(student, teacher)
    b = (student.to(dtype) / temperature).clamp(max=LARGEST)
    a = (teacher.to(dtype) / temperature).clamp(max=LARGEST)
    taken, left = a.exp(), -torch.expm1(a)
    return taken * (a - b) + left * (log1mexp(a) - log1mexp(b))


def log1mexp(x: Float[Tensor, " chunks"]) -> Float[Tensor, " chunks"]:
    """`log(1 - e^x)` of negative numbers without cancellation (Mächler, 2012)."""
    near = x > -math.log(2.0)
    small, large = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def sums_by_chunk(
    values: Float[Tensor, " positions"], chunk: Int[Tensor, " positions"], chunks: int
) -> Float[Tensor, " chunks"]:
    """Sums over the positions of each chunk; `chunk` is -1 at positions of none."""
    room = values.new_zeros(chunks + 1)
    return room.index_add(0, torch.where(chunk < 0, chunks, chunk), values)[:chunks]


def label_log_probabilities(
    hidden: Float[Tensor, "positions width"], head: Head, labels: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """`log q(label)` in at least float32, some positions at a time: their logits are formed again for the gradient."""
    rows = positions_per_chunk(hidden, len(head.weight))
    parts = [
        checkpoint(
            _gather,
            hidden[at : at + rows],
            head.weight,
            head.bias,
            labels[at : at + rows],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for at in range(0, len(hidden), rows)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=loss_dtype(hidden))  # type: ignore[arg-type]


def _gather(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    dtype = loss_dtype(hidden, weight, bias)
    with without_autocast(hidden):
        logits = linear(hidden, weight, bias, dtype)
        return -functional.cross_entropy(logits, labels, reduction="none")
