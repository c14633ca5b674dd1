"""What a student is taught: one module per component, and `Objective`, where weights meet them."""

from glassbox.objective.attention import pair_heads
from glassbox.objective.hidden import Projector
from glassbox.objective.objective import Objective
from glassbox.objective.reduction import position_weights
from glassbox.objective.shares import shares

__all__ = ["Objective", "Projector", "pair_heads", "position_weights", "shares"]
