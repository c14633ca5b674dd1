"""The student of a trial: the model, the projectors of the components that train one, and its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from glassbox.config.settings import ModelSettings, ObjectiveSettings, TrainSettings
from glassbox.models.loading import load_model, output_head, output_rows
from glassbox.models.signals import PositionSignals, position_signals
from glassbox.models.tokenizers import beginning_texts
from glassbox.objective import Objective
from glassbox.objective.head import Head
from glassbox.randomness import derived_seed
from glassbox.snapshot.reader import Batch
from glassbox.snapshot.schema import Format
from glassbox.training.ingredients import projectors_of


class Student(nn.Module):
    """Model and projectors as one module, so that one optimizer, one clipping and one checkpoint hold all."""

    def __init__(self, model: PreTrainedModel, projectors: Mapping[str, nn.Module], vocabulary: int) -> None:
        super().__init__()
        self.model = model
        self.projectors = nn.ModuleDict(projectors)  # by component
        self.vocabulary = vocabulary

    @property
    def head(self) -> Head:
        """The output layer without its padding past the vocabulary."""
        return Head(*output_rows(self.model, self.vocabulary))

    def forward(
        self,
        batch: Batch,
        asks: frozenset[str] = frozenset(),
        attention_reach: str = "answer",
        layers: tuple[int, ...] = (),
        relations_layer: int | None = None,
    ) -> PositionSignals:
        """Signals at the batch's positions, with what components ask for beside final hidden states.

        Attention rows are those at the positions that `attention_reach` names, "answer" or "all"; layers count from 1.
        """
        return position_signals(
            self.model,
            batch.input_ids,
            batch.attention_mask,
            batch.first,
            batch.count,
            want_attention="attention" in asks,
            attention_count=batch.counts(attention_reach),
            layers=layers,
            relations_layer=relations_layer,
        )


def build_student(
    settings: ModelSettings,
    seed: int,
    vocabulary: int | None,
    teacher: Format | None = None,
    components: Iterable[str] = (),
    objective: ObjectiveSettings | None = None,
    *,
    dropout: float | None = None,
    replica: int = 0,
) -> Student:
    """The student before its first step, with the projectors that `components` of `objective` train towards `teacher`.

    `vocabulary` None stands for all rows of the student's own output layer: no teacher shares them. `dropout` takes the
    place of the model's own in every layer that has one; `replica` draws other projectors.

    Weights are float32 whatever the files hold: mixed precision needs full-precision master weights.
    """
    full = settings.model_copy(update={"dtype": "float32"})
    model = load_model(full, seed=derived_seed(seed, "student"))
    if dropout is not None:
        set_dropout(model, dropout)
    projectors = (
        {}
        if teacher is None or objective is None
        else projectors_of(model, teacher, components, objective, seed, replica)
    )
    own: int = len(output_head(model).weight)  # type: ignore[arg-type]
    return Student(model, projectors, own if vocabulary is None else vocabulary)


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
    """The weights of "model" or "projectors", under the names that they have there."""
    return {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}


def save_student(
    student: Student, weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerFast, folder: Path, card: str
) -> None:
    """A plain Transformers folder; the projectors lie beside the model, which opens without them."""
    student.model.save_pretrained(folder, state_dict=part_of(weights, "model"))
    beginning_texts(tokenizer).save_pretrained(folder)
    if len(student.projectors):
        state = {name: tensor.cpu().contiguous() for name, tensor in part_of(weights, "projectors").items()}
        save_file(state, folder / "projectors.safetensors")
    (folder / "README.md").write_text(card, encoding="utf-8")


class Trainee(nn.Module):
    """What is spread over processes: every use of a weight, a projector's too, lies within its forward."""

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
        loads: Float[Tensor, " experts"] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and without gradients the components per position, KL at T = 1 among them where that is asked for.

        `objective` is that of the moment; its projectors are the student's own. With `loads` the gradient of the
        router's loss takes the place of the loss, and its terms that of the components (objective/mixture.py).
        """
        asks, own = objective.asks, objective.ingredients
        signals = self.student(
            batch,
            asks,
            objective.reach_of("attention"),
            own.student_layers if "layers" in asks else (),
            own.student_relations_layer if "relations" in asks else None,
        )
        if loads is not None:
            return objective.router_gradient(signals, self.student.head, batch, weights, loads)
        return objective.loss(signals, self.student.head, batch, weights, at_one=at_one)
