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
        self, batch: Batch, weights: Float[Tensor, " positions"], objective: Objective, *, at_one: bool = False
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " positions"]]]:
        """The loss, and without gradients the components per position, KL at T = 1 among them where that is asked for.

        `objective` is that of the moment; its projector is the student's own.
        """
        signals = self.student(batch, objective.needs_attention)
        return objective.loss(signals, self.student.head, batch, weights, at_one=at_one)
