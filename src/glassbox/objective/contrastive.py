"""The `contrastive` component: the student's state must be nearer to the teacher's at its position than to others.

InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) from student to teacher, as in contrastive representation
distillation (Tian et al., 2020, arXiv 1910.10699). The others are the teacher's states in samples of other steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from glassbox.config.settings import ObjectiveSettings
from glassbox.errors import GlassboxError
from glassbox.models.dtypes import loss_dtype, without_autocast
from glassbox.objective.hidden import refuse_missing as refuse_missing_states
from glassbox.objective.hidden import standardise
from glassbox.objective.reading import Ingredients, Reading, at, present


class Negatives(NamedTuple):
    """The teacher's final states at positions of other samples, as stored, and the token that each predicts."""

    states: Float[Tensor, "negatives width"]
    ids: Int[Tensor, " negatives"]

    def to(self, device: torch.device | str) -> Negatives:
        return Negatives(self.states.to(device), self.ids.to(device))


def info_nce(
    queries: Float[Tensor, "positions width"],
    keys: Float[Tensor, "positions width"],
    ids: Int[Tensor, " positions"],
    negatives: Float[Tensor, "negatives width"],
    negative_ids: Int[Tensor, " negatives"],
    temperature: float,
) -> Float[Tensor, " positions"]:
    """`-log(exp(s_ii) / (exp(s_ii) + sum_j exp(s_ij)))` with `s_ij = cos(query_i, key_j) / temperature`, per position.

    Negatives j that predict the same token as position i do not count. Raises GlassboxError where none is left at any
    position: then there is nothing to tell apart.
    """
    dtype = loss_dtype(queries, keys, negatives)
    mine, own, others = (functional.normalize(each.to(dtype), dim=-1) for each in (queries, keys, negatives))
    same = ids[:, None] == negative_ids
    if len(ids) and not bool((~same).any()):
        raise GlassboxError(
            f"No negative is left for the contrastive component: all {len(negative_ids)} that were drawn predict the "
            "same token as the positions they are compared with. Raise `-S objective.negatives`, or train on tasks "
            "with more than one answer."
        )
    with without_autocast(queries):
        apart = (mine @ others.t() / temperature).masked_fill(same, float("-inf"))
    positive = (mine * own).sum(-1, keepdim=True) / temperature
    return torch.cat([positive, apart], dim=1).logsumexp(1) - positive[:, 0]


def values(reading: Reading) -> Float[Tensor, " rows"]:
    """The `contrastive` component at the positions of a reading."""
    channels = present(reading.ingredients.channels, "channels")
    negatives: Negatives = present(reading.ingredients.negatives, "negatives")
    return info_nce(
        reading.projector(at(reading.student.hidden, reading.rows)),
        standardise(reading.stored("hidden"), *channels),
        at(reading.batch.labels, reading.rows),
        standardise(negatives.states, *channels),
        negatives.ids,
        reading.settings.contrastive_temperature,
    )


def refuse_missing(ingredients: Ingredients, settings: ObjectiveSettings) -> None:
    """Raise GlassboxError for states that cannot be standardised or projected; negatives come with every step."""
    refuse_missing_states(ingredients, settings, "contrastive")
