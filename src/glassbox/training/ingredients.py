"""What a trial's components read of the snapshot beside its rows, and the projectors that its student trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.components import COMPONENTS
from glassbox.config.settings import ObjectiveSettings, Settings
from glassbox.errors import GlassboxError
from glassbox.models.loading import configuration_of
from glassbox.models.pieces import piece_texts
from glassbox.models.shapes import attention_widths, layers_of
from glassbox.models.tokenizers import load_tokenizer, tokenizer_fingerprint
from glassbox.objective.definitions import DEFINITIONS
from glassbox.objective.mixture import Experts
from glassbox.objective.reading import Ingredients
from glassbox.objective.relations import relation_heads_of
from glassbox.objective.roots import Vocabularies, vocabularies_of
from glassbox.randomness import derived_seed, generator_for
from glassbox.snapshot.further import layer_pairs
from glassbox.snapshot.reader import Snapshot
from glassbox.snapshot.schema import Format


def ingredients_of(snapshot: Snapshot | None, settings: Settings, group: str, seed: int) -> Ingredients:
    """Everything but projectors and negatives. Raises GlassboxError for what this snapshot lacks, before a model loads.

    Channels are those of all positions where a component that standardises counts at all of them.
    """
    weights = settings.distill[group]
    if snapshot is None or not weights.uses_signals:
        return Ingredients()
    _require_signals(snapshot, settings, group)
    files, standardising = weights.needs("files"), [name for name in weights.active if needs_channels(name)]
    positions = settings.positions(group)
    reach = "all" if any(positions[name] == "all" for name in standardising) else "answer"
    found = Ingredients(
        head=snapshot.head() if "head" in files else None,
        channels=snapshot.channels(reach) if "channels" in files else None,
        temperatures=snapshot.temperatures,
        experts=experts_of(snapshot, settings, group, seed) if "experts" in files else None,
    )
    asks, layout = weights.needs("asks"), snapshot.format
    reads_layers = "layers" in weights.needs("reads")
    student = configuration_of(settings.student) if reads_layers or "relations" in asks else None
    if reads_layers:
        found = replace(found, **layer_facts(layout, student, settings), layer_channels=snapshot.layer_channels(reach))
    if "relations" in asks:
        found = replace(found, **relation_facts(layout, student, settings))
    return found


def needs_channels(component: str) -> bool:
    """Whether a component standardises the teacher's states."""
    return "channels" in COMPONENTS[component].files


def layer_facts(layout: Format, student: Any, settings: Settings) -> dict[str, Any]:
    """Which layers are compared and read, as fields of Ingredients; `student` is the model's configuration.

    Raises GlassboxError for a map that needs layers which the snapshot does not hold.
    """
    last = layers_of(student)
    pairs = layer_pairs(last, layout.n_layers, settings.objective.layer_map)
    missing = sorted({t for _, t in pairs} - {*layout.layers, layout.n_layers})
    if missing:
        raise GlassboxError(
            f"The layer map compares layers {missing} of the teacher, and the snapshot holds {list(layout.layers)} and "
            f"the last. `dvc repro snapshot` captures them; with `snapshot.layers` set, name them there."
        )
    asked = tuple(sorted({s for s, _ in pairs} - {last}))
    return {"layer_pairs": pairs, "student_layers": asked, "teacher_layers": layout.layers}


def relation_facts(layout: Format, student: Any, settings: Settings) -> dict[str, Any]:
    """How relations are cut into heads, as fields of Ingredients. Raises GlassboxError for a count that cannot be."""
    widths = (*layout.relations, *attention_widths(student))
    most = max(layout.heads, student.get_text_config().num_attention_heads)
    return {
        "student_relations_layer": layers_of(student),
        "relation_widths": layout.relations,
        "relation_heads": relation_heads_of(widths, most, settings.objective.relation_heads),
    }


def _require_signals(snapshot: Snapshot, settings: Settings, group: str) -> None:
    target = settings.objective.logits_target
    wanted = {each for name in settings.distill[group].active for each in COMPONENTS[name].signals(target)}
    missing = sorted(wanted - {*snapshot.manifest["signals"]})
    if missing:
        raise GlassboxError(
            f"Group {group} reads {' and '.join(missing)} of the snapshot in {snapshot.folder}, which holds "
            f"{', '.join(snapshot.manifest['signals'])} only. `dvc repro snapshot` captures what the selected groups "
            "read, where the teacher has it."
        )


def experts_of(snapshot: Snapshot, settings: Settings, group: str, seed: int) -> Experts:
    """How a group mixes the teacher's experts, not yet by a gate that learns."""
    speaks = settings.distill[group].experts
    assert speaks is not None  # config/rules.py asks for it
    return Experts(snapshot.mixture(), speaks, settings.objective.experts, derived_seed(seed, "experts"))


def vocabularies_between(
    snapshot: Snapshot | None, settings: Settings, group: str, tokenizer: PreTrainedTokenizerFast, rows: int
) -> Vocabularies | None:
    """The pieces of student and teacher, where a component of the group needs them.

    `tokenizer` is the student's, `rows` those of its output layer that count. Raises GlassboxError where the teacher's
    tokenizer is not the snapshot's.
    """
    if snapshot is None or not any(COMPONENTS[name].pieces for name in settings.distill[group].active):
        return None
    teacher = load_tokenizer(settings.teacher)
    if tokenizer_fingerprint(teacher) != snapshot.manifest["provenance"]["tokenizer"]:
        raise GlassboxError(
            f"The tokenizer of the teacher '{settings.teacher.model}' is another one than the snapshot was captured "
            "with, so its pieces are not those of the stored ids. Run `dvc repro snapshot`."
        )
    return vocabularies_of(piece_texts(tokenizer, rows), piece_texts(teacher, snapshot.vocabulary))


def projectors_of(
    model: PreTrainedModel,
    teacher: Format,
    components: Iterable[str],
    objective: ObjectiveSettings,
    seed: int,
    replica: int = 0,
) -> dict[str, nn.Module]:
    """A projector for each component that trains one, each drawn from a generator of its own."""
    student = model.config.get_text_config()
    found = {}
    for name in components:
        make = DEFINITIONS[name].project
        if make is not None:
            purpose = "projector" if name == "hidden" else f"projector/{name}"
            found[name] = make(student, teacher, objective, generator_for(seed, stream(purpose, replica)))
    return found


def stream(purpose: str, replica: int) -> str:
    """The purpose of a random stream; each replica of a group has its own."""
    return f"{purpose}/replica-{replica}" if replica else purpose
