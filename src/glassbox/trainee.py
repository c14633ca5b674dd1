"""Student and objective as one module, whose forward is a micro-batch's part of the step's loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from glassbox.objective import Objective
from glassbox.snapshot.reader import Batch
from glassbox.student import Student


class Trainee(nn.Module):
    """What is spread over processes: every use of a weight, the projector's too, lies within its forward."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        # The layers that are sharded one by one, under the name that Accelerate looks for
        self._no_split_modules = student.model._no_split_modules

    def forward(
        self, batch: Batch, weights: Float[Tensor, " positions"], objective: Objective
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor], Float[Tensor, "positions vocabulary"]]:
        """The loss, and without gradients the components per position and the logits.

        `objective` is that of the moment; its projector is the student's own.
        """
        signals, logits = self.student(batch, objective.needs_attention)
        components = objective.components(signals, logits, batch)
        loss = objective.total(components, weights)
        return loss, {name: values.detach() for name, values in components.items()}, logits.detach()
