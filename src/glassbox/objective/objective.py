"""The only place where weights meet components: `L = alpha task + beta logits + gamma_1 hidden + gamma_2 attention`.

Weights are not divided by their sum. A component that never has a weight is not computed; one whose curve is at 0 for
the moment is computed, and logged, and adds exactly 0. Every component is one value per answer position, and
`position_weights` in reduction.py says how positions are averaged over a whole optimizer step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float
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
        self.shuffled = frozenset(weights.shuffled) if isinstance(weights, Group) else frozenset()
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
        position_weights: Float[Tensor, " positions"],
        *,
        at_one: bool = False,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " positions"]]]:
        """This micro-batch's part of the step's loss, and its active components, unweighted, per answer position.

        Summed over micro-batches and processes the parts are the loss; the components carry no gradient. `head` is the
        student's output layer. `at_one` adds the KL at T = 1 for the log, where the group has logits and the snapshot
        can give it. Shuffled components read the signals of `batch.partner`.
        """
        parts, components = [], {}
        of_logits = {name: self.weights[name] * position_weights for name in ("task", "logits") if name in self.weights}
        if of_logits:
            terms = self._head_terms(batch, at_one)
            part, components = head_losses(student.hidden, head, terms, of_logits)
            parts.append(part)
        for name, compute in (("hidden", self._hidden), ("attention", self._attention)):
            if name in self.weights:
                values = compute(student, batch)
                parts.append(self.weights[name] * (values * position_weights).sum())
                components[name] = values.detach()
        return torch.stack(parts).sum(), components

    @torch.no_grad()
    def values(
        self,
        components: Mapping[str, Float[Tensor, " positions"]],
        position_weights: Float[Tensor, " positions"],
        batch: Batch | None = None,
        task_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What is logged, as detached scalars that add up over the micro-batches and processes of a step.

        `loss_<component>`, `weighted_<component>`, `loss_total`, `positions`, and the KL at T = 1 where it is among the
        components. With the batch also `samples` and
        `part_<component>/<task>`, what the task's positions add to the component (`shares` turns sums of parts into
        shares); `task_names` fixes the keys where processes must agree on them, else they are the batch's own.
        """
        parts = torch.stack([components[name] for name in self.weights]) * position_weights
        sums = parts.sum(dim=1)
        result = {"loss_total": sums.new_zeros(()), "positions": sums.new_tensor(parts.shape[1])}
        if AT_ONE in components:
            result[AT_ONE] = (components[AT_ONE] * position_weights).sum()
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

    def _head_terms(self, batch: Batch, at_one: bool) -> HeadTerms:
        """What is wanted of the student's logits."""
        if "logits" not in self.weights:
            return HeadTerms(batch.labels)
        target = self._target(self._source("logits", batch))
        logs_at_one = at_one and (isinstance(target, DenseTarget) or self._captured(1.0) is not None)
        return HeadTerms(batch.labels, target, self.temperature, self.settings.temperature_squared, logs_at_one)

    def _target(self, batch: Batch) -> DenseTarget | TopkTarget:
        if self.settings.logits_target == "topk":
            ids, values, tails = (getattr(batch, name) for name in ("topk_ids", "topk_logits", "log_tail"))
            tails = _present(tails, "topk")
            return TopkTarget(_present(ids, "topk"), _present(values, "topk"), tails, self.temperatures)
        weight, bias = _present(self.head, "head")
        return DenseTarget(_present(batch.hidden, "hidden"), weight, bias)

    def _hidden(self, student: PositionSignals, batch: Batch) -> Tensor:
        batch = self._source("hidden", batch)
        target = hidden.standardise(_present(batch.hidden, "hidden"), *_present(self.channels, "channels"))
        predicted = _present(self.projector, "projector")(student.hidden)
        return (hidden.cosine if self.settings.hidden_loss == "cosine" else hidden.mse)(predicted, target)

    def _attention(self, student: PositionSignals, batch: Batch) -> Tensor:
        if student.attention is None:
            raise GlassboxError(
                "The student's final layer gave no attention map although the attention component is active. Load "
                "the model with attn_implementation='glassbox' and ask position_signals for maps (want_attention=True)."
            )
        teacher = _present(self._source("attention", batch).attention, "attention")
        mine, theirs, _ = attention.match_heads(student.attention, teacher, self.settings.heads == "strict")
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


def _present(value: Value | None, name: str) -> Value:
    if value is None:
        raise GlassboxError(
            f"The objective needs '{name}' and this batch carries none. Read the snapshot with the objective's own "
            "`signals`; if the snapshot lacks them, capture it again with `dvc repro snapshot`."
        )
    return value
