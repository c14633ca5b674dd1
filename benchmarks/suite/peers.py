"""Row 7: our training step beside TextBrewer's, for every group, from the same snapshot of the embedded tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from glassbox.config import Settings
from glassbox.objective import Objective, position_weights
from glassbox.schedule import make_plan
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.student import Student, build_optimizer, build_student
from glassbox.trainee import Trainee
from suite.adapters import steps
from suite.embedded import embedded
from suite.measuring import ratio, side_by_side
from suite.row import Row

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
    student, objective = _trained(settings, snapshot, group)
    batches = [snapshot.read(ids, objective.signals) for ids in _plan(settings, snapshot)]
    ours = _update(student, settings, partial(_loss, Trainee(student), objective, settings))
    layers = _update(student, settings, partial(_without_a_loss, student))
    contestants = {"ours": partial(_each, ours, batches), "layers": partial(_each, layers, batches)}
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
    return [step[0] for step in make_plan(lengths, train, seed=0).steps]


def _trained(settings: Settings, snapshot: Snapshot, group: str) -> tuple[Student, Objective]:
    """A trial's student and objective, as it prepares them."""
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
    return student.train(), objective


def _update(student: Student, settings: Settings, loss_of: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    """A trial's step on one batch: forward, losses, backward, clipping and AdamW's update; returns the loss."""
    optimizer = build_optimizer(student, settings.train)

    def step(batch: Batch) -> Tensor:
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), settings.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _loss(trainee: Trainee, objective: Objective, settings: Settings, batch: Batch) -> Tensor:
    weights = position_weights(
        batch.sample_index,
        batch.count,
        samples_in_step=len(batch.count),
        positions_in_step=len(batch.labels),
        reduction=settings.objective.reduction,
    )
    return trainee(batch, weights, objective)[0]


def _without_a_loss(student: Student, batch: Batch) -> Tensor:
    """The layers run forward, and a mean of their last states sends a gradient back through all of them."""
    base: Any = student.model.base_model
    return base(input_ids=batch.input_ids, use_cache=False).last_hidden_state.mean()
