"""The `layer_router` component: a router reads which of the teacher's layers a position learns from off the student.

The analogue for dense teachers of a router over experts (Kim, Chu & Yang, 2025, arXiv 2502.12947): the mixture is not
of experts but of the layers that the snapshot holds, and each of them is predicted from the student's last state. Every
layer counts in units of its loss before the first update, and no position can choose one layer alone, else the router
would pick whatever is easiest to predict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.config.settings import ObjectiveSettings
from glassbox.objective.hidden import Projector, mse, standardise
from glassbox.objective.layers import refuse_missing_layers
from glassbox.objective.reading import Ingredients, Reading, at, present
from glassbox.snapshot.schema import Format

NAME = "layer_router"
LOSS = "loss_of_"
LEAST_ENTROPY = 0.5
"""Of the logarithm of the number of layers."""


class LayerRouter(nn.Module):
    """A projector from the student's last state to each of the teacher's layers, and the router over them.

    The router begins with the same weight for every layer.
    """

    def __init__(self, student_width: int, teacher_width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Projector(student_width, teacher_width, generator) for _ in range(layers)])
        self.router = Projector(student_width, layers, generator)
        nn.init.zeros_(self.router.weight)

    def forward(
        self, states: Float[Tensor, "positions student"]
    ) -> tuple[list[Float[Tensor, "positions teacher"]], Float[Tensor, "positions layers"]]:
        """The teacher's layers as predicted, and the router's logits."""
        return [layer(states) for layer in self.layers], self.router(states)


def routed(
    losses: Float[Tensor, "positions layers"],
    logits: Float[Tensor, "positions layers"],
    initial: Float[Tensor, " layers"] | None,
) -> Float[Tensor, " positions"]:
    """`sum_l w_l loss_l / initial_l` per position, w by `layer_weights`; `initial` None divides by nothing."""
    shares = losses if initial is None else losses / initial.to(losses.dtype)
    return (layer_weights(logits) * shares).sum(-1)


def layer_weights(logits: Float[Tensor, "positions layers"]) -> Float[Tensor, "positions layers"]:
    """`(1 - e) softmax(logits) + e / L`, whose entropy is at least half of log L whatever the logits say.

    Entropy is concave in the softmax, so it is least where one layer has all of it; `even_share` is e.
    """
    even = even_share(logits.shape[-1])
    return (1.0 - even) * logits.softmax(-1) + even / logits.shape[-1]


@cache
def even_share(layers: int) -> float:
    """The share e that leaves (1 - e) of one layer and e of all L an entropy of half of log L, found by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        rest = middle / layers
        largest = 1.0 - middle + rest
        entropy = -largest * math.log(largest) - (layers - 1) * (rest * math.log(rest) if rest else 0.0)
        low, high = (low, middle) if entropy >= LEAST_ENTROPY * math.log(layers) else (middle, high)
    return high


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `layer_router` component at the positions of a reading."""
    losses, logits = _compared(reading)
    return routed(losses, logits, reading.ingredients.initial_layer_losses)


def figures(reading: Reading) -> dict[str, Float[Tensor, " rows"]]:
    """What is logged of a step: the entropy of w, and of every layer of the teacher its weight and its loss."""
    losses, logits = _compared(reading)
    weights = layer_weights(logits)
    found = {"entropy": torch.special.entr(weights).sum(-1)}
    for place, layer in enumerate((*reading.ingredients.teacher_layers, "last")):
        found |= {f"weight_of_{layer}": weights[:, place], f"{LOSS}{layer}": losses[:, place]}
    return found


def initial_losses(sums: Mapping[str, float]) -> list[float]:
    """Of the figures of a step, summed as they are logged, the losses of the teacher's layers in their order."""
    return [value for name, value in sums.items() if name.startswith(f"{NAME}_{LOSS}")]


def _compared(reading: Reading) -> tuple[Float[Tensor, "rows layers"], Float[Tensor, "rows layers"]]:
    """The loss of every layer of the teacher that is stored and of its last one, and the router's logits."""
    own, stored = reading.ingredients, reading.stored("layers")
    means, deviations = present(own.layer_channels, "layer_channels")
    targets = [standardise(stored[:, i], means[i], deviations[i]) for i in range(len(own.teacher_layers))]
    targets.append(standardise(reading.stored("hidden"), *present(own.channels, "channels")))
    predicted, logits = reading.projector(at(reading.student.hidden, reading.rows))
    pairs = zip(predicted, targets, strict=True)
    return torch.stack([mse(mine, theirs) for mine, theirs in pairs], -1), logits


def project(student: Any, teacher: Format, settings: ObjectiveSettings, generator: torch.Generator) -> LayerRouter:
    """The projectors and the router; `student` is the text configuration of the model."""
    return LayerRouter(student.hidden_size, teacher.width, len(teacher.layers) + 1, generator)


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError where the teacher's layers are not stored."""
    refuse_missing_layers(ingredients, NAME)
