"""What a student is taught: one module per component, and `Objective`, where weights meet them."""

from glassbox.objective.attention import pair_heads
from glassbox.objective.hidden import Projector
from glassbox.objective.objective import Objective
from glassbox.objective.reading import Ingredients
from glassbox.objective.reduction import component_weights, position_weights, totals_of
from glassbox.objective.shares import shares

__all__ = [
    "Ingredients",
    "Objective",
    "Projector",
    "component_weights",
    "pair_heads",
    "position_weights",
    "shares",
    "totals_of",
]
