"""The `logits` component: forward KL from teacher p to student q at temperature T (Hinton et al., 2015).

Per position `T^2 * sum_v p_T(v) log(p_T(v) / q_T(v))`, in nats. `squared=False` leaves the factor T^2 out. Two targets:
`dense_kl` forms the teacher's full logits from its stored hidden states, `topk_kl` reads stored top-k logits and the
log-sum-exp of everything outside them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from glassbox.objective.precision import loss_dtype, widest_dtype, without_autocast

SMALLEST_CHUNK = 64


def dense_kl(
    student_logits: Float[Tensor, "positions vocabulary"],
    teacher_hidden: Float[Tensor, "positions width"],
    head_weight: Float[Tensor, "vocabulary width"],
    head_bias: Float[Tensor, " vocabulary"] | None,
    temperature: float,
    *,
    squared: bool = True,
    chunk: int | None = None,
) -> Float[Tensor, " positions"]:
    """KL to the teacher's complete distribution, exact at any temperature.

    The teacher's logits are `hidden x head^T + bias`, formed for `chunk` positions at a time and dropped again: what
    is kept for the backward pass is the student's own gradient, `T^2 / T * (q_T - p_T)`. The teacher's side gets no
    gradient. The value is summed as `p log(p / q) - p + q`, which is the same number, but free of the rounding of the
    two normalisers.
    """
    rows = chunk or _positions_per_chunk(student_logits)
    factor = temperature**2 if squared else 1.0
    return _DenseDivergence.apply(  # pyright: ignore[reportReturnType]
        student_logits, teacher_hidden, head_weight, head_bias, temperature, factor, rows
    )


def _positions_per_chunk(student_logits: Tensor) -> int:
    """As many rows as stay in a processor's cache (1 MiB of float32), or fill an accelerator (256 MiB)."""
    entries = 2**18 if student_logits.device.type == "cpu" else 2**26
    return max(SMALLEST_CHUNK, entries // student_logits.shape[-1])


class _DenseDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher_hidden: Tensor,
        head_weight: Tensor,
        head_bias: Tensor | None,
        temperature: float,
        factor: float,
        rows: int,
    ) -> Tensor:
        dtype = loss_dtype(student_logits, teacher_hidden, head_weight, head_bias)
        columns = head_weight.to(dtype).t()
        offset = head_weight.new_zeros(1, dtype=dtype) if head_bias is None else head_bias.to(dtype) / temperature
        divergence = student_logits.new_empty(student_logits.shape[0], dtype=dtype)
        gradient = torch.empty_like(student_logits, dtype=dtype) if ctx.needs_input_grad[0] else None
        with without_autocast(student_logits):
            for start in range(0, student_logits.shape[0], rows):
                part = slice(start, start + rows)
                teacher = torch.addmm(offset, teacher_hidden[part].to(dtype), columns, alpha=1.0 / temperature)
                teacher = functional.log_softmax(teacher, dim=-1)
                student = functional.log_softmax(student_logits[part].to(dtype) / temperature, dim=-1)
                probability = teacher.exp()
                divergence[part] = teacher.sub_(student).mul_(probability).sum(dim=-1)
                surplus = student.exp_().sub_(probability)
                divergence[part] += surplus.sum(dim=-1)
                if gradient is not None:
                    torch.mul(surplus, factor / temperature, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.student_dtype = student_logits.dtype
        return divergence.mul_(factor)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scaled = (gradient * upstream[0].unsqueeze(-1)).to(ctx.student_dtype)
        return scaled, None, None, None, None, None, None


def topk_kl(
    student_logits: Float[Tensor, "positions vocabulary"],
    topk_ids: Int[Tensor, "positions k"],
    topk_logits: Float[Tensor, "positions k"],
    log_tail: Float[Tensor, " positions"],
    temperature: float,
    *,
    squared: bool = True,
) -> Float[Tensor, " positions"]:
    """KL over k + 1 outcomes: the teacher's k likeliest tokens and one bucket that holds all others.

    `topk_logits` and `log_tail` share one offset per row; `log_tail` is the log-sum-exp at this temperature of the
    teacher's other logits, so its probabilities sum to 1 by construction. The student's tail is a log-sum-exp over its
    own complement of the k ids. With k = vocabulary there is no tail and the result is the dense KL. The k + 1
    outcomes are compared in float64, so that rounding stays under 1e-6 where student and teacher agree.
    """
    dtype = loss_dtype(student_logits, topk_logits, log_tail)
    student = student_logits.to(dtype) / temperature
    ids = topk_ids.long()
    student_outcomes, teacher_outcomes = student.gather(-1, ids), topk_logits.to(dtype) / temperature
    if topk_ids.shape[-1] < student_logits.shape[-1]:
        complement = torch.logsumexp(student.scatter(-1, ids, -torch.inf), dim=-1, keepdim=True)
        student_outcomes = torch.cat((student_outcomes, complement), dim=-1)
        teacher_outcomes = torch.cat((teacher_outcomes, log_tail.to(dtype).unsqueeze(-1)), dim=-1)
    log_q = functional.log_softmax(student_outcomes, dim=-1, dtype=widest_dtype(student))
    log_p = functional.log_softmax(teacher_outcomes, dim=-1, dtype=widest_dtype(student))
    terms = log_p.exp() * (log_p.masked_fill(log_p == -torch.inf, 0.0) - log_q)
    return terms.sum(dim=-1).to(dtype) * (temperature**2 if squared else 1.0)
