"""Row 7: our training step beside TextBrewer's, for every group, from the same snapshot of the embedded tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import nn

from glassbox.config.settings import Settings
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.training.schedule import make_schedule
from glassbox.training.student import Student, build_optimizer
from suite.adapters import steps
from suite.embedded import embedded
from suite.measuring import ratio, side_by_side
from suite.row import Row
from suite.training import TrainingStep, prepared

BATCH, STEPS, GOAL = 8, 8, 0.5
WAYS = {steps.MASKED: "TextBrewer's", steps.PACKED: "TextBrewer's with adaptors that pack answer rows"}


def measure() -> list[Row]:
    if find_spec("textbrewer") is None:
        note = "TextBrewer is not installed here: `make bench` uses the peers' environment"
        return [Row("7", "our step / TextBrewer's", "", None, GOAL, note=note)]
    with embedded(train=32) as made:
        return [row for group in made.settings.distill for row in _rows(made.settings, made.snapshot, group)]


def _rows(settings: Settings, snapshot: Snapshot, group: str) -> list[Row]:
    """One row for each way to call TextBrewer; every round is `STEPS` optimizer steps of `BATCH` samples.

    The limit is what the ratio would be if everything but the student's layers and AdamW cost us nothing.
    """
    student, objective = prepared(settings, snapshot, group)
    batches = [snapshot.read(ids, objective.signals) for ids in _plan(settings, snapshot)]
    ours, layers = TrainingStep(student, objective, settings), _layers(student, settings)
    contestants = {
        "ours": partial(_each, ours, [[batch] for batch in batches]),
        "layers": partial(_each, layers, batches),
    }
    for way in WAYS:
        theirs = steps.step_function(settings, snapshot, group, way)
        dense = [steps.as_batch(batch, snapshot, group, settings, way) for batch in batches]
        contestants[way] = partial(_each, theirs, dense)
    times = side_by_side(contestants)
    lengths = [batch.input_ids.shape[1] for batch in batches]
    shapes = f"embedded, {BATCH} samples padded to {min(lengths)}-{max(lengths)}, V {snapshot.vocabulary}"
    if objective.needs_attention:
        shapes += "; TextBrewer's student runs eager attention, which alone returns maps"
    rows = []
    for way, name in WAYS.items():
        found, least = ratio(times["ours"], times[way]), ratio(times["layers"], times[way])
        limit = f"{least.value:.2f} (layers and AdamW alone)"
        note = (
            "" if found.value <= GOAL else "the limit is what the student's own layers, which both run, leave possible"
        )
        rows.append(Row.of("7", f"{group}: our step / {name}", shapes, found, GOAL, limit=limit, note=note))
    return rows


def _each(step: Callable[[Any], object], batches: Sequence[Any]) -> None:
    for batch in batches:
        step(batch)


def _plan(settings: Settings, snapshot: Snapshot) -> Sequence[Sequence[str]]:
    """A trial's first steps, each as one batch."""
    lengths = {sample.sample_id: sample.n_tokens for sample in snapshot.samples("train")}
    train = settings.train.model_copy(update={"batch_size": BATCH, "micro_batch_size": BATCH, "max_steps": STEPS})
    return [step[0] for step in make_schedule(lengths, train, seed=0).steps]


def _layers(student: Student, settings: Settings) -> Callable[[Batch], None]:
    """A step that runs the layers alone: a mean of their last states sends a gradient back through all of them."""
    base: Any = student.model.base_model
    optimizer = build_optimizer(student, settings.train)

    def step(batch: Batch) -> None:
        base(input_ids=batch.input_ids, use_cache=False).last_hidden_state.mean().backward()
        nn.utils.clip_grad_norm_(student.parameters(), settings.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step
