"""The `task` component: what the labels alone teach."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from glassbox.models.dtypes import loss_dtype
from glassbox.objective.term import Term


def cross_entropy(logits: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, " positions"]) -> Term:
    """Next-token cross-entropy `-log q(label)` in nats, one value per answer position.

    The prompt is masked by absence: only positions whose next token belongs to the answer are packed. So a label
    outside the vocabulary, -100 included, is an error (RuntimeError on a CPU) and never a zero that joins the mean.
    """
    log_q = logits.to(loss_dtype(logits)).log_softmax(dim=-1)
    column = labels.unsqueeze(-1)
    values = -log_q.gather(-1, column).squeeze(-1)
    gradient = log_q.exp_()
    gradient.scatter_add_(-1, column, gradient.new_full(column.shape, -1.0))
    return Term(values, gradient)
