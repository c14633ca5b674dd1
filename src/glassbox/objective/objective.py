"""The only place where weights meet components: `L = sum over components of weight x component`.

Weights are not divided by their sum. A component that never has a weight is not computed; one whose curve is at 0 for
the moment is computed, and logged, and adds exactly 0. Every component is one value per packed position of the batch, 0
where it does not count, and reduction.py says how positions are averaged over a whole optimizer step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.config.components import COMPONENTS, needs
from glassbox.config.curves import points_of, value_at
from glassbox.config.settings import Group, ObjectiveSettings, Weights
from glassbox.errors import GlassboxError
from glassbox.objective import mixture
from glassbox.objective.contrastive import Negatives
from glassbox.objective.definitions import DEFINITIONS
from glassbox.objective.head import AT_ONE, Head, HeadTerms, head_losses
from glassbox.objective.logits import DenseTarget, captured_column
from glassbox.objective.reading import Ingredients, Reading, at, present, rows_of, spread
from glassbox.objective.shares import parts_by_task

if TYPE_CHECKING:
    from glassbox.models.signals import PositionSignals
    from glassbox.snapshot.reader import Batch


class Objective:
    """One group's objective over the signals of one snapshot, at a moment of training: `at` gives another one.

    `weights` and `temperature` are those of the moment (of progress 0 here), `factors` what balancing multiplied
    the weights by.
    Raises GlassboxError here, before anything trains, for a component whose ingredients are missing.
    """

    def __init__(self, weights: Weights, settings: ObjectiveSettings, ingredients: Ingredients | None = None) -> None:
        self.curves = {name: points_of(weight) for name, weight in weights.active.items()}
        own = weights if isinstance(weights, Group) else Group()
        self.shuffled = frozenset(own.shuffled)
        self.positions: dict[str, str] = {**settings.positions.model_dump(), **own.positions}
        if own.temperature is not None:
            settings = settings.model_copy(update={"temperature": own.temperature})
        self.settings = settings
        self.weights = {name: value_at(curve, 0.0) for name, curve in self.curves.items()}
        self.temperature = value_at(points_of(settings.temperature), 0.0)
        self.factors: dict[str, float] = {}
        self.progress = 0.0
        self.ingredients = ingredients or Ingredients()
        self._refuse_missing_ingredients()

    @property
    def signals(self) -> frozenset[str]:
        """What the snapshot's reader must deliver of the samples themselves, by signal: "hidden", "attention", ..."""
        return self._read_by(set(self.weights) - self.shuffled)

    @property
    def partner_signals(self) -> frozenset[str]:
        """What it must deliver of the samples' partners, for the components that are shuffled."""
        return self._read_by(set(self.weights) & self.shuffled)

    @property
    def whole(self) -> frozenset[str]:
        """Of what it must deliver all positions, where the answer's are not enough: signals, and "tokens"."""
        everywhere = {name for name in self.weights if self.positions[name] == "all"}
        return self._read_by(everywhere) | frozenset({"tokens"} if everywhere else ())

    def _read_by(self, components: set[str]) -> frozenset[str]:
        return frozenset(
            signal for name in components for signal in COMPONENTS[name].signals(self.settings.logits_target)
        )

    @property
    def asks(self) -> frozenset[str]:
        """What it needs of the student's forward pass beside final hidden states."""
        return frozenset(needs(self.weights, "asks"))

    def reach_of(self, asked: str) -> str:
        """How far the components that ask for it need it: at "answer" positions, or at "all"."""
        asking = [name for name in self.weights if asked in COMPONENTS[name].asks]
        return "all" if any(self.positions[name] == "all" for name in asking) else "answer"

    def at(self, progress: float) -> Objective:
        """This objective at a progress between 0 (before the first update) and 1 (after the last)."""
        moment = copy.copy(self)
        moment.progress = progress
        moment.weights = {name: value_at(curve, progress) for name, curve in self.curves.items()}
        moment.temperature = value_at(points_of(self.settings.temperature), progress)
        return moment

    def balanced(self, losses: Mapping[str, float]) -> Objective:
        """With every signal scaled to the size of the task loss before its weight counts.

        `losses` are the components over the whole optimizer step, of which no gradient is taken: the factor is
        |task| / |signal|, and 1 for a signal that is exactly 0.
        """
        moment = copy.copy(self)
        moment.factors = {
            name: abs(losses["task"] / loss) if loss else 1.0 for name, loss in losses.items() if name != "task"
        }
        moment.weights = {name: moment.factors.get(name, 1.0) * weight for name, weight in self.weights.items()}
        return moment

    def beside(self, **ingredients: Negatives | Tensor) -> Objective:
        """With ingredients of the moment: the negatives of a step, or what the layers of a router began with."""
        moment = copy.copy(self)
        moment.ingredients = replace(self.ingredients, **ingredients)
        return moment

    def alone(self, component: str) -> Objective:
        """With weight 1 for one component and 0 for all others, whose gradients are then exactly 0."""
        moment = copy.copy(self)
        moment.weights = {name: float(name == component) for name in self.weights}
        return moment

    @property
    def highest_weights(self) -> dict[str, float]:
        """The weights with every curve at its highest point, under the factors of the moment."""
        highest = {name: max(weight for _, weight in curve) for name, curve in self.curves.items()}
        return {name: self.factors.get(name, 1.0) * weight for name, weight in highest.items()}

    @property
    def logged(self) -> dict[str, float]:
        """What the moment adds to the log: `balance_<component>`, and of curves `weight_<component>`, `temperature`."""
        found = {f"balance_{name}": factor for name, factor in self.factors.items()}
        curves = {name: curve for name, curve in self.curves.items() if len(curve) > 1}
        found |= {f"weight_{name}": value_at(curve, self.progress) for name, curve in curves.items()}
        if isinstance(self.settings.temperature, str) and "logits" in self.curves:
            found["temperature"] = self.temperature
        return found

    def to(self, device: torch.device | str) -> Objective:
        self.ingredients = self.ingredients.to(device)
        return self

    def loss(
        self,
        student: PositionSignals,
        head: Head,
        batch: Batch,
        position_weights: Mapping[str, Float[Tensor, " positions"]],
        *,
        at_one: bool = False,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " positions"]]]:
        """This micro-batch's part of the step's loss, and its active components, unweighted, per packed position.

        Summed over micro-batches and processes the parts are the loss; the components carry no gradient, and are 0 at
        positions where they are not compared. `position_weights` says what a position counts in each of them, `head` is
        the student's output layer. `at_one` adds what is logged beside them: the KL at T = 1, where the group has
        logits and the snapshot can give it, and the figures of components as "component/figure". Shuffled components
        read the signals of `batch.partner`.
        """
        parts, components = [], {}
        of_logits = [name for name in self.weights if COMPONENTS[name].of_logits]
        places = {name: (self.positions[name], COMPONENTS[name].by_chunk) for name in of_logits}
        for place in sorted(set(places.values())):
            rows = batch.rows(*place)
            counted = {
                name: at(self.weights[name] * position_weights[name], rows)
                for name in of_logits
                if places[name] == place
            }
            readings = {name: self._reading(name, student, head, batch, rows) for name in counted}
            part, found = head_losses(at(student.hidden, rows), head, self._head_terms(readings, at_one), counted)
            parts.append(part)
            components |= {name: spread(values, rows) for name, values in found.items()}
        for name in self.weights:
            compute = DEFINITIONS[name].values
            if compute is not None:
                rows = rows_of(batch, name, self.positions[name])
                reading = self._reading(name, student, head, batch, rows)
                values = compute(reading)
                parts.append(self.weights[name] * (values * at(position_weights[name], rows)).sum())
                components[name] = spread(values.detach(), rows)
                components |= self._figures(reading) if at_one else {}
        return torch.stack(parts).sum(), components

    def router_gradient(
        self,
        student: PositionSignals,
        head: Head,
        batch: Batch,
        position_weights: Mapping[str, Float[Tensor, " positions"]],
        loads: Float[Tensor, " experts"],
    ) -> tuple[Float[Tensor, "experts width"], dict[str, Tensor]]:
        """This micro-batch's part of the router's gradient, and of the terms of its loss (objective/mixture.py)."""
        experts, rows = present(self.ingredients.experts, "experts"), batch.rows("answer")
        hidden, weights = at(student.hidden, rows), at(position_weights["mixture"], rows)
        if experts.speaks == "other_router":
            hidden, weights = hidden[mixture.rows_of_others(batch.answer_count)], weights * (len(batch.sample_ids) > 1)
        heads = head, present(self.ingredients.head, "head")
        parts = mixture.parts_of(batch, rows)
        return mixture.router_gradient(experts, parts, hidden, heads, weights, loads, self.temperature)

    @torch.no_grad()
    def values(
        self,
        components: Mapping[str, Float[Tensor, " positions"]],
        position_weights: Mapping[str, Float[Tensor, " positions"]],
        batch: Batch | None = None,
        task_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What is logged, as detached scalars that add up over the micro-batches and processes of a step.

        `loss_<component>`, `weighted_<component>`, `loss_total`, `positions`, and the KL at T = 1 and figures, as
        `<component>_<figure>`, where they are among the components. With the batch also `samples` and
        `part_<component>/<task>`, what the task's positions add to the component (`shares` turns sums of parts into
        shares); `task_names` fixes the keys where processes must agree on them, else they are the batch's own.
        """
        parts = torch.stack([components[name] * position_weights[name] for name in self.weights])
        sums = parts.sum(dim=1)
        result = {"loss_total": sums.new_zeros(()), "positions": sums.new_tensor(parts.shape[1])}
        if AT_ONE in components:
            result[AT_ONE] = (components[AT_ONE] * position_weights["logits"]).sum()
        for name, figure in (each.split("/") for each in components if "/" in each):
            result[f"{name}_{figure}"] = (components[f"{name}/{figure}"] * position_weights[name]).sum()
        for name, value in zip(self.weights, sums, strict=True):
            result[f"loss_{name}"] = value
            result[f"weighted_{name}"] = self.weights[name] * value
            result["loss_total"] = result["loss_total"] + result[f"weighted_{name}"]
        if batch is not None:
            result["samples"] = (batch.count > 0).sum().to(sums.dtype)
            result |= parts_by_task(tuple(self.weights), parts, batch, task_names)
        return result

    @staticmethod
    @torch.no_grad()
    def _figures(reading: Reading) -> dict[str, Float[Tensor, " positions"]]:
        """What is logged of one component, as "component/figure", per packed position."""
        compute = DEFINITIONS[reading.name].figures
        found = {} if compute is None else compute(reading)
        return {f"{reading.name}/{figure}": spread(values, reading.rows) for figure, values in found.items()}

    def _reading(self, name: str, student: PositionSignals, head: Head, batch: Batch, rows: Tensor | None) -> Reading:
        """What a component reads: the batch's own signals, its teacher side's, or a partner's where it is shuffled."""
        own = present(batch.aligned, "aligned").teacher if COMPONENTS[name].by_chunk else batch
        return Reading(
            name=name,
            student=student,
            head=head,
            batch=batch,
            source=present(own.partner, "partner") if name in self.shuffled else own,
            rows=rows,
            reach=self.positions[name],
            settings=self.settings,
            temperature=self.temperature,
            progress=self.progress,
            ingredients=self.ingredients,
        )

    def _head_terms(self, readings: Mapping[str, Reading], at_one: bool) -> HeadTerms:
        """What these components want of the student's logits at the positions that they share."""
        any_of_them = next(iter(readings.values()))
        labels = at(any_of_them.batch.labels, any_of_them.rows)
        makers = {name: DEFINITIONS[name].target for name in readings}
        targets = {name: make(readings[name]) for name, make in makers.items() if make is not None}
        has_one = captured_column(self.ingredients.temperatures, 1.0) is not None
        logs_at_one = at_one and "logits" in targets and (isinstance(targets["logits"], DenseTarget) or has_one)
        return HeadTerms(labels, targets, self.temperature, self.settings.temperature_squared, logs_at_one)

    def _refuse_missing_ingredients(self) -> None:
        if not self.weights:
            raise GlassboxError(
                "Every weight of this group is 0, so there is nothing to train. Set at least one of "
                f"{', '.join(COMPONENTS)} in its file under conf/distill."
            )
        for name in self.weights:
            DEFINITIONS[name].refuse(self.ingredients, self.settings)
