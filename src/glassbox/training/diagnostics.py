"""How alike student and teacher are, layer by layer: measured before the first step and after the last one."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.models.shapes import layers_of
from glassbox.objective.similarity import linear_cka
from glassbox.processes import whole_weights
from glassbox.tasks.sample import spread
from glassbox.training.setup import Setup

SAMPLES = 128
"""Validation samples whose answer positions are compared, evenly from all tasks."""

_of_initial_students: dict[tuple[object, ...], dict[str, float]] = {}


def initial_similarity(setup: Setup) -> dict[str, float]:
    """`layer_similarity` before the first step, formed once for all trials of a worker that begin with one student."""
    own, train = setup.objective.ingredients, setup.settings.train
    key = (
        *(setup.initial_student, setup.digests["snapshot"], setup.shares_tokens, setup.accelerator.mixed_precision),
        *(tuple(own.teacher_layers), tuple(own.layer_pairs), train.micro_batch_size, train.threads),
    )
    if key not in _of_initial_students:
        _of_initial_students[key] = layer_similarity(setup)
    return _of_initial_students[key]


@torch.no_grad()
def layer_similarity(setup: Setup) -> dict[str, float]:
    """`cka/layer_<s>_to_<t>` for every layer of the student: linear CKA with the teacher's states at answer positions.

    t is "last", whose states every snapshot holds, and for a group that reads `layers` also the one that the layer
    map pairs with s. Nothing where the teacher's tokens are not the student's.
    """
    snapshot, own = setup.snapshot, setup.objective.ingredients
    if snapshot is None or not setup.shares_tokens:
        return {}
    layers = layers_of(setup.student.model.config)
    signals = frozenset({"hidden", "layers"} if own.teacher_layers else {"hidden"})
    chosen = [info.sample_id for info in spread(snapshot.samples("validation"), SAMPLES)]
    size, mine, theirs = setup.settings.train.micro_batch_size, [], []
    setup.student.eval()
    with whole_weights(setup.trainee), setup.accelerator.autocast():
        for at in range(0, len(chosen), size):
            batch = snapshot.read(chosen[at : at + size], signals, setup.accelerator.device)
            found = setup.student(batch, layers=tuple(range(1, layers)))
            states = [] if found.layers is None else list(found.layers.unbind(1))
            mine.append([*states, found.hidden])
            stored = {str(t): batch.further["layers"][:, place] for place, t in enumerate(own.teacher_layers)}
            theirs.append(stored | {"last": batch.hidden})
    setup.student.train()
    pairs = [(s, "last") for s in range(1, layers + 1)]
    pairs += [(s, str(t)) for s, t in own.layer_pairs if t in own.teacher_layers]
    if sum(len(each[0]) for each in mine) < 2:
        return {}
    return {
        f"cka/layer_{s}_to_{t}": _cka([each[s - 1] for each in mine], [each[t] for each in theirs]) for s, t in pairs
    }


def _cka(mine: list[Tensor], theirs: list[Tensor]) -> float:
    return linear_cka(torch.cat(mine), torch.cat(theirs))
