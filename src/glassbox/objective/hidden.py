"""The `hidden` component: the student's final state, projected, against the teacher's standardised one.

Both states are taken after the final norm. Standardising gives every channel a scale near 1, so that a language
model's few outlier channels do not own the loss.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import linear, loss_dtype, without_autocast
from glassbox.objective.reading import Ingredients, Reading, at, present
from glassbox.snapshot.schema import Format

SMALLEST_SHARE_OF_MEDIAN = 0.01


class Projector(nn.Linear):
    """student width -> teacher width, with bias, always present; trained and saved with the student.

    Weights are uniform within 1 / sqrt(student width) from `generator` (the global one is left alone), biases 0: the
    standardised target has mean 0. Computed in at least float32, also under autocast.
    """

    def __init__(self, student_width: int, teacher_width: int, generator: torch.Generator) -> None:
        super().__init__(student_width, teacher_width)
        bound = 1.0 / math.sqrt(student_width)
        with torch.no_grad():
            self.weight.copy_(torch.empty(self.weight.shape).uniform_(-bound, bound, generator=generator))
            self.bias.zero_()

    def reset_parameters(self) -> None:
        """Nothing: `nn.Linear` would draw from the global generator here."""

    def forward(self, input: Float[Tensor, "*batch student"]) -> Float[Tensor, "*batch teacher"]:
        dtype = loss_dtype(input, self.weight)
        with without_autocast(input):
            return linear(input, self.weight, self.bias, dtype)


def standardise(
    hidden: Float[Tensor, "positions width"], mean: Float[Tensor, " width"], deviation: Float[Tensor, " width"]
) -> Float[Tensor, "positions width"]:
    """`(h - mean) / max(deviation, 0.01 x the median deviation)` per channel: a dead channel is not blown up to 1."""
    dtype = loss_dtype(hidden, mean, deviation)
    spread = deviation.to(dtype)
    floor = spread.quantile(0.5) * SMALLEST_SHARE_OF_MEDIAN
    return (hidden.to(dtype) - mean.to(dtype)) / spread.maximum(floor)


def mse(
    predicted: Float[Tensor, "positions width"], target: Float[Tensor, "positions width"]
) -> Float[Tensor, " positions"]:
    """Mean over channels of the squared difference, per position."""
    dtype = loss_dtype(predicted, target)
    return (predicted.to(dtype) - target.to(dtype)).square().mean(dim=-1)


def cosine(
    predicted: Float[Tensor, "positions width"], target: Float[Tensor, "positions width"]
) -> Float[Tensor, " positions"]:
    """`1 - cos(predicted, target)` per position, between 0 and 2."""
    dtype = loss_dtype(predicted, target)
    return 1.0 - functional.cosine_similarity(predicted.to(dtype), target.to(dtype), dim=-1)


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `hidden` component at the positions of a reading."""
    target = standardise(reading.stored("hidden"), *present(reading.ingredients.channels, "channels"))
    predicted = reading.projector(at(reading.student.hidden, reading.rows))
    return (cosine if reading.settings.hidden_loss == "cosine" else mse)(predicted, target)


def project(student: Any, teacher: Format, settings: ObjectiveSettings, generator: torch.Generator) -> Projector:
    """The projector of the final state; `student` is the text configuration of the model."""
    return Projector(student.hidden_size, teacher.width, generator)


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings, component: str = "hidden") -> None:
    """Raise GlassboxError for states that cannot be standardised or projected."""
    if ingredients.channels is None or component not in ingredients.projectors:
        raise GlassboxError(
            f"The {component} component needs the snapshot's channel statistics and a projector, and got "
            f"{'no statistics' if ingredients.channels is None else 'no projector'}. Capture a snapshot with hidden "
            f"states (`dvc repro snapshot`), or set the group's {component} weight to 0."
        )
    if not float(ingredients.channels[1].float().quantile(0.5)) > 0:
        raise GlassboxError(
            "Half or more of the teacher's hidden channels in channels.safetensors never vary, so they cannot "
            "be standardised. Check the snapshot with `python src/verify.py`, or capture it again."
        )
