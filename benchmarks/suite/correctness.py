"""Whether each way to distil logits is what it says: its zero, its gradient's direction and length, its derivative.

Real logits: the embedded teacher and student on test prompts of the embedded tasks. Gradients are taken with respect to
the student's final hidden states, because fused losses form no logits that one could ask.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from glassbox.config.settings import Settings, Weights
from glassbox.models.loading import load_model, output_head
from glassbox.models.signals import packed_positions, position_signals
from glassbox.objective import Ingredients, Objective
from glassbox.snapshot.reader import Batch, Snapshot
from glassbox.tasks.sources import load_samples
from glassbox.training.student import Student, Trainee
from suite.adapters import losses
from suite.adapters.losses import Loss, Rows
from suite.embedded import captured, embedded_settings
from suite.row import Line

SAMPLES_PER_TASK = 8
DIRECTIONS = 3
STEP = 1e-2  # along unit normal directions: so large that a value summed in float32 still shows its change
Value = Callable[[Float[Tensor, "positions width"]], Tensor]
Way = Callable[[PreTrainedModel, float], Value]
PEERS: dict[str, tuple[Loss, str]] = {
    "TextBrewer kd_ce_loss": (losses.textbrewer_loss, "cross-entropy: a match leaves the teacher's entropy; no T^2"),
    "TRL generalized_jsd_loss, beta 0": (losses.trl_loss, "no T^2"),
    "Liger LigerFusedLinearJSDLoss, beta 0": (losses.liger_loss, "no T^2; its value is summed in float32"),
    "ModelOpt LogitsDistillationLoss": (
        losses.modelopt_loss,
        "its mean divides by the vocabulary, 930, too",
    ),
}
OURS = {
    "Glassbox dense": ("dense", "the teacher's hidden states as stored, in float16"),
    "Glassbox topk": ("topk", "64 of 930 logits as stored, in float16, and a tail"),
}


@dataclass(frozen=True)
class Case:
    """Test samples as a batch with their stored signals, and both models."""

    settings: Settings
    snapshot: Snapshot
    batch: Batch
    teacher: PreTrainedModel
    student: PreTrainedModel

    def rows(self, model: PreTrainedModel) -> Rows:
        """What a model itself says at the answer positions, nothing rounded."""
        batch = self.batch
        with torch.no_grad():
            signals = position_signals(
                model, batch.input_ids, batch.attention_mask, batch.first, batch.count, want_attention=False
            )
        return Rows(signals.hidden, _head(model))


def measure() -> list[Line]:
    settings = embedded_settings(train=1, validation=1, test=SAMPLES_PER_TASK)
    drawn = load_samples(settings.prepare)
    with captured(settings, drawn | {"validation": drawn["test"], "test": []}) as made:
        snapshot = made.snapshot
        ids = [sample.sample_id for sample in snapshot.samples("validation")]
        batch = snapshot.read(ids, frozenset({"hidden", "topk"}))
        case = Case(settings, snapshot, batch, load_model(settings.teacher), load_model(settings.student))
        ways = {name: (partial(_ours, case, target), note) for name, (target, note) in OURS.items()}
        ways |= {name: (partial(_theirs, case, loss), note) for name, (loss, note) in PEERS.items()}
        return [_line(case, name, way, note) for name, (way, note) in ways.items()]


def _theirs(case: Case, loss: Loss, model: PreTrainedModel, temperature: float) -> Value:
    teacher, weight = case.rows(case.teacher), _head(model)

    def value(hidden: Tensor) -> Tensor:
        return loss(Rows(hidden, weight.to(hidden.dtype)), teacher.to(hidden.dtype), temperature)

    return value


def _ours(case: Case, target: str, model: PreTrainedModel, temperature: float) -> Value:
    """The loss of a training step that distils logits alone, from the snapshot, as a mean over positions."""
    chosen = {"logits_target": target, "temperature": temperature}
    index, column = packed_positions(case.batch.first, case.batch.count)
    weight, bias = case.snapshot.head()

    def value(hidden: Tensor) -> Tensor:
        asked: Any = copy.deepcopy(model)
        asked.to(hidden.dtype)
        trainee = Trainee(Student(asked, {}, case.snapshot.vocabulary))
        objective = Objective(
            Weights(logits=1.0),
            case.settings.objective.model_copy(update=chosen),
            Ingredients((weight.to(hidden.dtype), bias), temperatures=case.snapshot.temperatures),
        )
        asked.base_model.register_forward_hook(partial(_put, hidden, index, column))
        each = torch.full((len(hidden),), 1.0 / len(hidden), dtype=hidden.dtype)
        return trainee(case.batch, each, objective)[0]

    return value


def _put(hidden: Tensor, index: Tensor, column: Tensor, _module: Any, _inputs: Any, output: Any) -> Any:
    """Replaces the final hidden states at the answer positions, so that a loss is a function of them."""
    output.last_hidden_state = output.last_hidden_state.detach().index_put((index, column), hidden)
    return output


def _naive(case: Case, temperature: float) -> Value:
    """T^2 KL(teacher || student), mean over positions, from its definition."""
    teacher, weight = case.rows(case.teacher).to(torch.float64), _head(case.student).double()
    p = torch.softmax(teacher.logits / temperature, -1)

    def value(hidden: Tensor) -> Tensor:
        q = torch.softmax(hidden @ weight.T / temperature, -1)
        return temperature**2 * (p * (p / q).log()).sum(-1).mean()

    return value


def _head(model: PreTrainedModel) -> Tensor:
    weight: Any = output_head(model).weight
    return weight.detach()


def _line(case: Case, name: str, way: Way, note: str) -> Line:
    teacher, student = case.rows(case.teacher).hidden, case.rows(case.student).hidden
    try:
        with torch.no_grad():
            match = float(way(case.teacher, 2.0)(teacher))
    except Exception as error:
        return Line({"loss": name, "note": f"not run: {type(error).__name__}: {error}"})
    found = {t: _gradient(way(case.student, t), student) for t in (1.0, 2.0)}
    exact = {t: _gradient(_naive(case, t), student.double()) for t in found}
    cosines = {t: float(torch.nn.functional.cosine_similarity(found[t], exact[t], dim=0)) for t in found}
    return Line(
        {
            "loss": name,
            "at student = teacher, T = 2": f"{match:.1e}",
            "cosine to dense KL, T = 1": f"{cosines[1.0]:.8f}",
            "T = 2": f"{cosines[2.0]:.8f}",
            "length of its gradient / T^2 KL's, T = 2": f"{float(found[2.0].norm() / exact[2.0].norm()):.6f}",
            "error to a numeric derivative": f"{_derivative_error(way(case.student, 2.0), student.double()):.0e}",
            "note": note,
        }
    )


def _gradient(value: Value, hidden: Tensor) -> Float[Tensor, " entries"]:
    leaf = hidden.clone().requires_grad_()
    value(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad.double().reshape(-1)


def _derivative_error(value: Value, hidden: Float[Tensor, "positions width"]) -> float:
    """Largest relative error of gradient x direction, against a five-point difference of the value, in float64."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    gradient = _gradient(value, hidden)
    for _ in range(DIRECTIONS):
        direction = torch.randn(hidden.shape, generator=generator, dtype=hidden.dtype)
        with torch.no_grad():
            far, near = ((_change(value, hidden, direction * STEP * steps) / (2 * STEP * steps)) for steps in (2, 1))
        numeric = (4 * near - far) / 3
        worst = max(worst, abs(float(gradient @ direction.reshape(-1)) / numeric - 1.0))
    return worst if math.isfinite(worst) else math.inf


def _change(value: Value, hidden: Tensor, step: Tensor) -> float:
    return float(value(hidden + step)) - float(value(hidden - step))
