"""How each component is computed: the second half of its entry in config/components.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glassbox.config.settings import ObjectiveSettings
from glassbox.objective import aligned, attention, contrastive, hidden, layer_router, layers, logits, mixture, relations
from glassbox.objective.reading import Ingredients, Reading, Target
from glassbox.snapshot.schema import Format


def _nothing_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None: ...


@dataclass(frozen=True)
class Definition:
    """A component of logits has a `target`, any other gives one of `values` per position of its reading.

    refuse raises GlassboxError where an ingredient is missing, before anything trains. project makes its projector from
    the student's text configuration, the snapshot's format, the settings and the component's own generator. figures:
    what is logged of a step beside the component, per position of its reading, by name.
    """

    values: Callable[[Reading], Tensor] | None = None
    target: Callable[[Reading], Target] | None = None
    refuse: Callable[[Ingredients, ObjectiveSettings], None] = _nothing_missing
    project: Callable[[Any, Format, ObjectiveSettings, torch.Generator], nn.Module] | None = None
    figures: Callable[[Reading], dict[str, Tensor]] | None = None


DEFINITIONS: dict[str, Definition] = {
    "task": Definition(),  # the labels of the batch: objective/task.py
    "logits": Definition(target=logits.target_of, refuse=logits.refuse_impossible_target),
    "hidden": Definition(hidden.values, refuse=hidden.refuse_missing, project=hidden.project),
    "attention": Definition(attention.values),
    "layers": Definition(layers.values, refuse=layers.refuse_missing, project=layers.project),
    "layer_router": Definition(
        layer_router.values,
        refuse=layer_router.refuse_missing,
        project=layer_router.project,
        figures=layer_router.figures,
    ),
    "relations": Definition(relations.values, refuse=relations.refuse_missing),
    "contrastive": Definition(contrastive.values, refuse=contrastive.refuse_missing, project=hidden.project),
    "mixture": Definition(target=mixture.target_of, refuse=mixture.refuse_missing),
    "alm": Definition(aligned.likelihoods),
    "aligned_logits": Definition(target=aligned.root_target, refuse=aligned.refuse_missing_pieces),
    "aligned_hidden": Definition(aligned.states, refuse=aligned.refuse_missing_states, project=hidden.project),
    "aligned_attention": Definition(aligned.maps),
}
