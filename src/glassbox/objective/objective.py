"""The only place where weights meet components: `L = alpha task + beta logits + gamma_1 hidden + gamma_2 attention`.

Weights are not divided by their sum; a component of weight 0 is not computed. Every component is one value per answer
position, and `position_weights` says once how positions are averaged over a whole optimizer step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.config import COMPONENTS, ObjectiveSettings, Weights
from glassbox.errors import GlassboxError
from glassbox.objective import attention, hidden, logits
from glassbox.objective.shares import parts_by_task
from glassbox.objective.task import cross_entropy

if TYPE_CHECKING:
    from glassbox.models import PositionSignals
    from glassbox.snapshot.reader import Batch

Value = TypeVar("Value")


def position_weights(
    sample_index: Int[Tensor, " positions"],
    counts: Int[Tensor, " samples"],
    *,
    samples_in_step: int,
    positions_in_step: int,
    reduction: str,
) -> Float[Tensor, " positions"]:
    """What each position of a micro-batch counts in its optimizer step; over the step the weights sum to 1.

    `counts` are the answer positions of the micro-batch's samples. `samples_in_step` (those with at least one position)
    and `positions_in_step` are totals over all micro-batches and processes of the step. `sample`: a sample's mean over
    its positions, then the mean over samples; `position`: the plain mean over positions. A micro-batch without a
    position gets no weights and so contributes zero; a step without one is a GlassboxError, to be met before the
    update.
    """
    if samples_in_step <= 0 or positions_in_step <= 0:
        raise GlassboxError(
            f"This optimizer step holds no answer position ({samples_in_step} samples, {positions_in_step} positions), "
            "so it has no loss to average and the update was not made. Every training sample must keep its answer: "
            "run `python src/verify.py`, and compare snapshot.max_length with the samples' lengths."
        )
    if reduction == "position":
        return torch.full(sample_index.shape, 1.0 / positions_in_step, device=sample_index.device)
    return 1.0 / (counts.index_select(0, sample_index.long()).to(torch.float32) * samples_in_step)


class Objective:
    """One group's objective over the signals of one snapshot.

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
        self.weights: dict[str, float] = {name: w for name in COMPONENTS if (w := getattr(weights, name)) > 0}
        self.settings = settings
        self.head = head
        self.channels = channels
        self.temperatures = tuple(temperatures)
        self.projector = projector
        self._refuse_missing_ingredients()

    @property
    def signals(self) -> frozenset[str]:
        """What the snapshot's reader must deliver: of "hidden", "attention", "topk"."""
        needed = {name for name in ("hidden", "attention") if name in self.weights}
        if "logits" in self.weights:
            needed.add("topk" if self.settings.logits_target == "topk" else "hidden")
        return frozenset(needed)

    @property
    def needs_attention(self) -> bool:
        return "attention" in self.weights

    def to(self, device: torch.device | str) -> Objective:
        """Moves the head and the channels; the projector belongs to the student and moves with it."""
        if self.head is not None:
            weight, bias = self.head
            self.head = weight.to(device), None if bias is None else bias.to(device)
        if self.channels is not None:
            mean, deviation = self.channels
            self.channels = mean.to(device), deviation.to(device)
        return self

    def components(
        self, student: PositionSignals, student_logits: Float[Tensor, "positions vocabulary"], batch: Batch
    ) -> dict[str, Float[Tensor, " positions"]]:
        """The active components, unweighted, per answer position of the micro-batch."""
        result = {}
        if "task" in self.weights:
            result["task"] = cross_entropy(student_logits, batch.labels)
        if "logits" in self.weights:
            settings = self.settings
            result["logits"] = self._divergence(
                student_logits, batch, settings.temperature, squared=settings.temperature_squared
            )
        if "hidden" in self.weights:
            result["hidden"] = self._hidden(student, batch)
        if "attention" in self.weights:
            result["attention"] = self._attention(student, batch)
        return result

    def total(
        self, components: Mapping[str, Float[Tensor, " positions"]], position_weights: Float[Tensor, " positions"]
    ) -> Float[Tensor, ""]:
        """This micro-batch's part of the step's loss: summed over micro-batches and processes, it is the loss."""
        weighted = [self.weights[name] * values for name, values in components.items()]
        return (torch.stack(weighted).sum(dim=0) * position_weights).sum()

    @torch.no_grad()
    def values(
        self,
        components: Mapping[str, Float[Tensor, " positions"]],
        position_weights: Float[Tensor, " positions"],
        batch: Batch | None = None,
        task_names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What is logged, as detached scalars that add up over the micro-batches and processes of a step.

        `loss_<component>`, `weighted_<component>`, `loss_total`, `positions`. With the batch also `samples` and
        `part_<component>/<task>`, what the task's positions add to the component (`shares` turns sums of parts into
        shares); `task_names` fixes the keys where processes must agree on them, else they are the batch's own.
        """
        parts = torch.stack([values.detach() for values in components.values()]) * position_weights
        sums = parts.sum(dim=1)
        result = {"loss_total": sums.new_zeros(()), "positions": sums.new_tensor(parts.shape[1])}
        for name, value in zip(components, sums, strict=True):
            result[f"loss_{name}"] = value
            result[f"weighted_{name}"] = self.weights[name] * value
            result["loss_total"] = result["loss_total"] + result[f"weighted_{name}"]
        if batch is not None:
            result["samples"] = (batch.count > 0).sum().to(sums.dtype)
            result |= parts_by_task(tuple(components), parts, batch, task_names)
        return result

    @torch.no_grad()
    def kl_at_one(
        self, student_logits: Float[Tensor, "positions vocabulary"], batch: Batch
    ) -> Float[Tensor, " positions"] | None:
        """KL at T = 1 for the log; None for a group without `logits` or a top-k snapshot without T = 1."""
        if "logits" not in self.weights or (self.settings.logits_target == "topk" and self._captured(1.0) is None):
            return None
        return self._divergence(student_logits.detach(), batch, 1.0, squared=False)

    def _divergence(self, student_logits: Tensor, batch: Batch, temperature: float, *, squared: bool) -> Tensor:
        if self.settings.logits_target == "topk":
            column = self._captured(temperature)
            assert column is not None
            log_tail = _present(batch.log_tail, "topk")[:, column]
            ids, values = _present(batch.topk_ids, "topk"), _present(batch.topk_logits, "topk")
            return logits.topk_kl(student_logits, ids, values, log_tail, temperature, squared=squared)
        weight, bias = _present(self.head, "head")
        teacher_hidden = _present(batch.hidden, "hidden")
        return logits.dense_kl(student_logits, teacher_hidden, weight, bias, temperature, squared=squared)

    def _hidden(self, student: PositionSignals, batch: Batch) -> Tensor:
        target = hidden.standardise(_present(batch.hidden, "hidden"), *_present(self.channels, "channels"))
        predicted = _present(self.projector, "projector")(student.hidden)
        return (hidden.cosine if self.settings.hidden_loss == "cosine" else hidden.mse)(predicted, target)

    def _attention(self, student: PositionSignals, batch: Batch) -> Tensor:
        if student.attention is None:
            raise GlassboxError(
                "The student's final layer gave no attention map although the attention component is active. Load "
                "the model with attn_implementation='glassbox' and ask position_signals for maps (want_attention=True)."
            )
        teacher = _present(batch.attention, "attention")
        mine, theirs, _ = attention.match_heads(student.attention, teacher, self.settings.heads == "strict")
        return (attention.map_kl if self.settings.attention_loss == "kl" else attention.map_mse)(mine, theirs)

    def _captured(self, temperature: float) -> int | None:
        """The column of `log_tail` at this temperature."""
        matches = (i for i, known in enumerate(self.temperatures) if math.isclose(known, temperature, rel_tol=1e-6))
        return next(matches, None)

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
        if self.settings.logits_target == "dense" and self.head is None:
            raise GlassboxError(
                "objective.logits_target is 'dense', which needs hidden states and head.safetensors, and this snapshot "
                "has none. Run with `-S objective.logits_target=topk`, or capture hidden states too."
            )
        if self.settings.logits_target == "topk" and self._captured(temperature) is None:
            captured = ", ".join(f"{value:g}" for value in self.temperatures) or "none"
            raise GlassboxError(
                f"objective.logits_target is 'topk' at temperature {temperature:g}, but the snapshot holds the mass "
                f"outside its top k only at temperatures {captured}. Use `-S objective.logits_target=dense`, which is "
                "exact at any temperature, or one of those captured."
            )


def _present(value: Value | None, name: str) -> Value:
    if value is None:
        raise GlassboxError(
            f"The objective needs '{name}' and this batch carries none. Read the snapshot with the objective's own "
            "`signals`; if the snapshot lacks them, capture it again with `dvc repro snapshot`."
        )
    return value
