"""What a component says of a chunk of logits."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Term(NamedTuple):
    """One value per position, and the gradient of each with respect to its own row of logits."""

    values: Float[Tensor, " positions"]
    gradient: Float[Tensor, "positions vocabulary"]
