"""The `task` component: what the labels alone teach."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from glassbox.objective.precision import loss_dtype

NEVER_A_LABEL = -(2**31)


def cross_entropy(
    logits: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """Next-token cross-entropy `-log q(label)` in nats, one value per answer position.

    The prompt is masked by absence: only positions whose next token belongs to the answer are packed. So a label
    outside the vocabulary, -100 included, is an error (IndexError on a CPU) and never a zero that joins the mean.
    """
    return functional.cross_entropy(logits.to(loss_dtype(logits)), labels, reduction="none", ignore_index=NEVER_A_LABEL)
