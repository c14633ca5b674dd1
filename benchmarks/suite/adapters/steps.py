"""A training step of TextBrewer's GeneralDistiller from its `teacher_cache`.

It wants padded tensors: logits [batch, length, vocabulary], states [batch, length, width], maps [batch, heads, length,
length]. `MASKED` is what its documentation shows: the model takes labels and mask, and TextBrewer's losses select what
counts; its one mask of the inputs stands for rows and columns of a map alike. `PACKED` helps it: the adaptors hand over
answer positions alone, so that its losses touch what ours do. The output layer runs on every token either way.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from tempfile import gettempdir
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from glassbox.config.settings import Settings
from glassbox.objective.attention import average_heads
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.training.student import Student, build_optimizer

MASKED, PACKED = "masked", "packed"
IGNORED = -100


class Unlabelled(nn.Module):
    """A model that leaves the labels to the adaptor."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **inputs: Any) -> Any:
        return self.model(**inputs)


def step_function(settings: Settings, snapshot: Snapshot, group: str, way: str) -> Callable[[dict[str, Any]], Tensor]:
    """Forward, losses, backward, clipping and AdamW's update on one batch made by `as_batch`; returns the loss."""
    import textbrewer

    weights = settings.distill[group].active
    options = {
        "output_hidden_states": "hidden" in weights,
        "output_attentions": "attention" in weights,
        "use_cache": False,
    }
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.student.model,
        dtype=torch.float32,
        attn_implementation="eager" if options["output_attentions"] else "sdpa",
    )
    width = model.config.hidden_size, snapshot.format.width
    distiller: Any = textbrewer.GeneralDistiller(
        textbrewer.TrainingConfig(device="cpu", output_dir=gettempdir()),
        textbrewer.DistillationConfig(**_distillation(settings, group, width)),
        model_T=nn.Identity(),
        model_S=model if way == MASKED else Unlabelled(model),
        adaptor_T=lambda batch, cached: dict(cached),
        adaptor_S=_masked if way == MASKED else _packed,
    )
    own = build_optimizer(Student(model, {}, snapshot.vocabulary), settings.train)
    optimizer, _, _ = distiller.initialize_training(own, None, None, None)
    model.train()

    def step(batch: dict[str, Any]) -> Tensor:
        loss, _ = distiller.train_on_batch(batch, options)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _distillation(settings: Settings, group: str, width: tuple[int, int]) -> dict[str, Any]:
    """The group's weights and temperature; it applies no T^2, so its weight of the logits does."""
    weights, temperature = settings.distill[group].active, float(settings.objective.temperature)
    values = {name: float(weight) for name, weight in weights.items()}
    last = {"layer_T": 0, "layer_S": 0}
    matches = {
        "hidden": last | {"feature": "hidden", "loss": "hidden_mse", "proj": ["linear", *width]},
        "attention": last | {"feature": "attention", "loss": "attention_mse"},
    }
    return {
        "temperature": temperature,
        "kd_loss_weight": values.get("logits", 0.0) * temperature**2,
        "hard_label_weight": values["task"],
        "intermediate_matches": [match | {"weight": values[name]} for name, match in matches.items() if name in values],
    }


def as_batch(batch: Batch, snapshot: Snapshot, group: str, settings: Settings, way: str) -> dict[str, Any]:
    """The same samples and signals as TextBrewer takes them, all decoded and made dense.

    The teacher's maps are averaged to the student's number of heads. What was not captured is 0, and masked.
    """
    answers = _answers(batch)
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels[:, 1:][answers[:, :-1]] = batch.labels
    student = {"input_ids": batch.input_ids, "labels": labels}
    if way == MASKED:
        student["attention_mask"] = batch.attention_mask.long()
    active = settings.distill[group].active
    cache: dict[str, Any] = {}
    if "logits" in active and batch.hidden is not None:
        weight, bias = snapshot.head()
        cache["logits"] = nn.functional.linear(batch.hidden, weight, bias)
    if "hidden" in active:
        cache["hidden"] = batch.hidden
    if "attention" in active and batch.attention is not None:
        cache["attention"] = average_heads(batch.attention, _heads(settings))
    if way == MASKED:
        cache = {name: _dense(packed, answers) for name, packed in cache.items()}
        if "attention" in cache:
            cache["attention"] = cache["attention"].transpose(1, 2).contiguous()
        cache["logits_mask"] = answers
    lists = {name: [value] if name in ("hidden", "attention") else value for name, value in cache.items()}
    return {"teacher": {}, "student": student, "teacher_cache": lists}


def _heads(settings: Settings) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(settings.student.model).num_attention_heads


def _answers(batch: Batch) -> Bool[Tensor, "batch length"]:
    """The positions that predict a token of the answer."""
    column = torch.arange(batch.input_ids.shape[1])
    return (column >= batch.first[:, None]) & (column < (batch.first + batch.count)[:, None])


def _dense(packed: Tensor, answers: Bool[Tensor, "batch length"]) -> Tensor:
    dense = packed.new_zeros(*answers.shape, *packed.shape[1:])
    dense[answers] = packed
    return dense


def _of_labels(labels: Tensor) -> Bool[Tensor, "batch length"]:
    return nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))


def _masked(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
    answers = _of_labels(batch["labels"])
    found = {"losses": outputs.loss, "logits": outputs.logits, "logits_mask": answers, "inputs_mask": answers}
    if outputs.hidden_states is not None:
        found["hidden"] = [outputs.hidden_states[-1]]
    if outputs.attentions is not None:
        found["attention"] = [outputs.attentions[-1]]
    return found


def _packed(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
    answers = _of_labels(batch["labels"])
    logits = outputs.logits[answers]
    found: dict[str, Any] = {"logits": logits}
    found["losses"] = nn.functional.cross_entropy(logits, batch["labels"][:, 1:][answers[:, :-1]])
    if outputs.hidden_states is not None:
        found["hidden"] = [outputs.hidden_states[-1][answers]]
    if outputs.attentions is not None:
        found["attention"] = [outputs.attentions[-1].transpose(1, 2)[answers]]
    return found
