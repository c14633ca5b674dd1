"""Rows 2, 2b and 2c: a training step with all three signals beside plain fine-tuning and beside online distillation.

Every contestant has a student of its own and makes whole optimizer steps on the same samples: forward, loss, backward,
clipping, AdamW. Batches are ready in memory, those of the signals decoded; what waiting for them costs is row 3.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from glassbox.models.loading import output_head
from glassbox.models.signals import position_signals
from glassbox.snapshot.batch import Batch, StoredSample
from suite import shapes
from suite.measuring import Times, ratio, side_by_side
from suite.row import Row
from suite.training import TrainingStep

STEPS = 3
IGNORED = -100
TRAINERS = {
    "Trainer": "same micro-batches",
    "Trainer as shipped": "each as it ships: ours sorts 8 by length into twice 4, Trainer pads 8 to the longest",
}

Step = Sequence[Sequence[StoredSample]]


class OurStep(TrainingStep):
    """A group's step at these shapes."""

    def __init__(self, group: str, target: str = "dense") -> None:
        student = shapes.student(group)
        super().__init__(student, shapes.objective(group, target, student), shapes.settings())


class OnlineStep(OurStep):
    """The same step, its signals read off the teacher within the step instead of off a snapshot."""

    def __init__(self, group: str) -> None:
        super().__init__(group)
        self.teacher = shapes.teacher()
        head = output_head(self.teacher).weight.detach(), None  # type: ignore[union-attr]
        self.objective.ingredients = replace(self.objective.ingredients, head=head)

    @torch.no_grad()
    def signals_of(self, batch: Batch) -> Batch:
        found = position_signals(
            self.teacher, batch.input_ids, batch.attention_mask, batch.first, batch.count, want_attention=True
        )
        return replace(batch, hidden=found.hidden, attention=found.attention)


class TrainerStep:
    """Hugging Face Trainer's optimizer step, fine-tuning a model of the student's shapes by its own loss and optimizer.

    Called with the step's batches in its own format; they are accumulated. Its loop's bookkeeping is left out.
    """

    def __init__(self, batch_size: int, accumulation: int) -> None:
        settings = shapes.settings().train
        with TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.clip_norm,
                use_cpu=True,
                report_to=[],
            )
            self.trainer = Trainer(AutoModelForCausalLM.from_config(shapes.STUDENT, dtype=torch.float32), arguments)
        self.trainer.create_optimizer_and_scheduler(num_training_steps=1_000)
        self.trainer.current_gradient_accumulation_steps = accumulation

    def __call__(self, batches: Sequence[dict[str, torch.Tensor]]) -> None:
        trainer: Any = self.trainer
        items = trainer._get_num_items_in_batch(list(batches), torch.device("cpu"))
        for batch in batches:
            if not torch.isfinite(trainer.training_step(trainer.model, dict(batch), items)):
                raise ValueError("The loss is not finite.")
        trainer._clip_grad_norm(trainer.model)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()


def trainer_batch(samples: Sequence[StoredSample]) -> dict[str, torch.Tensor]:
    """Samples as Trainer's usual collators give them: padded on the right to the longest, prompts ignored as labels."""
    rows = [torch.from_numpy(sample.input_ids).long() for sample in samples]
    labels = [row.clone() for row in rows]
    for sample, label in zip(samples, labels, strict=True):
        label[: sample.loss_start + 1] = IGNORED
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def as_ours(step: Step) -> list[dict[str, torch.Tensor]]:
    """The step's micro-batches in Trainer's format."""
    return [trainer_batch(samples) for samples in step]


def as_shipped(step: Step) -> list[dict[str, torch.Tensor]]:
    """All samples of the step in one batch, which is what Trainer's own loader makes of a batch of 8."""
    return [trainer_batch([sample for samples in step for sample in samples])]


def measure() -> list[Row]:
    steps = shapes.steps(STEPS)
    ours = [shapes.assembled(step) for step in steps]
    accumulation = shapes.BATCH // shapes.MICRO_BATCH
    same, shipped = TrainerStep(shapes.MICRO_BATCH, accumulation), TrainerStep(shapes.BATCH, 1)
    contestants = {
        "sft": (OurStep("sft"), ours),
        "topk": (OurStep("combined", "topk"), ours),
        "dense": (OurStep("combined"), ours),
        "Trainer": (same, [as_ours(step) for step in steps]),
        "Trainer as shipped": (shipped, [as_shipped(step) for step in steps]),
        "online": (OnlineStep("combined"), ours),
    }
    for update, batches in contestants.values():
        update(batches[0])
    times = side_by_side({name: _over(*each) for name, each in contestants.items()}, warm_ups=0)
    notes = {
        "Trainer": "the products saved are those of the output layer on prompt rows, a few per cent of a step",
        "Trainer as shipped": f"tokens with padding: ours {padded(steps, as_ours):,}, Trainer's "
        f"{padded(steps, as_shipped):,}",
    }
    notes["online"] = (
        "the goal is a tenth over the limit, and the objective, clipping and AdamW, which the limit leaves out, take "
        "about that"
    )
    return _rows(times, f"{shapes.DESCRIPTION}; {described(steps)}", notes)


def padded(steps: Sequence[Step], form: Callable[[Step], list[dict[str, torch.Tensor]]]) -> int:
    """Tokens that the steps' batches hold in this form, padding among them."""
    return sum(batch["input_ids"].numel() for step in steps for batch in form(step))


def _over(update: Callable[[Any], None], steps: Sequence[Any]) -> Callable[[], None]:
    def work() -> None:
        for batches in steps:
            update(batches)

    return work


def described(steps: Sequence[Step]) -> str:
    samples = [sample for step in steps for batch in step for sample in batch]
    tokens, answers = sum(sample.n_tokens for sample in samples), sum(sample.n_answer for sample in samples)
    return (
        f"{len(steps)} steps of {shapes.BATCH} samples in micro-batches of {shapes.MICRO_BATCH}: {tokens:,} tokens, "
        f"{answers:,} answer rows"
    )


def _rows(times: dict[str, Times], shown: str, notes: dict[str, str]) -> list[Row]:
    seconds = {name: statistics.median(found.wall) / STEPS for name, found in times.items()}
    name, signals = "step with all signals", "step with all signals (dense)"
    pairs = [
        ("2", f"{name} (topk) / SFT with the head on answer rows", "topk", "sft", 1.05, "1.02 to 1.04"),
        ("2", f"{name} (dense) / SFT with the head on answer rows", "dense", "sft", 1.12, "about 1.06"),
        *(("2b", f"{signals} / Trainer's SFT; {how}", "dense", each, 0.80, "") for each, how in TRAINERS.items()),
        *(("2b", f"our SFT / Trainer's SFT; {how}", "sft", each, None, "") for each, how in TRAINERS.items()),
        ("2c", f"{signals} / the same with the teacher in the loop", "dense", "online", 0.36, "0.33"),
    ]
    return [
        Row.of(
            number,
            what,
            shown,
            ratio(times[ours], times[theirs]),
            goal,
            limit=limit,
            note=notes.get(theirs, ""),
            details={"seconds": seconds},
        )
        for number, what, ours, theirs, goal, limit in pairs
    ]
