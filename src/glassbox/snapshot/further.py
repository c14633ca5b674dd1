"""What a snapshot stores beyond every study's signals, because a selected group reads it: states of more layers, and
queries, keys and values of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glassbox.config.settings import ModelSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.shapes import layers_of

BY_GROUPS = ("layers", "relations_layer")
"""Settings of the capture that count only where a selected group reads what they name."""


def layer_pairs(student: int, teacher: int, given: Sequence[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    """(student's layer, teacher's layer), counted from 1: those given, else t = round(s L_T / L_S) for every s.

    The last layers are a pair, the embedding is none (TinyBERT's uniform map). Raises GlassboxError for layers that a
    model does not have.
    """
    pairs = (
        tuple(given)
        if given is not None
        else tuple((s, int(s * teacher / student + 0.5)) for s in range(1, student + 1))
    )
    for s, t in pairs:
        if not (1 <= s <= student and 1 <= t <= teacher):
            raise GlassboxError(
                f"objective.layer_map pairs layer {s} of the student with layer {t} of the teacher, and they have "
                f"{student} and {teacher}, counted from 1. Correct it in conf/, or set it to null for a uniform map."
            )
    return pairs


def _configuration(settings: ModelSettings) -> Any:
    from glassbox.models.loading import configuration_of  # torch comes with it: asked only where a group needs it

    return configuration_of(settings)


def pairs_of(settings: Settings) -> tuple[tuple[int, int], ...]:
    """The pairs of layers of this study's two models."""
    student, teacher = (layers_of(_configuration(model)) for model in (settings.student, settings.teacher))
    return layer_pairs(student, teacher, settings.objective.layer_map)


def stored_layers(settings: Settings) -> tuple[int, ...]:
    """The teacher's layers whose states are stored where a group reads them: those of snapshot.layers, else the map's.

    The last is not among them: its states are the hidden states. Raises GlassboxError for a map that needs others, and
    where only the last is left.
    """
    if "layers" not in settings.signals_read:
        return ()
    last = layers_of(_configuration(settings.teacher))
    needed = {t for _, t in pairs_of(settings)} - {last}
    given = settings.snapshot.layers
    stored = needed if given is None else {*given} - {last}
    missing = sorted(needed - stored)
    if missing or max(stored, default=0) > last:
        raise GlassboxError(
            f"snapshot.layers {sorted(stored)} does not hold layers {missing} of the teacher, which objective.layer_map"
            f" pairs with the student's (the teacher has {last}). Set `-S snapshot.layers=null` for those of the map."
        )
    if not stored:
        raise GlassboxError(
            "Groups that read `layers` would compare last layers alone, which is what `hidden` does. Choose "
            "`-S distill=hidden_state`, or pair more layers in objective.layer_map."
        )
    return tuple(sorted(stored))


def relations_layer(settings: Settings) -> int:
    """The teacher's layer whose queries, keys and values are stored, counted from 1; 0 where no group reads them."""
    if "relations" not in settings.signals_read:
        return 0
    last, given = layers_of(_configuration(settings.teacher)), settings.snapshot.relations_layer
    if given is not None and given > last:
        raise GlassboxError(
            f"snapshot.relations_layer is {given}, and the teacher has {last} layers. Set `-S "
            f"snapshot.relations_layer={last}`, or null for the last."
        )
    return given or last


def further_facts(settings: Settings) -> dict[str, Any]:
    """What of the above a snapshot depends on, for its key and its provenance; empty where nothing more is stored."""
    facts = {"layers": list(stored_layers(settings)), "relations_layer": relations_layer(settings)}
    return {name: value for name, value in facts.items() if value}
