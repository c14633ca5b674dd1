"""The student of a trial: the model, its projector where hidden states are distilled, and the folder it is saved to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, TrainSettings
from glassbox.models.loading import load_model, output_head, output_rows
from glassbox.models.signals import PositionSignals, position_signals
from glassbox.models.tokenizers import beginning_texts
from glassbox.objective import Objective
from glassbox.objective.head import Head
from glassbox.objective.hidden import Projector
from glassbox.randomness import derived_seed, generator_for
from glassbox.snapshot.reader import Batch


class Student(nn.Module):
    """Model and projector as one module, so that one optimizer, one clipping and one checkpoint hold both."""

    def __init__(self, model: PreTrainedModel, projector: Projector | None, vocabulary: int) -> None:
        super().__init__()
        self.model = model
        self.projector = projector
        self.vocabulary = vocabulary

    @property
    def head(self) -> Head:
        """The output layer without its padding past the vocabulary."""
        return Head(*output_rows(self.model, self.vocabulary))

    def forward(self, batch: Batch, want_attention: bool, reach: str = "answer") -> PositionSignals:
        """Signals at the batch's positions; attention rows at those that `reach` names, "answer" or "all"."""
        return position_signals(
            self.model,
            batch.input_ids,
            batch.attention_mask,
            batch.first,
            batch.count,
            want_attention=want_attention,
            attention_count=batch.counts(reach),
        )


def build_student(
    settings: ModelSettings,
    seed: int,
    vocabulary: int | None,
    teacher_width: int | None,
    *,
    dropout: float | None = None,
    replica: int = 0,
) -> Student:
    """The student before its first step; `teacher_width` None means that no hidden states are distilled.

    `vocabulary` None stands for all rows of the student's own output layer: no teacher shares them. `dropout` takes the
    place of the model's own in every layer that has one; `replica` draws another projector.

    Weights are float32 whatever the files hold: mixed precision needs full-precision master weights.
    """
    full = settings.model_copy(update={"dtype": "float32"})
    model = load_model(full, seed=derived_seed(seed, "student"))
    if dropout is not None:
        set_dropout(model, dropout)
    projector = None
    if teacher_width is not None:
        width = model.config.get_text_config().hidden_size
        projector = Projector(width, teacher_width, generator_for(seed, stream("projector", replica)))
    own: int = len(output_head(model).weight)  # type: ignore[arg-type]
    return Student(model, projector, own if vocabulary is None else vocabulary)


def stream(purpose: str, replica: int) -> str:
    """The purpose of a random stream; each replica of a group has its own."""
    return f"{purpose}/replica-{replica}" if replica else purpose


def set_dropout(model: nn.Module, probability: float) -> None:
    """Give every part of a model that drops what it computes this probability."""
    for module, name in _droppers(model):
        setattr(module, name, probability)


def dropout_of(model: nn.Module) -> float:
    """The highest probability by which any part of a model drops what it computes while it trains."""
    return float(max((getattr(module, name) for module, name in _droppers(model)), default=0.0))


def _droppers(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every dropout layer, and every module that drops by a number of its own (`*dropout`), with where that stands."""
    found: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            found.append((module, "p"))
        own = vars(module).items()
        found += [(module, name) for name, value in own if name.endswith("dropout") and isinstance(value, float | int)]
    return found


def build_optimizer(student: Student, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as is usual for norms and biases.

    On a CPU its fused kernel reads every weight once. Not on CUDA: there a fused step hides from Accelerate that the
    loss scaler of float16 skipped it.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kernel: dict[str, Any] = {"foreach": True} if torch.cuda.is_available() else {"fused": True}
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, **kernel)


def part_of(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of "model" or "projector", under the names that they have there."""
    return {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}


def save_student(
    student: Student, weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerFast, folder: Path, card: str
) -> None:
    """A plain Transformers folder; the projector lies beside the model, which opens without it."""
    student.model.save_pretrained(folder, state_dict=part_of(weights, "model"))
    beginning_texts(tokenizer).save_pretrained(folder)
    if student.projector is not None:
        state = {name: tensor.cpu().contiguous() for name, tensor in part_of(weights, "projector").items()}
        save_file(state, folder / "projector.safetensors")
    (folder / "README.md").write_text(card, encoding="utf-8")


class Trainee(nn.Module):
    """What is spread over processes: every use of a weight, the projector's too, lies within its forward."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        # The layers that are sharded one by one, under the name that Accelerate looks for
        self._no_split_modules = student.model._no_split_modules

    def forward(
        self,
        batch: Batch,
        weights: Mapping[str, Float[Tensor, " positions"]],
        objective: Objective,
        *,
        at_one: bool = False,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " positions"]]]:
        """The loss, and without gradients the components per position, KL at T = 1 among them where that is asked for.

        `objective` is that of the moment; its projector is the student's own.
        """
        signals = self.student(batch, objective.needs_attention, objective.positions["attention"])
        return objective.loss(signals, self.student.head, batch, weights, at_one=at_one)
