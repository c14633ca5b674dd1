"""What a trial's components read of the snapshot beside its rows, and the projectors that its student trains."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from glassbox.config.components import needs
from glassbox.config.settings import Settings
from glassbox.objective.definitions import DEFINITIONS
from glassbox.objective.reading import Ingredients
from glassbox.randomness import generator_for
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.schema import Format


def ingredients_of(snapshot: Snapshot | None, settings: Settings, group: str) -> Ingredients:
    """Everything but the projectors. Raises GlassboxError for what this snapshot lacks."""
    files = needs(settings.distill[group].active, "files")
    if snapshot is None or not settings.distill[group].uses_signals:
        return Ingredients()
    return Ingredients(
        head=snapshot.head() if "head" in files else None,
        channels=snapshot.channels(settings.positions(group)["hidden"]) if "channels" in files else None,
        temperatures=snapshot.temperatures,
    )


def projectors_of(
    model: PreTrainedModel, teacher: Format, components: Iterable[str], seed: int, replica: int = 0
) -> dict[str, nn.Module]:
    """A projector for each component that trains one, each drawn from a generator of its own."""
    student = model.config.get_text_config()
    found = {}
    for name in components:
        make = DEFINITIONS[name].project
        if make is not None:
            purpose = "projector" if name == "hidden" else f"projector/{name}"
            found[name] = make(student, teacher, generator_for(seed, stream(purpose, replica)))
    return found


def stream(purpose: str, replica: int) -> str:
    """The purpose of a random stream; each replica of a group has its own."""
    return f"{purpose}/replica-{replica}" if replica else purpose
