"""The `layers` component: the student's state after several layers, projected, against the teacher's after its own.

The layer map pairs layers of both models (TinyBERT: Jiao et al., 2020, arXiv 1909.10351); every pair has a projector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.objective.hidden import Projector, mse, standardise
from glassbox.objective.reading import Ingredients, Reading, at, present
from glassbox.snapshot.further import layer_pairs
from glassbox.snapshot.schema import Format


def layer_mse(
    predicted: Sequence[Float[Tensor, "positions width"]], target: Sequence[Float[Tensor, "positions width"]]
) -> Float[Tensor, " positions"]:
    """`mean over pairs of ||W_s h_s - z(h_t)||^2 / d_T` per position; a pair's two states stand at the same place.

    Raises GlassboxError for two lists of unlike or no length.
    """
    if not predicted or len(predicted) != len(target):
        raise GlassboxError(
            f"The layers component pairs {len(predicted)} states of the student with {len(target)} of the teacher. "
            "Both need the layers of objective.layer_map: capture them with `dvc repro snapshot`."
        )
    return torch.stack([mse(mine, theirs) for mine, theirs in zip(predicted, target, strict=True)]).mean(dim=0)


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `layers` component at the positions of a reading; the last layers' states are the final hidden states."""
    own = reading.ingredients
    mine, theirs = reading.student.layers, reading.stored("layers")
    means, deviations = present(own.layer_channels, "layer_channels")
    asked, predicted, target = own.student_layers, [], []
    projectors: Any = reading.projector
    for project, (s, t) in zip(projectors, own.layer_pairs, strict=True):
        states = present(mine, "layers")[:, asked.index(s)] if s in asked else reading.student.hidden
        predicted.append(project(at(states, reading.rows)))
        if t in own.teacher_layers:
            place = own.teacher_layers.index(t)
            target.append(standardise(theirs[:, place], means[place], deviations[place]))
        else:
            target.append(standardise(reading.stored("hidden"), *present(own.channels, "channels")))
    return layer_mse(predicted, target)


def project(student: Any, teacher: Format, settings: ObjectiveSettings, generator: torch.Generator) -> nn.ModuleList:
    """A projector for every pair, in the order of the map; `student` is the text configuration of the model."""
    pairs = layer_pairs(student.num_hidden_layers, teacher.n_layers, settings.layer_map)
    return nn.ModuleList([Projector(student.hidden_size, teacher.width, generator) for _ in pairs])


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError for pairs whose teacher's layer is not stored."""
    refuse_missing_layers(ingredients, "layers")


def refuse_missing_layers(ingredients: Ingredients, component: str) -> None:
    """Raise GlassboxError for a component that reads several of the teacher's layers, where none is stored."""
    if ingredients.layer_channels is None or ingredients.channels is None or not ingredients.layer_pairs:
        raise GlassboxError(
            f"The {component} component needs states of several of the teacher's layers with their statistics, and "
            "this snapshot holds none. Capture them with `dvc repro snapshot`, or set the group's "
            f"{component} weight to 0."
        )
