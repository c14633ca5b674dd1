"""Row 5: peak memory of the loss head, and of a whole training step, each contestant in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from glassbox.objective.head import Head, HeadTerms, head_losses
from glassbox.objective.logits import DenseTarget
from suite import shapes, step
from suite.measuring import peak_bytes
from suite.row import Row

WIDTH, TEACHER_WIDTH, VOCABULARY = 2_048, 4_096, 32_000  # the paper's own: two cores need no smaller ones here
TEMPERATURE, WEIGHT = 2.0, 0.5
MEBIBYTE = 2**20


def loss_head(contestant: str, trained: bool, rows: int) -> Callable[[], None]:
    """Cross-entropy and dense KL from the student's hidden states, with gradients of these and of the output layer."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    hidden = drawn(rows, WIDTH).requires_grad_()
    weight = drawn(VOCABULARY, WIDTH).requires_grad_(trained)
    teacher_hidden, teacher_weight = drawn(rows, TEACHER_WIDTH), drawn(VOCABULARY, TEACHER_WIDTH)
    labels = torch.randint(VOCABULARY, (rows,), generator=generator)
    loss = {"ours": ours, "plain": plain}[contestant]
    return lambda: loss(hidden, weight, teacher_hidden, teacher_weight, labels).backward()


def ours(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, labels: Tensor) -> Tensor:
    terms = HeadTerms(labels, {"logits": DenseTarget(teacher_hidden, teacher_weight, None)}, TEMPERATURE)
    mean = hidden.new_full((len(hidden),), 1 / len(hidden))
    return head_losses(hidden, Head(weight, None), terms, {"task": mean, "logits": WEIGHT * mean})[0]


def plain(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, labels: Tensor) -> Tensor:
    """Dense distillation as it is usually written: all logits of both at once."""
    logits = functional.linear(hidden, weight)
    teacher = functional.log_softmax(functional.linear(teacher_hidden, teacher_weight) / TEMPERATURE, dim=-1)
    student = functional.log_softmax(logits / TEMPERATURE, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * TEMPERATURE**2
    return functional.cross_entropy(logits, labels) + WEIGHT * divergence


def training(contestant: str) -> Callable[[], None]:
    """Steps from nothing: weights, gradients, moments, activations, batches, in ours the teacher's output layer."""
    steps = shapes.steps(step.STEPS)
    accumulation = shapes.BATCH // shapes.MICRO_BATCH
    contestants = {
        "ours": (lambda: step.OurStep("combined"), shapes.assembled),
        "Trainer": (lambda: step.TrainerStep(shapes.MICRO_BATCH, accumulation), step.as_ours),
        "Trainer as shipped": (lambda: step.TrainerStep(shapes.BATCH, 1), step.as_shipped),
    }
    build, batches_of = contestants[contestant]

    def work() -> None:
        update = build()
        for micro_batches in steps:
            update(batches_of(micro_batches))

    return work


def measure() -> list[Row]:
    return [*_loss_heads(), *_whole_steps()]


def _loss_heads() -> list[Row]:
    rows = shapes.most_answer_rows()
    described = (
        f"V {VOCABULARY:,}, width {WIDTH:,}, teacher's {TEACHER_WIDTH:,}, float32; {rows} answer rows, the most in a "
        "micro-batch of an epoch"
    )
    found = []
    for trained, name in ((False, "without"), (True, "with")):
        peaks = {
            contestant: peak_bytes("suite.memory:loss_head", contestant=contestant, trained=trained, rows=rows)
            for contestant in ("ours", "plain")
        }
        name = f"peak memory of the loss head / plain dense distillation, {name} the gradient of the output layer"
        found.append(_row(name, described, peaks, "plain", 0.15, "0.05"))
    held = "a chunk of positions is held in several arrays of chunk x V: logits, both distributions and gradients"
    gradient = f"{WIDTH * VOCABULARY * 4 / MEBIBYTE:.0f} MiB of either are the gradient itself"
    return [replace(row, note=note) for row, note in zip(found, (held, f"{gradient}; {held}"), strict=True)]


def _whole_steps() -> list[Row]:
    described = f"{shapes.DESCRIPTION}; {step.described(shapes.steps(step.STEPS))}; weights and batches count"
    peaks = {name: peak_bytes("suite.memory:training", contestant=name) for name in ("ours", *step.TRAINERS)}
    same = "weights, gradients, moments and the layers' activations, which both hold, are nearly all of it"
    rows = [
        _row(f"peak memory of training, all signals / Trainer's SFT; {how}", described, peaks, name, 0.90, "1")
        for name, how in step.TRAINERS.items()
    ]
    return [row if row.is_met else replace(row, note=same) for row in rows]


def _row(name: str, described: str, peaks: dict[str, int], theirs: str, goal: float, limit: str) -> Row:
    details = {f"{each}_MiB": peak / MEBIBYTE for each, peak in peaks.items()}
    return Row("5", name, described, peaks["ours"] / peaks[theirs], goal, limit=limit, details=details)
