"""Row 7: our training step beside TextBrewer's, for every group, from the same snapshot of the embedded tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from glassbox.config import Settings
from glassbox.objective import Objective, position_weights
from glassbox.schedule import make_plan
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.student import build_optimizer, build_student
from glassbox.trainee import Trainee
from suite.adapters import textbrewer
from suite.embedded import embedded
from suite.measuring import ratio, side_by_side
from suite.row import Row

BATCH, STEPS, GOAL = 8, 8, 0.5
WAYS = {textbrewer.MASKED: "TextBrewer's", textbrewer.PACKED: "TextBrewer's with adaptors that pack answer rows"}


def measure() -> list[Row]:
    if find_spec("textbrewer") is None:
        note = "TextBrewer is not installed here: `make bench` uses the peers' environment"
        return [Row("7", "our step / TextBrewer's", "", None, GOAL, note=note)]
    with embedded(train=32) as made:
        return [row for group in made.settings.distill for row in _rows(made.settings, made.snapshot, group)]


def _rows(settings: Settings, snapshot: Snapshot, group: str) -> list[Row]:
    """One row for each way to call TextBrewer; every round is `STEPS` optimizer steps of `BATCH` samples."""
    objective, ours = _our_step(settings, snapshot, group)
    batches = [snapshot.read(ids, objective.signals) for ids in _plan(settings, snapshot)]
    contestants: dict[str, Callable[[], object]] = {"ours": lambda: [ours(batch) for batch in batches]}
    for way in WAYS:
        theirs = textbrewer.step_function(settings, snapshot, group, way)
        dense = [textbrewer.as_batch(batch, snapshot, group, settings, way) for batch in batches]
        contestants[way] = lambda theirs=theirs, dense=dense: [theirs(batch) for batch in dense]
    times = side_by_side(contestants)
    lengths = [batch.input_ids.shape[1] for batch in batches]
    shapes = f"embedded, {BATCH} samples padded to {min(lengths)}-{max(lengths)}, {torch.get_num_threads()} threads"
    eager = "its student runs eager attention, or it has no maps" if objective.needs_attention else ""
    return [
        Row.of("7", f"{group}: our step / {name}", shapes, ratio(times["ours"], times[way]), GOAL, note=eager)
        for way, name in WAYS.items()
    ]


def _plan(settings: Settings, snapshot: Snapshot) -> Sequence[Sequence[str]]:
    """A trial's first steps, each as one batch."""
    lengths = {sample.sample_id: sample.n_tokens for sample in snapshot.samples("train")}
    train = settings.train.model_copy(update={"batch_size": BATCH, "micro_batch_size": BATCH, "max_steps": STEPS})
    return [step[0] for step in make_plan(lengths, train, seed=0).steps]


def _our_step(settings: Settings, snapshot: Snapshot, group: str) -> tuple[Objective, Callable[[Batch], Tensor]]:
    """A trial's step on one batch: forward, losses, backward, clipping and AdamW's update."""
    weights = settings.distill[group]
    channels = snapshot.channels() if "hidden" in weights.active else None
    student = build_student(settings.student, 0, snapshot.vocabulary, len(channels[0]) if channels else None)
    objective = Objective(
        weights,
        settings.objective,
        head=snapshot.head() if "logits" in weights.active else None,
        channels=channels,
        temperatures=snapshot.temperatures,
        projector=student.projector,
    )
    trainee, optimizer = Trainee(student).train(), build_optimizer(student, settings.train)

    def step(batch: Batch) -> Tensor:
        counted: dict[str, Any] = {"samples_in_step": len(batch.count), "positions_in_step": len(batch.labels)}
        each = position_weights(batch.sample_index, batch.count, reduction=settings.objective.reduction, **counted)
        loss = trainee(batch, each, objective)[0]
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), settings.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return objective, step
