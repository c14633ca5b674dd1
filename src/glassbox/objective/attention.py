"""The `attention` component: final-layer maps, per head and query row, over the row's valid columns.

A row is one query position's distribution over the columns it may see (causal, unpadded); all other columns are 0 in
both maps, so sums over columns need no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.models.dtypes import loss_dtype
from glassbox.objective.reading import Reading, at

if TYPE_CHECKING:
    from glassbox.models.signals import PositionSignals

SMALLEST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class HeadPairing:
    """How many maps are compared per row, and in words what each of them is."""

    compared: int
    description: str


def pair_heads(student_heads: int, teacher_heads: int, strict: bool) -> HeadPairing:
    """Decide which maps are compared; raises GlassboxError under `heads: strict` where the counts differ."""
    counts = f"student {student_heads}, teacher {teacher_heads} heads"
    if student_heads == teacher_heads:
        return HeadPairing(student_heads, f"head by head ({counts})")
    if strict:
        raise GlassboxError(
            f"objective.heads is 'strict', but the final layers have different head counts ({counts}), so no head of "
            f"one belongs to a head of the other. Compare averaged heads with `-S objective.heads=match`, or choose a "
            f"student with {teacher_heads} heads."
        )
    few, many = sorted((student_heads, teacher_heads))
    if many % few == 0:
        larger = "student" if student_heads > teacher_heads else "teacher"
        return HeadPairing(few, f"means of {many // few} neighbouring {larger} heads with single heads ({counts})")
    return HeadPairing(1, f"the mean map over all heads, as neither count divides the other ({counts})")


def match_heads(
    student: Float[Tensor, "positions student_heads columns"],
    teacher: Float[Tensor, "positions teacher_heads columns"],
    strict: bool,
) -> tuple[Float[Tensor, "positions heads columns"], Float[Tensor, "positions heads columns"], str]:
    """Both maps with the same number of heads, and the description of what is compared."""
    pairing = pair_heads(student.shape[1], teacher.shape[1], strict)
    return average_heads(student, pairing.compared), average_heads(teacher, pairing.compared), pairing.description


def average_heads(
    maps: Float[Tensor, "positions heads columns"], groups: int
) -> Float[Tensor, "positions groups columns"]:
    """Means over groups of neighbouring heads, in at least float32; each row remains a distribution."""
    maps = maps.to(loss_dtype(maps))
    positions, heads, columns = maps.shape
    if heads == groups:
        return maps
    return maps.reshape(positions, groups, heads // groups, columns).mean(dim=2)


def map_mse(
    student: Float[Tensor, "positions heads columns"], teacher: Float[Tensor, "positions heads columns"]
) -> Float[Tensor, " positions"]:
    """Sum over columns of `(a_S - a_T)^2`, at most 2 at any length, mean over heads, per query row.

    A mean over columns would vanish as 1 / length^2.
    """
    dtype = loss_dtype(student, teacher)
    return (student.to(dtype) - teacher.to(dtype)).square().sum(dim=-1).mean(dim=-1)


def map_kl(
    student: Float[Tensor, "positions heads columns"], teacher: Float[Tensor, "positions heads columns"]
) -> Float[Tensor, " positions"]:
    """Sum over columns of `a_T log(a_T / a_S)`, mean over heads, per query row.

    Student entries below 1e-30 count as 1e-30: value and gradient stay finite where its softmax underflowed to 0.
    """
    dtype = loss_dtype(student, teacher)
    target = teacher.to(dtype)
    log_student = student.to(dtype).clamp(min=SMALLEST_PROBABILITY).log()
    return (torch.xlogy(target, target) - target * log_student).sum(dim=-1).mean(dim=-1)


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `attention` component at the positions of a reading."""
    strict, mine = reading.settings.heads == "strict", at(present_rows(reading.student), reading.rows)
    student, teacher, _ = match_heads(mine, reading.stored("attention"), strict)
    return (map_kl if reading.settings.attention_loss == "kl" else map_mse)(student, teacher)


def present_rows(student: PositionSignals) -> Float[Tensor, "rows heads length"]:
    """The student's rows. Raises GlassboxError where its forward pass gave none."""
    if student.attention is None:
        raise GlassboxError(
            "The student's final layer gave no attention map although the attention component is active. Load "
            "the model with attn_implementation='glassbox' and ask position_signals for maps (want_attention=True)."
        )
    return student.attention
