"""The `logits` component: forward KL from teacher p to student q at temperature T (Hinton et al., 2015).

Per position `T^2 * sum_v p_T(v) log(p_T(v) / q_T(v))`, in nats; its gradient with respect to the student's logits is
`T^2 / T * (q_T - p_T)`. `squared=False` leaves the factor T^2 out. Two targets: `DenseTarget` forms the teacher's full
logits from its stored hidden states, `TopkTarget` reads stored top-k logits and the log-sum-exp of everything outside
them. Nothing flows into the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.config.curves import highest, is_constant
from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import loss_dtype, widest_dtype
from glassbox.objective.reading import Ingredients, Reading, present
from glassbox.objective.term import Term


@dataclass(frozen=True)
class DenseTarget:
    """The teacher's complete distribution, `hidden x weight^T + bias`, exact at any temperature."""

    hidden: Float[Tensor, "positions width"]
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None

    def divergence(
        self, student_logits: Float[Tensor, "chunk vocabulary"], chunk: slice, temperature: float, squared: bool
    ) -> Term:
        """KL at the positions of `chunk`, whose teacher's logits are formed here and dropped again."""
        dtype = loss_dtype(student_logits, self.hidden, self.weight, self.bias)
        hidden, columns = self.hidden[chunk].to(dtype), self.weight.to(dtype).t()
        offset = hidden.new_zeros(1) if self.bias is None else self.bias.to(dtype) / temperature
        log_p = torch.addmm(offset, hidden, columns, alpha=1.0 / temperature).log_softmax(dim=-1)
        log_q = (student_logits.to(dtype) / temperature).log_softmax(dim=-1)
        return dense_kl(log_p, log_q, temperature, squared)


@dataclass(frozen=True)
class TopkTarget:
    """The teacher's k likeliest tokens and, at each captured temperature, the log-sum-exp of all others.

    `logits` and `log_tails` share one offset per row.
    """

    ids: Int[Tensor, "positions k"]
    logits: Float[Tensor, "positions k"]
    log_tails: Float[Tensor, "positions temperatures"]
    temperatures: Sequence[float]

    def divergence(
        self, student_logits: Float[Tensor, "chunk vocabulary"], chunk: slice, temperature: float, squared: bool
    ) -> Term:
        """KL at the positions of `chunk`, at one of the captured temperatures."""
        column = captured_column(self.temperatures, temperature)
        assert column is not None
        dtype = loss_dtype(student_logits, self.logits, self.log_tails)
        teacher = self.logits[chunk].to(dtype) / temperature
        log_tail = self.log_tails[chunk, column].to(dtype)
        return topk_kl(
            student_logits.to(dtype) / temperature, self.ids[chunk].long(), teacher, log_tail, temperature, squared
        )


def target_of(reading: Reading) -> DenseTarget | TopkTarget:
    """The teacher's side of the `logits` component, as `logits_target` says."""
    if reading.settings.logits_target == "topk":
        ids, values, tails = (reading.stored(name) for name in ("topk_ids", "topk_logits", "log_tail"))
        return TopkTarget(ids, values, tails, reading.ingredients.temperatures)
    weight, bias = present(reading.ingredients.head, "head")
    return DenseTarget(reading.stored("hidden"), weight, bias)


def refuse_impossible_target(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError for a target that the snapshot cannot give."""
    constant = highest(settings.temperature) if is_constant(settings.temperature) else None
    asked = f"'{settings.temperature}'" if constant is None else f"{constant:g}"
    if settings.logits_target == "dense" and ingredients.head is None:
        raise GlassboxError(
            "objective.logits_target is 'dense', which needs hidden states and head.safetensors, and this snapshot "
            "has none. Run with `-S objective.logits_target=topk`, or capture hidden states too."
        )
    if settings.logits_target == "topk" and (
        constant is None or captured_column(ingredients.temperatures, constant) is None
    ):
        captured = ", ".join(f"{value:g}" for value in ingredients.temperatures) or "none"
        raise GlassboxError(
            f"objective.logits_target is 'topk' at temperature {asked}, but the snapshot holds the mass outside "
            f"its top k only at temperatures {captured}. Use `-S objective.logits_target=dense`, which is "
            "exact at any temperature, or one of those captured."
        )


def captured_column(temperatures: Sequence[float], temperature: float) -> int | None:
    """Which of the captured temperatures this one is; None where it is none of them."""
    matches = (i for i, known in enumerate(temperatures) if math.isclose(known, temperature, rel_tol=1e-6))
    return next(matches, None)


def dense_kl(
    log_p: Float[Tensor, "positions vocabulary"],
    log_q: Float[Tensor, "positions vocabulary"],
    temperature: float,
    squared: bool,
) -> Term:
    """KL between complete distributions at this temperature, whose logarithms it overwrites.

    The value is summed as `p log(p / q) - p + q`, which is the same number, but free of the rounding of the two
    normalisers.
    """
    factor = temperature**2 if squared else 1.0
    p = log_p.exp()
    values = log_p.sub_(log_q).mul_(p).sum(dim=-1)
    surplus = log_q.exp_().sub_(p)
    values += surplus.sum(dim=-1)
    return Term(values.mul_(factor), surplus.mul_(factor / temperature))


def topk_kl(
    student: Float[Tensor, "positions vocabulary"],
    ids: Int[Tensor, "positions k"],
    teacher: Float[Tensor, "positions k"],
    log_tail: Float[Tensor, " positions"],
    temperature: float,
    squared: bool,
) -> Term:
    """KL over k + 1 outcomes: the teacher's k likeliest tokens and one bucket that holds all others.

    All logits are already divided by the temperature. The teacher's probabilities sum to 1 by construction; the
    student's tail is a log-sum-exp over its own complement of the k ids. With k = vocabulary there is no tail and the
    result is the dense KL. The k + 1 outcomes are compared in float64, so that rounding stays under 1e-6 where student
    and teacher agree. A token of the tail has its share of the tail's gradient.
    """
    factor = temperature**2 if squared else 1.0
    wide, has_tail = widest_dtype(student), ids.shape[-1] < student.shape[-1]
    mine, theirs, rest = student.gather(-1, ids), teacher, student
    if has_tail:
        rest = student.scatter(-1, ids, -torch.inf)
        tail = rest.logsumexp(dim=-1, keepdim=True)
        mine, theirs = torch.cat((mine, tail), dim=-1), torch.cat((teacher, log_tail.unsqueeze(-1)), dim=-1)
        rest = rest.sub_(tail).exp_()
    log_q, log_p = mine.log_softmax(dim=-1, dtype=wide), theirs.log_softmax(dim=-1, dtype=wide)
    p = log_p.exp()
    values = (p * (log_p.masked_fill(log_p == -torch.inf, 0.0) - log_q)).sum(dim=-1).to(student.dtype)
    surplus = (log_q.exp() - p).to(student.dtype).mul_(factor / temperature)
    gradient = rest.mul_(surplus[:, -1:]) if has_tail else torch.empty_like(student)
    gradient.scatter_(-1, ids, surplus[:, : ids.shape[-1]])
    return Term(values.mul_(factor), gradient)
