"""The only place where weights meet components: `L = alpha task + beta logits + gamma_1 hidden + gamma_2 attention`.

Weights are not divided by their sum. A component that never has a weight is not computed; one whose curve is at 0 for
the moment is computed, and logged, and adds exactly 0. Every component is one value per packed position of the batch, 0
where it does not count, and reduction.py says how positions are averaged over a whole optimizer step.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassbox.config.curves import highest, is_constant, points_of, value_at
from glassbox.config.settings import COMPONENTS, Group, ObjectiveSettings, Weights
from glassbox.errors import GlassboxError
from glassbox.objective import attention, hidden
from glassbox.objective.head import AT_ONE, Head, HeadTerms, head_losses
from glassbox.objective.logits import DenseTarget, TopkTarget, captured_column
from glassbox.objective.shares import parts_by_task

if TYPE_CHECKING:
    from glassbox.models.signals import PositionSignals
    from glassbox.snapshot.reader import Batch

Value = TypeVar("Value")


class Objective:
    """One group's objective over the signals of one snapshot, at a moment of training: `at` gives another one.

    `weights` and `temperature` are those of the moment (of progress 0 here), `factors` what balancing multiplied
    the weights by.
    `head` is the teacher's (weight, bias or None), `channels` its hidden channels' (mean, deviation), `temperatures`
    those at which the snapshot holds log-tails. Raises GlassboxError here, before anything trains, for a component
    whose ingredients are missing.
    """

    def __init__(
        self,
        weights: Weights,
        settings: ObjectiveSettings,
        *,
        head: tuple[Tensor, Tensor | None] | None = None,
        channels: tuple[Tensor, Tensor] | None = None,
        temperatures: Sequence[float] = (),
        projector: hidden.Projector | None = None,
    ) -> None:
        self.curves = {name: points_of(weight) for name, weight in weights.active.items()}
        own = weights if isinstance(weights, Group) else Group()
        self.shuffled = frozenset(own.shuffled)
        self.positions: dict[str, str] = {**settings.positions.model_dump(), **own.positions}
        self.settings = settings
        self.weights = {name: value_at(curve, 0.0) for name, curve in self.curves.items()}
        self.temperature = value_at(points_of(settings.temperature), 0.0)
        self.factors: dict[str, float] = {}
        self.progress = 0.0
        self.head = head
        self.channels = channels
        self.temperatures = tuple(temperatures)
        self.projector = projector
        self._refuse_missing_ingredients()

    @property
    def signals(self) -> frozenset[str]:
        """What the snapshot's reader must deliver of the samples themselves: of "hidden", "attention", "topk"."""
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
        source = {"logits": "topk" if self.settings.logits_target == "topk" else "hidden"}
        return frozenset(source.get(name, name) for name in components - {"task"})

    @property
    def needs_attention(self) -> bool:
        return "attention" in self.weights

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
        """Moves the head and the channels; the projector belongs to the student and moves with it."""
        if self.head is not None:
            weight, bias = self.head
            self.head = weight.to(device), None if bias is None else bias.to(device)
        if self.channels is not None:
            mean, deviation = self.channels
            self.channels = mean.to(device), deviation.to(device)
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
        the student's output layer. `at_one` adds the KL at T = 1 for the log, where the group has logits and the
        snapshot can give it. Shuffled components read the signals of `batch.partner`.
        """
        parts, components = [], {}
        of_logits = [name for name in ("task", "logits") if name in self.weights]
        for reach in sorted({self.positions[name] for name in of_logits}):
            rows = batch.rows(reach)
            counted = {
                name: at(self.weights[name] * position_weights[name], rows)
                for name in of_logits
                if self.positions[name] == reach
            }
            terms = self._head_terms(batch, rows, counted, at_one)
            part, found = head_losses(at(student.hidden, rows), head, terms, counted)
            parts.append(part)
            components |= {name: spread(values, rows) for name, values in found.items()}
        for name, compute in (("hidden", self._hidden), ("attention", self._attention)):
            if name in self.weights:
                rows = batch.rows(self.positions[name])
                values = compute(student, batch, rows)
                parts.append(self.weights[name] * (values * at(position_weights[name], rows)).sum())
                components[name] = spread(values.detach(), rows)
        return torch.stack(parts).sum(), components

    @torch.no_grad()
    def values(
        self,
        components: Mapping[str, Float[Tensor, " positions"]],
        position_weights: Mapping[str, Float[Tensor, " positions"]],
        batch: Batch | None = None,
        task_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What is logged, as detached scalars that add up over the micro-batches and processes of a step.

        `loss_<component>`, `weighted_<component>`, `loss_total`, `positions`, and the KL at T = 1 where it is among the
        components. With the batch also `samples` and
        `part_<component>/<task>`, what the task's positions add to the component (`shares` turns sums of parts into
        shares); `task_names` fixes the keys where processes must agree on them, else they are the batch's own.
        """
        parts = torch.stack([components[name] * position_weights[name] for name in self.weights])
        sums = parts.sum(dim=1)
        result = {"loss_total": sums.new_zeros(()), "positions": sums.new_tensor(parts.shape[1])}
        if AT_ONE in components:
            result[AT_ONE] = (components[AT_ONE] * position_weights["logits"]).sum()
        for name, value in zip(self.weights, sums, strict=True):
            result[f"loss_{name}"] = value
            result[f"weighted_{name}"] = self.weights[name] * value
            result["loss_total"] = result["loss_total"] + result[f"weighted_{name}"]
        if batch is not None:
            result["samples"] = (batch.count > 0).sum().to(sums.dtype)
            result |= parts_by_task(tuple(self.weights), parts, batch, task_names)
        return result

    def _source(self, component: str, batch: Batch) -> Batch:
        """Where a component reads its signal: the batch, or its partner where the component is shuffled."""
        return _present(batch.partner, "partner") if component in self.shuffled else batch

    def _head_terms(self, batch: Batch, rows: Tensor | None, components: Collection[str], at_one: bool) -> HeadTerms:
        """What these components want of the student's logits at these rows."""
        labels = at(batch.labels, rows)
        if "logits" not in components:
            return HeadTerms(labels)
        target = self._target(self._source("logits", batch), rows)
        logs_at_one = at_one and (isinstance(target, DenseTarget) or self._captured(1.0) is not None)
        return HeadTerms(labels, target, self.temperature, self.settings.temperature_squared, logs_at_one)

    def _target(self, batch: Batch, rows: Tensor | None) -> DenseTarget | TopkTarget:
        if self.settings.logits_target == "topk":
            stored = (_present(getattr(batch, name), "topk") for name in ("topk_ids", "topk_logits", "log_tail"))
            ids, values, tails = (at(each, rows) for each in stored)
            return TopkTarget(ids, values, tails, self.temperatures)
        weight, bias = _present(self.head, "head")
        return DenseTarget(at(_present(batch.hidden, "hidden"), rows), weight, bias)

    def _hidden(self, student: PositionSignals, batch: Batch, rows: Tensor | None) -> Tensor:
        stored = at(_present(self._source("hidden", batch).hidden, "hidden"), rows)
        target = hidden.standardise(stored, *_present(self.channels, "channels"))
        predicted = _present(self.projector, "projector")(at(student.hidden, rows))
        return (hidden.cosine if self.settings.hidden_loss == "cosine" else hidden.mse)(predicted, target)

    def _attention(self, student: PositionSignals, batch: Batch, rows: Tensor | None) -> Tensor:
        if student.attention is None:
            raise GlassboxError(
                "The student's final layer gave no attention map although the attention component is active. Load "
                "the model with attn_implementation='glassbox' and ask position_signals for maps (want_attention=True)."
            )
        teacher = at(_present(self._source("attention", batch).attention, "attention"), rows)
        mine, theirs, _ = attention.match_heads(at(student.attention, rows), teacher, self.settings.heads == "strict")
        return (attention.map_kl if self.settings.attention_loss == "kl" else attention.map_mse)(mine, theirs)

    def _captured(self, temperature: float) -> int | None:
        return captured_column(self.temperatures, temperature)

    def _refuse_missing_ingredients(self) -> None:
        if not self.weights:
            raise GlassboxError(
                "Every weight of this group is 0, so there is nothing to train. Set at least one of "
                f"{', '.join(COMPONENTS)} in its file under conf/distill."
            )
        if "logits" in self.weights:
            self._refuse_impossible_logits_target()
        if "hidden" in self.weights:
            if self.channels is None or self.projector is None:
                raise GlassboxError(
                    "The hidden component needs the snapshot's channel statistics and a projector, and got "
                    f"{'no statistics' if self.channels is None else 'no projector'}. Capture a snapshot with hidden "
                    "states (`dvc repro snapshot`), or set the group's hidden weight to 0."
                )
            if not float(self.channels[1].float().quantile(0.5)) > 0:
                raise GlassboxError(
                    "Half or more of the teacher's hidden channels in channels.safetensors never vary, so they cannot "
                    "be standardised. Check the snapshot with `python src/verify.py`, or capture it again."
                )

    def _refuse_impossible_logits_target(self) -> None:
        temperature = self.settings.temperature
        constant = highest(temperature) if is_constant(temperature) else None
        asked = f"'{temperature}'" if constant is None else f"{constant:g}"
        if self.settings.logits_target == "dense" and self.head is None:
            raise GlassboxError(
                "objective.logits_target is 'dense', which needs hidden states and head.safetensors, and this snapshot "
                "has none. Run with `-S objective.logits_target=topk`, or capture hidden states too."
            )
        if self.settings.logits_target == "topk" and (constant is None or self._captured(constant) is None):
            captured = ", ".join(f"{value:g}" for value in self.temperatures) or "none"
            raise GlassboxError(
                f"objective.logits_target is 'topk' at temperature {asked}, but the snapshot holds the mass outside "
                f"its top k only at temperatures {captured}. Use `-S objective.logits_target=dense`, which is "
                "exact at any temperature, or one of those captured."
            )


def at(values: Tensor, rows: Bool[Tensor, " positions"] | None) -> Tensor:
    """The values at the packed positions that `rows` marks (None: at all); those of just these stay as they are."""
    return values if rows is None or len(values) != len(rows) else values[rows]


def spread(values: Float[Tensor, " rows"], rows: Bool[Tensor, " positions"] | None) -> Float[Tensor, " positions"]:
    """Values of the marked positions in their places among all packed positions, 0 elsewhere."""
    if rows is None:
        return values
    return values.new_zeros(len(rows)).masked_scatter_(rows, values)


def _present(value: Value | None, name: str) -> Value:
    if value is None:
        raise GlassboxError(
            f"The objective needs '{name}' and this batch carries none. Read the snapshot with the objective's own "
            "`signals`; if the snapshot lacks them, capture it again with `dvc repro snapshot`."
        )
    return value
