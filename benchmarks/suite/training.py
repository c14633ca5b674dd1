"""A trial's optimizer step without its records, and student and objective as a trial prepares them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from glassbox.config.settings import Settings
from glassbox.objective import Objective, component_weights, totals_of
from glassbox.snapshot.batch import Batch
from glassbox.snapshot.reader import Snapshot
from glassbox.training.ingredients import ingredients_of
from glassbox.training.student import Student, Trainee, build_optimizer, build_student


def prepared(settings: Settings, snapshot: Snapshot, group: str) -> tuple[Student, Objective]:
    """A group's student and objective over a snapshot."""
    weights = settings.distill[group]
    student = build_student(
        settings.student, 0, snapshot.vocabulary, snapshot.format, weights.active, settings.objective
    )
    ingredients = replace(ingredients_of(snapshot, settings, group), projectors=dict(student.projectors.items()))
    return student, Objective(weights, settings.objective, ingredients)


class TrainingStep:
    """An optimizer step as trial.py makes it: forward, losses, backward, clipping, AdamW."""

    def __init__(self, student: Student, objective: Objective, settings: Settings) -> None:
        self.settings, self.objective = settings, objective
        self.trainee = Trainee(student).train()
        self.optimizer = build_optimizer(student, settings.train)

    def __call__(self, batches: Sequence[Batch]) -> None:
        """Called with the step's micro-batches."""
        totals = totals_of(batches, self.objective.positions, self.objective.weights)
        for batch in batches:
            weights = component_weights(
                batch, self.objective.positions, self.objective.weights, totals, self.settings.objective.reduction
            )
            loss = self.trainee(self.signals_of(batch), weights, self.objective)[0]
            if not math.isfinite(loss.item()):
                raise ValueError("The loss is not finite.")
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), self.settings.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def signals_of(self, batch: Batch) -> Batch:
        return batch
