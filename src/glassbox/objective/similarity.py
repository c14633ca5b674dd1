"""How alike the representations of two models are: a diagnostic, not a loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from glassbox.errors import GlassboxError
from glassbox.models.dtypes import widest_dtype


def linear_cka(left: Float[Tensor, "positions left"], right: Float[Tensor, "positions right"]) -> float:
    """`||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)` of states with their mean taken out (Kornblith et al., 2019).

    Between 0 and 1; rotations, uniform scales and shifts of either side leave it. Raises GlassboxError for fewer than
    two positions and for a side that never varies, for which it has no value.
    """
    if len(left) != len(right) or len(left) < 2:
        raise GlassboxError(f"CKA compares at least two positions of both models, not {len(left)} and {len(right)}.")
    x, y = (each.to(widest_dtype(each)) - each.to(widest_dtype(each)).mean(0) for each in (left, right))
    norms = (x.t() @ x).norm() * (y.t() @ y).norm()
    if not float(norms) > 0:
        raise GlassboxError("CKA has no value for states that are the same at every position.")
    return float((y.t() @ x).square().sum() / norms)
